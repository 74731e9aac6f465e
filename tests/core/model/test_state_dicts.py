"""What is learned, in state dicts and files: shared thresholds once, shared again after loading, and of one method."""

from __future__ import annotations

import copy

import pytest
import torch
from safetensors.torch import load_file, load_model, save_file, save_model
from torch import nn
from torch.optim.swa_utils import AveragedModel

from ttq_plugin.core import METHODS
from ttq_plugin.core.model.attach import bake, parameter_groups, ternarize

X = torch.randn(8, 16, generator=torch.Generator().manual_seed(0))
SHARED = "pttq-global"


def plain(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, 4))


LAYERS = ["4", "0", "2"]
"""The first, whose name the thresholds bear, is not the first in the model."""


def made(method=SHARED, seed=0, **options):
    return ternarize(plain(seed), LAYERS, method, **options)


def trained(method=SHARED):
    model = made(method)
    optimizer = torch.optim.SGD(parameter_groups(model, lr_threshold=0.01), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        model(X).square().sum().backward()
        optimizer.step()
    return model


def thresholds(model):
    return [model[int(name)].parametrizations.weight[0].thresholds for name in LAYERS]


def assert_one(model):
    first, *others = thresholds(model)
    assert isinstance(first, nn.Parameter) and all(other is first for other in others)
    assert sum(p is first for p in model.parameters()) == 1


def test_a_state_dict_holds_them_once():
    model = trained()
    keys = [key for key in model.state_dict() if key.endswith("thresholds")]
    assert keys == ["4.parametrizations.weight.0.thresholds"]
    assert len([key for key in made("pttq").state_dict() if key.endswith("thresholds")]) == 3


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("older", [False, True])
def test_loaded_they_are_shared_again(assign, older):
    model, other = trained(), made(seed=1)
    state = copy.deepcopy(model.state_dict())
    if older:  # under every name, without the method's
        state = {k: v for k, v in state.items() if not k.endswith("_extra_state")}
        state |= {f"{n}.parametrizations.weight.0.thresholds": thresholds(model)[0].detach().clone() for n in LAYERS}
    result = other.load_state_dict(state, assign=assign)
    assert not result.missing_keys and not result.unexpected_keys
    assert_one(other)
    assert torch.equal(other(X), model(X)) and torch.equal(bake(other)[2].weight, bake(model)[2].weight)
    other(X).sum().backward()
    torch.optim.SGD(other.parameters(), lr=0.1).step()
    assert_one(other)
    with pytest.raises(RuntimeError, match="Missing key.*4.parametrizations.weight.0.thresholds"):
        other.load_state_dict({k: v for k, v in state.items() if not k.endswith("thresholds")})


def test_safetensors(tmp_path):
    model = trained()
    save_file(model.state_dict(), tmp_path / "m.safetensors")
    other = made(seed=1)
    other.load_state_dict(load_file(tmp_path / "m.safetensors"))
    assert torch.equal(other(X), model(X))
    assert_one(other)
    save_model(model, tmp_path / "n.safetensors")
    another = made(seed=2)
    load_model(another, tmp_path / "n.safetensors")
    assert torch.equal(another(X), model(X))
    assert_one(another)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.double(),
        copy.deepcopy,
        lambda m: AveragedModel(m).module,
        lambda m: m.to_empty(device="meta"),
        lambda m: m.to("meta").to_empty(device="cpu"),
        lambda m: m.requires_grad_(False).requires_grad_(True),
    ],
)
def test_moved_and_copied_they_stay_one(change):
    assert_one(change(trained()))


def test_huggings_face_s_models(tmp_path):
    transformers = pytest.importorskip("transformers")

    class Model(transformers.PreTrainedModel):
        config_class = transformers.PretrainedConfig

        def __init__(self, config):
            super().__init__(config)
            self.net = plain()
            self.post_init()

        def forward(self, x):
            return self.net(x)

    names = [f"net.{name}" for name in LAYERS]
    model = ternarize(Model(transformers.PretrainedConfig()), names, SHARED)
    model.save_pretrained(tmp_path)
    other = ternarize(Model(transformers.PretrainedConfig()), names, SHARED)
    other.load_state_dict(load_file(tmp_path / "model.safetensors"))
    assert torch.equal(other(X), model(X))
    assert_one(other.net)


# Of one method


@pytest.mark.parametrize(
    "theirs, ours", [("attq", "pttq"), ("pttq", "attq"), ("ttq", "pttq-symmetric"), ("ttq", "twn")]
)
@pytest.mark.parametrize("strict", [True, False])
def test_a_state_dict_of_another_method_is_refused(theirs, ours, strict):
    model, state = made(ours), trained(theirs).state_dict()
    before = {k: v.clone() for k, v in model.state_dict().items() if "weight.0." in k}
    with pytest.raises(RuntimeError, match=f"0.parametrizations.weight.0 is of the method '{theirs}', .* '{ours}'"):
        model.load_state_dict(state, strict=strict)
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items() if k in before)


@pytest.mark.parametrize("method", METHODS)
def test_a_state_dict_of_the_same_method_goes_round(method):
    model, other = trained(method), made(method, seed=1)
    assert other.load_state_dict(model.state_dict()).missing_keys == []
    assert torch.equal(other(X), model(X))
