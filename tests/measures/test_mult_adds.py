"""Mult-adds against counts made by hand."""

import pytest
import torch
from torch import nn

from ttq_plugin.measures.mult_adds import count, tally

from .nets import BlockCNN, Encoder, MnistCNN, set_codes


def total(model, x):
    return sum(count(model, x).values())


def test_mnist_cnn_by_hand():
    counts = count(MnistCNN(), torch.randn(4, 1, 20, 20))
    assert counts == {"conv1": 260 * 16 * 16, "conv2": 5_020 * 4 * 4, "fc1": 4_050, "fc2": 510}


def test_only_nonzeros_count():
    layer = nn.Conv2d(2, 4, 3, padding=1, stride=2, groups=2)
    set_codes(layer.weight, 30)
    nn.init.zeros_(layer.bias)
    assert layer.weight.numel() == 36
    assert total(layer, torch.randn(3, 2, 8, 8)) == 6 * 16


@pytest.mark.parametrize(
    ("layer", "shape", "expected"),
    [
        (nn.Conv1d(2, 3, 4), (5, 2, 10), (24 + 3) * 7),
        (nn.Conv3d(1, 2, 2), (1, 1, 3, 3, 3), (16 + 2) * 8),
        (nn.ConvTranspose1d(2, 3, 4, stride=2), (5, 2, 6), 24 * 6 + 3 * 14),
        (nn.ConvTranspose2d(2, 3, 3, bias=False), (2, 2, 5, 5), 54 * 25),
        (nn.Linear(4, 6), (2, 7, 4), (24 + 6) * 7),
        (nn.BatchNorm2d(3), (2, 3, 4, 4), 48),
        (nn.LayerNorm(5, elementwise_affine=False), (2, 3, 5), 15),
    ],
)
def test_layers_by_hand(layer, shape, expected):
    assert total(layer, torch.randn(shape)) == expected


def test_a_layer_used_twice_counts_twice():
    layer = nn.Linear(4, 4)
    assert total(nn.Sequential(layer, layer), torch.randn(3, 4)) == 2 * 20


def test_2d_cnn_by_hand():
    torch.manual_seed(0)  # of 1.5 million random weights one may be exactly zero
    model = BlockCNN(1, 2_048, 2)
    maps = [(32 * 37, 1, 64), (16 * 18, 64, 128), (8 * 9, 128, 256), (4 * 4, 256, 512)]
    expected = sum(p * (9 * a * b + b) + p * b for p, a, b in maps) + 2 * 2_048 + 2
    # BatchNorm's own parameters are used by its rule, whatever their values; biases here are not zero.
    assert total(model, torch.randn(2, 1, 32, 37)) == expected


def encoder_by_hand(tokens, width, hidden):
    projections = 4 * width * width * tokens  # in_proj (3) and out_proj; their biases start at zero
    products = 2 * tokens * tokens * width
    feed_forward = (2 * width * hidden + hidden + width) * tokens
    return projections + products + feed_forward + 2 * tokens * width


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("grad", [True, False])
def test_encoder_layer_by_hand_whatever_the_mode(training, grad):
    model = Encoder(8, 2, 6).train(training)
    with torch.set_grad_enabled(grad):
        counts = count(model, torch.randn(3, 5, 8))
    assert sum(counts.values()) == encoder_by_hand(5, 8, 6) + 3 * 8 + 3
    assert counts["layer.self_attn"] == 3 * 64 * 5 + 2 * 25 * 8
    assert counts["layer.self_attn.out_proj"] == 64 * 5
    assert counts["layer.linear1"] == (48 + 6) * 5


def test_stack_of_encoder_layers():
    layer = nn.TransformerEncoderLayer(8, 2, 6, batch_first=True)
    model = nn.TransformerEncoder(layer, 3).eval()
    assert total(model, torch.randn(2, 5, 8)) == 3 * encoder_by_hand(5, 8, 6)


def test_the_fused_path_is_really_what_hides_the_layers():
    """If torch stops fusing, `untouched` need not switch it off."""
    model, called = Encoder().eval(), []
    model.layer.linear1.forward = lambda x: called.append(1)
    with torch.no_grad():
        model(torch.randn(3, 5, 8))
    assert called == []


def test_cross_attention_with_other_widths_and_extra_keys():
    class Cross(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.MultiheadAttention(8, 2, kdim=3, vdim=4, add_bias_kv=True, add_zero_attn=True)

        def forward(self, x):  # (batch, 5, 8), the attention wants (sequence, batch, width)
            x = x.transpose(0, 1)
            return self.a(x, key=x[:4, :, :3], value=x[:4, :, :4])[0].transpose(0, 1)

    counts = count(Cross(), torch.randn(2, 5, 8))
    assert counts == {"a": 64 * 5 + 24 * 4 + 32 * 4 + 2 * 5 * 6 * 8, "a.out_proj": 64 * 5}


def test_modules_whose_multiplications_have_no_rule_are_named():
    model = nn.Sequential(nn.Linear(2, 2), nn.PReLU(), nn.ReLU(), nn.Embedding(3, 2))
    assert tally(model[:3], torch.randn(3, 2)).uncounted == ("1 (_prelu_kernel)",)
    assert tally(model[3:], torch.zeros(3, 1, dtype=torch.long)).uncounted == ()
