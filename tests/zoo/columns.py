"""Columns of the table about training and measuring: each works on a network, or raises InputError.

Each function is given the name of a network, and asserts that the results are right.
"""

from __future__ import annotations

import copy
import io
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import nni
import torch
from nni.compression.pruning import LevelPruner
from nni.compression.utils import TorchEvaluator
from torch import Tensor, nn

from tests.measures.nets import normalised, torchs, without_biases
from tests.zoo import networks as zoo
from ttq_plugin import (
    PTTQQuantizer,
    bake,
    generate_config,
    load_packed,
    measure,
    parameter_groups,
    save_packed,
    ternarize,
)
from ttq_plugin.core.model.layers import check_layers
from ttq_plugin.core.model.matrices import Matrix, matrices
from ttq_plugin.core.model.parametrized import attached_tensors, states
from ttq_plugin.curvature import layer_traces
from ttq_plugin.curvature.probing.cost import MOST_STEPS, Cost
from ttq_plugin.errors import InputError
from ttq_plugin.measures.mult_adds import tally
from ttq_plugin.nni_adapter.layers.wrappable import check_wrappable
from ttq_plugin.support.inputs import call

OPTIONS = {"t_min": 0.5, "t_max": 0.5, "on_empty": "clip"}
SMALLEST_CHANNEL = 32
"""Channels of fewer weights may lack a sign, or have all of one between zero and pTTQ's lowest threshold, |mean|, which
is refused: such layers stay in full precision here."""


# Training.


def chosen(model: nn.Module, granularity: str) -> dict[str, Matrix]:
    """The matrices to make ternary: all, or those whose channels are large enough."""
    found = matrices(model)
    if granularity == "default":
        return found
    return {
        name: matrix
        for name, matrix in found.items()
        if len(groups(matrix.parameter, matrix, granularity)[0]) >= SMALLEST_CHANNEL
    }


def groups(weight: Tensor, matrix: Matrix, granularity: str) -> Tensor:
    """The values that share a pair of scales, one row a group."""
    if granularity == "default":
        return weight.reshape(matrix.layout.parts, -1)
    return weight.movedim(matrix.layout.channel or 0, 0).flatten(1)


def ternary(name: str, granularity: str, seed: int = 0) -> nn.Module:
    model = zoo.network(name, seed)
    return ternarize(model, list(chosen(model, granularity)), granularity=granularity, **OPTIONS)


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameter_groups(model, 1e-3, 1e-3), lr=1e-3)


@lru_cache(maxsize=2)
def compressed(name: str, full: bool = False) -> nn.Module:
    """The network with all its matrices but the smallest ternary, after one step of training, not to be changed."""
    model = zoo.network(name, full=full)
    smallest = min(matrices(model).values(), key=lambda matrix: matrix.parameter.numel())
    ternarize(model, [key for key in matrices(model) if key != smallest.name], **OPTIONS)
    zoo.train(name, model, adam(model), 1)
    return bake(model.eval()).requires_grad_(False)


def compress(name: str, granularity: str) -> None:
    """Trained in a loop of one's own, baked, copied and saved, at one granularity."""
    plain, model = zoo.network(name), ternary(name, granularity)
    attached = {f"{p}.{k}": (m, m.parametrizations[k]) for p, m, k in attached_tensors(model)}
    latent = {path: parts.original.detach().clone() for path, (_, parts) in attached.items()}
    zoo.train(name, model, adam(model))
    expected = zoo.outputs(name, model.eval())
    baked = bake(model)
    assert list(baked.state_dict()) == list(plain.state_dict())
    assert [n for n, _ in baked.named_parameters()] == [n for n, _ in plain.named_parameters()]
    assert [type(m).__name__ for m in baked.modules()] == [type(m).__name__ for m in plain.modules()]
    by_path = {matrix.paths[0]: matrix for matrix in matrices(baked).values()}
    for path, (_, parts) in attached.items():
        moved = not torch.equal(latent[path], parts.original)
        assert moved or path in zoo.UNUSED.get(name, ()), path
        scales = torch.cat([state.scales.detach().reshape(2, -1) for state in states(parts)], 1)
        rows = groups(baked.get_parameter(path).detach(), by_path[path], granularity)
        for row, (positive, negative) in zip(rows, scales.T.tolist(), strict=True):
            values = set(row.unique().tolist())
            # A channel's few weights may all have left one of the three sets in training.
            assert values <= {-negative, 0.0, positive} and len(values) >= (3 if granularity == "default" else 2), path
    # torch takes other kernels, whose sums round otherwise, where weights require gradients.
    same(expected, zoo.outputs(name, baked.requires_grad_(False)))
    _check_copies(name, granularity, model, expected)


def _check_copies(name: str, granularity: str, model: nn.Module, expected: list[Tensor]) -> None:
    """A copy trains on its own, and a state dict brings another model to the same weights."""
    twin = copy.deepcopy(model)
    zoo.train(name, twin.train(), adam(twin), 1)
    same(expected, zoo.outputs(name, model))
    assert not all(map(torch.equal, expected, zoo.outputs(name, twin.eval())))
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    buffer.seek(0)
    other = ternary(name, granularity, seed=1)
    other.load_state_dict(torch.load(buffer, weights_only=True))
    same(expected, zoo.outputs(name, other.eval()))


def same(ours: list[Tensor], theirs: list[Tensor]) -> None:
    """Both are finite and equal."""
    for one, other in zip(ours, theirs, strict=True):
        assert torch.isfinite(one).all() and torch.equal(one, other)


def evaluator(name: str, model: nn.Module) -> TorchEvaluator:
    """NNI's, which trains on one batch by plain steps."""

    def loop(model: Any, optimizer: Any, step: Any, scheduler: Any, max_steps: Any, max_epochs: Any) -> None:
        model.train()
        batch = zoo.data(name)
        for _ in range(max_steps):
            optimizer.zero_grad()
            step(batch, model).backward()
            optimizer.step()

    optimizer = nni.trace(torch.optim.SGD)(model.parameters(), lr=1e-2)
    return TorchEvaluator(loop, optimizer, lambda batch, model: zoo.loss(call(model, batch[0]), batch[1]))


def holder(matrix: Matrix) -> str:
    """The name of the module that holds a matrix."""
    return matrix.paths[0].rpartition(".")[0]


def by_nni(name: str, granularity: str) -> None:
    """Trained by NNI's evaluator, exported with the weights that the same training gives without NNI."""
    model = zoo.network(name)
    layers = list(dict.fromkeys(map(holder, chosen(model, granularity).values())))
    config = [{"op_names": layers, "target_names": ["weight"], "granularity": granularity}]
    quantizer = PTTQQuantizer(model, config, evaluator(name, model), **OPTIONS)
    quantizer.compress(max_steps=2)
    exported = quantizer.export_model()
    plain = ternary(name, granularity)
    zoo.train(name, plain.train(), torch.optim.SGD(parameter_groups(plain), lr=1e-2), 2)
    for key, value in bake(plain).state_dict().items():
        assert torch.equal(exported.state_dict()[key], value), key


def pruner(name: str) -> None:
    """NNI's level pruner beside the quantizer, on the layers that NNI can wrap: both shares of zeros stay."""
    model = zoo.network(name)
    layers = [key for key in matrices(model) if _can_wrap(model, key)]
    config = [{"op_names": layers, "target_names": ["weight"]}]
    quantizer = PTTQQuantizer(model, config, evaluator(name, model), **OPTIONS)
    beside = LevelPruner.from_compressor(quantizer, [{**config[0], "sparse_ratio": 0.5}])
    beside.update_masks(beside.generate_masks())
    _, masks = beside.compress(2, None)
    exported = quantizer.export_model()
    for layer in layers:
        weight, pruned = exported.get_submodule(layer).weight, masks[layer]["weight"] == 0
        assert abs(int(pruned.sum()) - weight.numel() / 2) <= 1
        assert (weight[pruned] == 0).all() and len(weight[~pruned].unique()) in (2, 3), layer


def _can_wrap(model: nn.Module, name: str) -> bool:
    try:
        module = model.get_submodule(name)
        check_wrappable(name, module)
        check_layers(model, {name: module})
    except (InputError, AttributeError):
        return False
    return True


# Looking at it.


def curvature(name: str) -> None:
    """A method for each layer from traces, whose cost is told before: eight training steps a probe, or one product.

    As it is counted; the batch is so small that starting operations costs most, and a fused LSTM takes more.
    """
    model, (x, y) = zoo.network(name), zoo.data(name, 2)
    told: list[Cost] = []
    traces = layer_traces(model, zoo.loss, (x, y), max_probes=2, on_probe=lambda cost, _: told.append(cost))
    assert told[0].products == traces.products <= len(traces) + len(traces.unused)
    assert told[0].steps <= MOST_STEPS or traces.products == 1
    assert all(layer.standard_error >= 0 and layer.probes == 2 for layer in traces)
    chosen = generate_config(model, zoo.loss, [(x, y)], 0.5, traces=traces)
    assert chosen.share >= 0.5 and set(chosen.layers) <= {layer.name for layer in traces}


def counted(name: str) -> None:
    """Mult-adds exactly as torch counts them in full precision; the compressed network's report knows every matrix."""
    torch.manual_seed(1)
    model, x = without_biases(zoo.network(name)), zoo.samples(name, 1)
    for parameter in model.parameters():
        if parameter.any():
            parameter.data[parameter.data == 0] = 1e-3  # a random weight may be exactly zero, an embedding's padding is
    found = tally(model, x)
    assert sum(found.mult_adds.values()) == torchs(model, x) + normalised(model, x)
    assert found.uncounted == ()
    assert set(found.mult_adds) <= {n for n, _ in model.named_modules()}
    report = measure(zoo.network(name), compressed(name), x)
    rows = {row.name for row in report.selected}
    every = sorted(matrices(model).values(), key=lambda matrix: matrix.parameter.numel())
    assert all(rows & {matrix.name, *map(_row_name, matrix.paths)} for matrix in every[1:])
    assert rows <= {_row_name(path) for matrix in every for path in matrix.paths}
    assert report.mult_adds < report.mult_adds_fp32


def _row_name(path: str) -> str:
    return path.removesuffix(".weight")


def packed(name: str) -> None:
    """A packed file of a fraction of the bytes gives back the same model."""
    model, plain = compressed(name), zoo.network(name, seed=1)
    with tempfile.TemporaryDirectory() as folder:
        info = save_packed(model, Path(folder) / "model.safetensors")
        loaded = load_packed(Path(folder) / "model.safetensors", plain).eval().requires_grad_(False)
    assert info.nbytes < 0.35 * sum(4 * p.numel() for p in model.parameters()) + 8000
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in model.state_dict().items())
    same(zoo.outputs(name, model), zoo.outputs(name, loaded))
