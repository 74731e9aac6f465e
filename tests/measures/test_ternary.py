import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ttq_plugin.errors import InputError
from ttq_plugin.measures import measure
from ttq_plugin.measures.ternary import codes_of

from .nets import MnistCNN, Tied, set_codes, ternary_twin

X = torch.randn(2, 1, 20, 20)


@given(st.lists(st.sampled_from([-1, 0, 1]), min_size=1, max_size=40), st.floats(1e-3, 10), st.floats(1e-3, 10))
def test_codes_come_back(values, positive, negative):
    codes = torch.tensor(values)
    weight = torch.where(codes > 0, positive, torch.where(codes < 0, -negative, 0.0))
    assert torch.equal(codes_of(weight).values, codes.to(torch.int8))
    assert torch.equal(codes_of(-weight).values, -codes.to(torch.int8))


@pytest.mark.parametrize("bad", [[1.0, 2.0, 3.0, 0.0], [float("nan"), 1.0, 0.0], [float("inf"), 0.0, 0.0], []])
def test_not_ternary(bad):
    assert codes_of(torch.tensor(bad)) is None
    assert codes_of(-torch.tensor(bad)) is None


def test_kinds():
    assert codes_of(torch.tensor([1.0, -1.0, 1.0])).kind == "binary"
    assert codes_of(torch.tensor([1.0, -2.0, 1.0])).kind == "ternary"
    assert codes_of(torch.zeros(4)).kind == "ternary"


def test_detection_is_per_layer_per_channel_and_only_where_changed():
    model = nn.Sequential(
        nn.Conv1d(1, 2, 3), nn.ConvTranspose1d(2, 3, 4), nn.Linear(4, 4), nn.Linear(4, 2), nn.Linear(2, 1)
    )
    set_codes(model[3].weight, 2)  # ternary before as well: not selected
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin[0].weight.copy_(torch.tensor([[[0.5, 0, -1]], [[0.25, 0.25, -2]]]))
        twin[1].weight.copy_(torch.sign(model[1].weight) * torch.tensor([1.0, 2.0, 3.0])[None, :, None])
        twin[2].weight.add_(0.1)  # changed, not ternary
        twin[4].weight.copy_(torch.tensor([[0.5, -0.25]]))  # two weights prove nothing
    report = measure(model, twin, torch.randn(5, 1, 3))
    assert [(row.name, row.kind, row.scales) for row in report.selected] == [("0", "ternary", 4), ("1", "binary", 3)]
    assert [r.name for r in measure(model, twin, torch.randn(5, 1, 3), layers=["4", "0"]).selected] == ["0", "4"]


def test_shared_weight_is_stored_once_and_used_twice():
    model = Tied()
    twin = copy.deepcopy(model)
    set_codes(twin.a.weight, 10)
    report = measure(model, twin, torch.randn(3, 4), layers=["b"])
    assert report.bits_fp32 == 32 * 16
    assert report.bits("coo34") == 6 * 34 + 64
    assert (report.mult_adds, report.mult_adds_fp32) == (12, 32)
    assert [row.weights for row in report.selected] == [16, 0]


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (["fc1"], "'fc1' must hold at most one positive and one negative value.*got 4000 distinct.*bake or export"),
        (["nowhere"], "must name layers of the model, got 'nowhere'; it has conv1, conv2, fc1, fc2"),
        ([""], "Layer 'conv2' must hold at most one positive and one negative value"),  # all layers of the model
        ([], "needs at least one ternary or binary layer.*name one in `layers`"),
    ],
)
def test_wrong_layers(layers, message):
    model = MnistCNN()
    twin = ternary_twin(model, ["conv1"], 100)
    with torch.no_grad():
        twin.fc1.weight.copy_(torch.arange(4000.0).view(50, 80))
    with pytest.raises(InputError, match=message):
        measure(model, twin, X, layers=layers)


def test_wrong_models_and_inputs():
    model = MnistCNN()
    with pytest.raises(InputError, match="needs at least one ternary or binary layer.*got none"):
        measure(model, copy.deepcopy(model), X)
    with pytest.raises(InputError, match="same parameters, got models that differ in .*bake or export"):
        measure(model, nn.Linear(3, 3), X)
    twin = ternary_twin(model, ["conv1"], 100)
    with pytest.raises(InputError, match=r"must run on `example_input`.*float32 \(2, 3\)"):
        measure(model, twin, torch.randn(2, 3))
    with pytest.raises(InputError, match="with at least one sample"):
        measure(model, twin, X[:0])
