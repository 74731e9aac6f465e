"""Models whose tensors hold nothing, or cannot be read or changed: one sentence from every way in, nothing changed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import ttq_plugin
from ttq_plugin import InputError
from ttq_plugin.core.model.attach import states
from ttq_plugin.nni_adapter.chain import QuantizerChain

X = torch.linspace(-1, 1, 64).reshape(4, 16)


def net(*last):
    return nn.Sequential(nn.Linear(16, 8), *last)


def sparse():
    model = net()
    model[0].weight = nn.Parameter(model[0].weight.detach().to_sparse())
    return model


def expanded():
    model = net(nn.Linear(8, 4))
    model[1].weight = nn.Parameter(torch.ones(1, 8).expand(4, 8))
    return model


def inference():
    with torch.inference_mode():
        return net()


READ = {  # what has no values, which nothing can be made of
    "a lazy normalisation": (
        lambda: net(nn.LazyBatchNorm1d()),
        "1.weight must have a shape, but its lazy layer has never",
    ),
    "a lazy layer": (
        lambda: net(nn.LazyLinear(3)),
        "1.weight must have a shape, but its lazy layer has never run; call",
    ),
    "the meta device": (lambda: net().to("meta"), "0.weight holds no values yet, because it is on the meta device"),
    "half on the meta device": (lambda: net(nn.Linear(8, 4, device="meta")), "1.weight holds no values yet, because"),
    "a buffer on it": (lambda: net(nn.BatchNorm1d(8, affine=False, device="meta")), "1.running_mean holds no values"),
    "sparse": (sparse, "0.weight must be a dense tensor, got the layout sparse_coo; call its to_dense"),
}
TRAINED = {  # what has values that no training can change
    "expanded": (expanded, "1.weight must have a place in memory for each value, got an expanded tensor; clone it"),
    "inference mode": (
        inference,
        "0.weight was created in torch.inference_mode and cannot be trained; create the model",
    ),
    "a scripted model": (lambda: torch.jit.script(net()), "the model must be a plain torch module, got a scripted or"),
    "a traced model": (lambda: torch.jit.trace(net(), X), "the model must be a plain torch module, got a scripted or"),
}


def packed_into(model, path):
    ttq_plugin.save_packed(net(), path)
    ttq_plugin.load_packed(path, model)


READERS = {
    "measure": lambda model, path: ttq_plugin.measure(net(), model, X),
    "measure before": lambda model, path: ttq_plugin.measure(model, net(), X),
    "select": lambda model, path: ttq_plugin.curvature.select(model, []),
    "TernaryRuntime": lambda model, path: ttq_plugin.TernaryRuntime(model.eval(), X),
    "latency": lambda model, path: ttq_plugin.latency(model.eval(), X),
    "integerize": lambda model, path: ttq_plugin.integerize(model, X),
    "save_packed": lambda model, path: ttq_plugin.save_packed(model, path),
    "load_packed": packed_into,
}
TRAINERS = {
    "ternarize": lambda model, path: ttq_plugin.ternarize(model, ["0"]),
    "quantizer": lambda model, path: ttq_plugin.PTTQQuantizer(model, [{"op_names": ["0"]}]),
    "pruner": lambda model, path: ttq_plugin.PTTQPruner(model, [{"op_names": ["0"]}]),
    "generate_config": lambda model, path: ttq_plugin.generate_config(model, nn.functional.mse_loss, [(X, X)]),
}


def refused(model, way, message, path):
    names = [name for name, _ in model.named_parameters()]
    with pytest.raises(InputError) as caught:
        way(model, path)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)
    assert [name for name, _ in model.named_parameters()] == names and not list(states(model))


@pytest.mark.parametrize("way", {**READERS, **TRAINERS})
@pytest.mark.parametrize("kind", READ)
def test_what_holds_no_values_is_refused_by_every_way_in(kind, way, tmp_path):
    make, message = READ[kind]
    refused(make(), {**READERS, **TRAINERS}[way], message, tmp_path / "m.safetensors")
    assert not (tmp_path / "m.safetensors").exists() or way == "load_packed"


@pytest.mark.parametrize("way", TRAINERS)
@pytest.mark.parametrize("kind", TRAINED)
def test_what_cannot_be_trained_is_refused_before_it_is(kind, way, tmp_path):
    make, message = TRAINED[kind]
    refused(make(), TRAINERS[way], message, tmp_path)


def test_lazy_layers_are_taken_once_they_ran():
    model = net(nn.LazyBatchNorm1d())
    model(X)
    ttq_plugin.ternarize(model, ["0"], "twn")
    model(X).sum().backward()
    assert len(ttq_plugin.bake(model)[0].weight.unique()) == 3
    assert ttq_plugin.integerize(net(nn.ReLU()).double(), X.double())(X).shape == (4, 8)


def test_an_expanded_model_is_not_filled_by_halves(tmp_path):
    torch.manual_seed(0)
    ttq_plugin.save_packed(net(nn.Linear(8, 4)), tmp_path / "m.safetensors")
    model = expanded()
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(InputError, match=r"1\.weight must have a place in memory for each value"):
        ttq_plugin.load_packed(tmp_path / "m.safetensors", model)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_tensors_that_overlap_in_memory_are_written_whole(tmp_path):
    memory = torch.randn(140, generator=torch.Generator().manual_seed(0))
    model = net(nn.Linear(8, 4))
    model[0].weight, model[1].weight = nn.Parameter(memory[:128].view(8, 16)), nn.Parameter(memory[100:132].view(4, 8))
    ttq_plugin.save_packed(model, tmp_path / "m.safetensors")
    twin = ttq_plugin.load_packed(tmp_path / "m.safetensors", net(nn.Linear(8, 4)))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))


def test_layers_without_values_run_in_torch():
    model = nn.Sequential(nn.Linear(16, 0), nn.Linear(0, 4)).eval()
    runtime = ttq_plugin.TernaryRuntime(model, X, onnxruntime=False)
    assert torch.equal(runtime(X), model(X))
    with pytest.raises(InputError, match="Sequential uses a layer without inputs"):
        ttq_plugin.integerize(model, X)


def test_a_chain_refuses_them_too():
    model = net(nn.LazyBatchNorm1d())
    with pytest.raises(InputError, match="evaluator must be an Evaluator, got None"):
        QuantizerChain(model, [], None)
