"""Mult-adds at the dispatcher: torch's own counter and counts by hand as oracles."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import parametrize, prune
from torch.utils.flop_counter import FlopCounterMode

from tests.zoo import networks as zoo
from ttq_plugin.measures import measure
from ttq_plugin.measures.mult_adds import count, tally

from .nets import set_codes


def test_the_lstm_by_hand(shared):
    torch.manual_seed(0)
    matrices = 4 * 128 * (32 + 128) + 4 * 128 * (128 + 128)
    found = count(zoo.network("lstm"), zoo.samples("lstm", 3))
    assert found == {"r": 20 * (matrices + 2 * 2 * 4 * 128), "fc1": 128 * 64 + 64, "fc": 650}


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("options", [{}, {"bidirectional": True, "num_layers": 2}])
@pytest.mark.parametrize("kind, gates", [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)])
def test_recurrent_layers_by_hand(kind, gates, options, bias, batch_first):
    torch.manual_seed(0)
    model = kind(3, 5, bias=bias, batch_first=batch_first, **options)
    steps, batch = 6, 2
    ways, layers = 1 + bool(options), options.get("num_layers", 1)
    by_hand = 0
    for layer in range(layers):
        width = 3 if layer == 0 else 5 * ways
        by_hand += ways * steps * gates * 5 * (width + 5 + 2 * bias)
    shape = (batch, steps, 3) if batch_first else (steps, batch, 3)
    # What is counted a sample is the total by the leading dimension, which here are the steps if not batch_first.
    assert count(model, torch.randn(shape)) == {"": by_hand * batch // shape[0]}


@pytest.mark.parametrize("kind, gates", [(nn.LSTMCell, 4), (nn.GRUCell, 3), (nn.RNNCell, 1)])
def test_recurrent_cells_by_hand(kind, gates):
    torch.manual_seed(0)
    assert count(kind(3, 5), torch.randn(2, 3)) == {"": gates * 5 * (3 + 5 + 2)}


@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_an_lstm_with_a_projection_by_hand():
    torch.manual_seed(0)
    found = count(nn.LSTM(3, 5, proj_size=2, batch_first=True), torch.randn(2, 7, 3))
    assert found == {"": 7 * (4 * 5 * (3 + 2 + 2) + 5 * 2)}


class Hand(nn.Module):
    """Attention by hand: `way` computes the products."""

    def __init__(self, way, width=12, heads=3):
        super().__init__()
        self.way, self.heads = way, heads
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)

    def forward(self, x):
        batch, length, width = x.shape
        q, k, v = (t.view(batch, length, self.heads, -1).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
        return self.out(self.way(q, k, v).transpose(1, 2).reshape(x.shape))


def einsums(q, k, v):
    weights = torch.einsum("bhld,bhsd->bhls", q, k).softmax(-1)
    return torch.einsum("bhls,bhsd->bhld", weights, v)


def matmuls(q, k, v):
    return (q @ k.transpose(-1, -2)).softmax(-1) @ v


def bmms(q, k, v):
    flat = [t.flatten(0, 1) for t in (q, k, v)]
    return torch.bmm(torch.bmm(flat[0], flat[1].mT).softmax(-1), flat[2]).view(q.shape)


def sdpa(q, k, v):
    return F.scaled_dot_product_attention(q, k, v)


def causal(q, k, v):
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def by_math(q, k, v):
    with sdpa_kernel(SDPBackend.MATH):
        return F.scaled_dot_product_attention(q, k, v)


@pytest.mark.parametrize("way", [einsums, matmuls, bmms, sdpa, causal, by_math])
def test_attention_by_hand_however_it_is_written(way):
    torch.manual_seed(0)
    found = count(Hand(way), torch.randn(2, 10, 12))
    assert found == {"qkv": 10 * 3 * 144, "out": 10 * 144, "": 2 * 10 * 10 * 12}


def test_grouped_queries_and_values_of_another_width():
    class Grouped(nn.Module):
        def forward(self, x):  # 4 heads of queries, 2 of keys and values
            return F.scaled_dot_product_attention(x, x[:, :2, :6], x[:, :2, :6, :5], enable_gqa=True)

    assert count(Grouped(), torch.randn(3, 4, 9, 8)) == {"": 4 * 9 * 6 * (8 + 5)}


def test_ternary_operands_count_by_their_nonzeros():
    torch.manual_seed(0)
    lstm = nn.LSTM(3, 5, batch_first=True, bias=False)
    set_codes(lstm.weight_ih_l0, 50)
    set_codes(lstm.weight_hh_l0, 33)
    assert count(lstm, torch.randn(2, 7, 3)) == {"": 7 * (60 - 50 + 100 - 33)}
    gru = nn.GRU(3, 5, batch_first=True, bias=False)
    set_codes(gru.weight_hh_l0, 33)
    assert count(gru, torch.randn(2, 7, 3)) == {"": 7 * (45 + 75 - 33)}
    attention = Hand(sdpa)
    set_codes(attention.qkv.weight, 400)
    assert count(attention, torch.randn(2, 10, 12))["qkv"] == 10 * (432 - 400)
    torchs_own = nn.TransformerEncoderLayer(8, 2, 6, batch_first=True)
    set_codes(torchs_own.self_attn.in_proj_weight, 100)
    set_codes(torchs_own.self_attn.out_proj.weight, 60)
    found = count(torchs_own, torch.randn(2, 5, 8))
    assert found["self_attn"] == (192 - 100) * 5 + 2 * 25 * 8 and found["self_attn.out_proj"] == 4 * 5


class Functional(nn.Module):
    """Weights that no module multiplies: parameters of the model itself."""

    def __init__(self, way):
        super().__init__()
        self.way = way
        self.w = nn.Parameter(torch.zeros(6, 4))
        self.b = nn.Parameter(torch.tensor([1.0, 0, 2, 0, 0, 3]))
        self.register_buffer("mask", torch.ones(6, 4))
        set_codes(self.w, 17)

    def forward(self, x):
        return self.way(self, x)


@pytest.mark.parametrize(
    "way, expected",
    [
        (lambda m, x: F.linear(x, m.w), 5 * 7),
        (lambda m, x: F.linear(x, m.w, m.b), 5 * (7 + 3)),
        (lambda m, x: x @ m.w.T + m.b, 5 * (7 + 3)),
        (lambda m, x: (m.w @ x.mT).mT, 5 * 7),
        (lambda m, x: torch.einsum("oi,bti->bto", m.w, x), 5 * 7),
        (lambda m, x: torch.addmm(m.b, x.flatten(0, 1), m.w.T).view(-1, 5, 6), 5 * (7 + 3)),
        (lambda m, x: torch.stack([m.w @ row for row in x.flatten(0, 1)]).view(-1, 5, 6), 5 * 7),
        (lambda m, x: F.linear(x, m.w * m.mask), 5 * 7),
        (lambda m, x: F.linear(x, torch.where(m.w > 0, m.w, 0)), None),
        (lambda m, x: F.linear(x.bfloat16(), m.w.bfloat16()), 5 * 7),
        (lambda m, x: F.conv1d(x.mT, m.w.unsqueeze(-1), m.b), 5 * (7 + 3)),
        (lambda m, x: F.linear(x, m.w) * m.b, 5 * (7 + 3)),
        (lambda m, x: F.layer_norm(F.linear(x, m.w), (6,)), 5 * (7 + 6)),
    ],
)
def test_functions_by_hand(way, expected):
    model = Functional(way)
    if expected is None:
        expected = 5 * int((model.w > 0).sum())
    assert count(model, torch.randn(3, 5, 4)) == {"": expected}


def test_a_product_of_two_weights_counts_the_pairs_of_nonzeros():
    model = Functional(lambda m, x: F.linear(x, m.w @ m.w.T)[..., :1])
    # (6, 4) times (4, 6): a column's non-zeros times a row's, which is the same here.
    pairs = int(((model.w != 0).sum(0) ** 2).sum())
    merged = int(torch.count_nonzero(model.w.detach() @ model.w.detach().T))
    assert count(model, torch.randn(1, 5, 6)) == {"": pairs + 5 * merged}


def test_activations_written_over_constants_and_weights_count_whole():
    def way(m, x):
        buffer = torch.zeros(5, 6, 4)
        buffer[:, :5] = x[:1]
        copied = m.w.clone()
        copied[:5] += x[0]
        return F.linear(buffer, torch.ones(2, 4)), x[0] @ copied.T

    assert count(Functional(way), torch.randn(1, 5, 4)) == {"": 5 * 6 * 4 * 2 + 5 * 4 * 6}


def test_zeros_among_activations_count():
    assert count(nn.Sequential(nn.Linear(4, 6, bias=False)), torch.zeros(2, 4)) == {"0": 24}


class Half(nn.Module):
    def forward(self, w):
        return torch.where(w > 0, w, 0)


def test_parametrised_and_pruned_weights_count_by_what_is_multiplied():
    torch.manual_seed(0)
    layer = nn.Linear(8, 6, bias=False)
    positive = int((layer.weight > 0).sum())
    parametrize.register_parametrization(layer, "weight", Half())
    assert count(nn.Sequential(layer), torch.randn(2, 8)) == {"0": positive}
    pruned = nn.Sequential(nn.Linear(8, 6))
    prune.l1_unstructured(pruned[0], "weight", amount=30)
    assert count(pruned, torch.randn(2, 8)) == {"0": 18 + 6}


def test_torchs_counter_leaves_fused_attention_on_a_cpu_out():
    """If it no longer does, the oracle above needs no switch."""
    x, counter = torch.randn(1, 2, 8, 4), FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        sdpa(x, x, x)
    assert counter.get_total_flops() == 0
    assert count(Functional(lambda m, x: sdpa(x, x, x)), x) == {"": 2 * 8 * 8 * 8}


@pytest.mark.parametrize(
    "model, x, named",
    [
        (Functional(lambda m, x: torch.fft.rfft(x).abs()), torch.randn(2, 4), "the model (_fft_r2c)"),
        (Functional(lambda m, x: torch.cdist(x, x)), torch.randn(2, 4, 4), "the model (_cdist_forward)"),
        (nn.Sequential(nn.PReLU()), torch.randn(2, 4), "0 (_prelu_kernel)"),
        (Functional(lambda m, x: F.bilinear(x, x, m.w.view(1, 4, 6)[..., :4])), torch.randn(2, 4), "_trilinear"),
    ],
)
def test_what_is_not_counted_is_named(model, x, named):
    (found,) = tally(model, x).uncounted
    assert named in found


@pytest.mark.parametrize("grad", [True, False])
def test_the_model_comes_back_without_hooks_also_after_an_error(grad):
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(3, 3))
    with torch.set_grad_enabled(grad), pytest.raises(ValueError, match="must run on"):
        count(model, torch.randn(2, 4))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert count(model[:1], torch.randn(2, 4)) == {"0": 20}


def test_a_report_of_several_inputs_counts_attention_and_names_the_rest():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.act = nn.Linear(8, 8, bias=False), nn.PReLU()

        def forward(self, x, context):
            return self.act(F.scaled_dot_product_attention(self.a(x), context, context))

    torch.manual_seed(0)
    model = Two()
    twin = copy.deepcopy(model)
    set_codes(twin.a.weight, 40)
    x, context = torch.randn(3, 5, 8), torch.randn(3, 6, 8)
    for given in ((x, context), {"x": x, "context": context}):
        report = measure(model, twin, given)
        products = 2 * 5 * 6 * 8
        assert (report.mult_adds, report.mult_adds_fp32) == (5 * 24 + products, 5 * 64 + products)
        assert report.uncounted == ("act (_prelu_kernel)",)
        assert "mult-adds not counted: act (_prelu_kernel)" in str(report)


def test_a_matrix_of_several_has_its_own_share():
    torch.manual_seed(0)
    lstm = nn.LSTM(3, 5, batch_first=True)
    set_codes(lstm.weight_hh_l0, 33)
    expected = {"weight_ih_l0": 7 * 60, "weight_hh_l0": 7 * 67, "bias_ih_l0": 7 * 20, "bias_hh_l0": 7 * 20}
    assert tally(lstm, torch.randn(2, 7, 3)).parameters == expected
    encoder = nn.TransformerEncoderLayer(8, 2, 6, batch_first=True)
    found = tally(encoder, torch.randn(2, 5, 8))
    assert found.parameters["self_attn.in_proj_weight"] == 5 * 192
    assert found.parameters["self_attn.out_proj.weight"] == 5 * 64
    assert found.mult_adds["self_attn"] - 5 * 192 == 2 * 25 * 8


def test_matrices_in_one_piece_of_memory_are_told_apart():
    """As a recurrent layer keeps them on a GPU."""
    model = nn.Sequential(nn.Linear(4, 6, bias=False), nn.Linear(6, 3, bias=False))
    whole = torch.ones(42)
    model[0].weight.data, model[1].weight.data = whole[:24].view(6, 4), whole[24:].view(3, 6)
    found = tally(model, torch.randn(2, 4))
    assert found.mult_adds == {"0": 24, "1": 18} and found.parameters == {"0.weight": 24, "1.weight": 18}


def test_rows_of_a_report_share_a_recurrent_layers_mult_adds():
    torch.manual_seed(0)
    model = nn.GRU(3, 5, batch_first=True)
    twin = copy.deepcopy(model)
    set_codes(twin.weight_hh_l0, 33)
    report = measure(model, twin, torch.randn(2, 7, 3))
    rows = {row.name: (row.kind, row.mult_adds, row.mult_adds_fp32) for row in report.layers}
    assert rows == {
        "weight_ih_l0": ("float", 7 * 45, 7 * 45),
        "weight_hh_l0": ("ternary", 7 * 42, 7 * 75),
        "": ("float", 7 * 30, 7 * 30),
    }
    assert (report.mult_adds, report.mult_adds_fp32) == (7 * 117, 7 * 150)
