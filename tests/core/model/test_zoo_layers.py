"""Every weight matrix of twenty networks made ternary, trained, baked, copied and saved, at both granularities."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from safetensors.torch import load_model, save_model
from torch import nn

from tests.core import zoo
from ttq_plugin.core import bake, parameter_groups, ternarize
from ttq_plugin.core.model.matrices import matrices
from ttq_plugin.core.model.parametrized import attached_tensors, states

pytestmark = pytest.mark.usefixtures("shared")
GRANULARITIES = ("default", "out_channel")
OPTIONS = {"t_min": 0.5, "t_max": 0.5, "on_empty": "clip"}
SMALLEST_CHANNEL = 32
"""Channels of fewer weights may lack a sign, or have all of one between zero and pTTQ's lowest threshold, |mean|, which
is refused: such layers stay in full precision here."""
UNUSED = {"dictio": {"g.weight"}, "dictout": {"g.weight"}, "flow": {"b.weight", "c.weight"}}
"""Layers that the loss does not depend on, one of flow's two."""


def tensors(model):
    """(name, module, key) of every weight matrix by the names that torch and Transformers give them, once each."""
    seen, found = set(), []
    for path, module in model.named_modules():
        for key, parameter in module.named_parameters(recurse=False):
            named = key == "weight" or key.startswith("weight_") or key.endswith("_weight")
            if named and parameter.dim() > 1 and parameter not in seen:
                seen.add(parameter)
                found.append((f"{path}.{key}", module, key))
    return found


def groups(weight, module, key, granularity):
    """The values that share a pair of scales, one row a group."""
    if granularity == "default":
        return weight.reshape(3 if key == "in_proj_weight" else 1, -1)
    columns = isinstance(module, (nn.ConvTranspose2d, nn.Embedding)) or "Conv1D" in type(module).__name__
    return (weight.transpose(0, 1) if columns else weight).flatten(1)


def chosen(model, granularity):
    return [
        row
        for row in tensors(model)
        if groups(row[1].get_parameter(row[2]), row[1], row[2], granularity).shape[1] >= SMALLEST_CHANNEL
        or granularity == "default"
    ]


def ternary(name, granularity, seed=0):
    model = zoo.network(name, seed)
    return ternarize(model, [row[0] for row in chosen(model, granularity)], granularity=granularity, **OPTIONS)


def optimizer(model):
    return torch.optim.Adam(parameter_groups(model, 1e-3, 1e-3), lr=1e-3)


@pytest.mark.parametrize("name", zoo.NAMES)
def test_every_weight_matrix_is_found(name):
    model = zoo.network(name)
    found = [id(matrix.parameter) for matrix in matrices(model).values()]
    assert found == [id(module.get_parameter(key)) for _, module, key in tensors(model)]


@pytest.mark.filterwarnings("ignore:.*thresholds lowered")
@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("name", zoo.NAMES)
def test_a_network_trains_and_bakes_to_three_values(name, granularity):
    plain, model = zoo.network(name), ternary(name, granularity)
    attached = {f"{p}.{k}": (m, k, m.parametrizations[k]) for p, m, k in attached_tensors(model)}
    latent = {path: parts.original.detach().clone() for path, (_, _, parts) in attached.items()}
    zoo.train(name, model, optimizer(model))
    baked = bake(model.eval())
    assert list(baked.state_dict()) == list(plain.state_dict())
    assert [n for n, _ in baked.named_parameters()] == [n for n, _ in plain.named_parameters()]
    assert [type(m).__name__ for m in baked.modules()] == [type(m).__name__ for m in plain.modules()]
    for path, (module, key, parts) in attached.items():
        moved = not torch.equal(latent[path], parts.original)
        assert moved or path in UNUSED.get(name, ()), path
        scales = torch.cat([state.scales.detach().reshape(2, -1) for state in states(parts)], 1)
        rows = groups(baked.get_parameter(path).detach(), module, key, granularity)
        assert len(rows) == scales.shape[1]
        for row, (positive, negative) in zip(rows, scales.T.tolist(), strict=True):
            values = set(row.unique().tolist())
            # A channel's few weights may all have left one of the three sets in training.
            assert values <= {-negative, 0.0, positive} and len(values) >= (3 if granularity == "default" else 2), path
    # torch takes other kernels, whose sums round otherwise, where weights require gradients.
    for ours, theirs in zip(zoo.outputs(name, model), zoo.outputs(name, baked.requires_grad_(False)), strict=True):
        assert torch.isfinite(ours).all() and torch.equal(ours, theirs)


@pytest.mark.filterwarnings("ignore:.*thresholds lowered")
@pytest.mark.parametrize(
    "name, granularity",
    [*((name, "default") for name in zoo.NAMES), *((name, "out_channel") for name in ("lstm", "vit-torch", "tied"))],
)
def test_copies_and_files_of_a_network(name, granularity, tmp_path):
    model = ternary(name, granularity)
    zoo.train(name, model, optimizer(model), 1)
    twin = copy.deepcopy(model)
    zoo.train(name, twin, optimizer(twin), 1)
    expected = zoo.outputs(name, model.eval())
    assert not all(map(torch.equal, expected, zoo.outputs(name, twin.eval())))

    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    buffer.seek(0)
    other = ternary(name, granularity, seed=1)
    other.load_state_dict(torch.load(buffer, weights_only=True))
    assert all(map(torch.equal, expected, zoo.outputs(name, other.eval())))

    save_model(bake(model), str(tmp_path / "baked.safetensors"))
    loaded = zoo.network(name, seed=1).eval()
    load_model(loaded, str(tmp_path / "baked.safetensors"))
    assert all(map(torch.equal, expected, zoo.outputs(name, loaded.requires_grad_(False))))
