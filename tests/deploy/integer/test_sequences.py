"""Recurrent layers, attention, norms and embeddings on integers: beside float64, in C, and what is refused."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch import nn

from tests.deploy.integer.sequences import NETS, Tokens, inputs, network, ternary, tokens
from tests.deploy.integer.test_c_int8 import SANITIZED, any_integers, check_emulated, check_sizes, differing
from tests.deploy.integer.test_module import check_graph
from tests.deploy.nets import made
from ttq_plugin import InputError, integerize
from ttq_plugin.deploy.c_int8 import sizes
from ttq_plugin.deploy.c_int8.export import export_int8
from ttq_plugin.deploy.c_int8.placement import place
from ttq_plugin.deploy.integer.graph import build
from ttq_plugin.deploy.program.lower import trace

needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs a C compiler")


@pytest.mark.parametrize("name", NETS)
def test_the_graph_computes_what_the_model_computes(name):
    check_graph(network(name), inputs(3))


@needs_gcc
@pytest.mark.parametrize("zeros", [None, 0.5])
@pytest.mark.parametrize("name", NETS)
def test_integers_are_near_the_real_numbers_and_those_of_c(name, zeros, tmp_path):
    """C under sanitizers, on samples and on whatever integers there are."""
    model, x = network(name, zeros), inputs(40)
    integer = integerize(model, x, calibration="percentile", percentile=100)
    with torch.no_grad():
        expected, found = model(x), integer(x)
    error = (found - expected).abs() / expected.std()
    assert float(error.square().mean().sqrt()) < 0.05 and float(error.max()) < 0.4
    q = torch.cat([integer.quantised(x[:3]), any_integers(integer, 4)])
    assert differing(integer, q, tmp_path, SANITIZED) == 0
    assert place(integer.program).size <= place(integer.program).bound * 1.05


@needs_gcc
def test_the_papers_transformer_gives_the_modules_integers(tmp_path):
    """Convolutions, one of them used twice, a class token, four encoder layers and ternary attention."""
    x = torch.randn(24, 1, 178, generator=torch.Generator().manual_seed(1))
    model = made("esr-cnn-transformer")
    integer = integerize(model, x)
    with torch.no_grad():
        assert float((integer(x) - model(x)).norm() / model(x).norm()) < 0.1
    q = torch.cat([integer.quantised(x[:4]), any_integers(integer, 4)])
    assert differing(integer, q, tmp_path, ["-O1"]) == 0


def test_compounds_are_found_however_they_are_written():
    graph = build(trace(network("by hand"), inputs(1)), "model")
    assert [op.kind for op in graph.ops][-4:] == ["add", "softmax", "product", "normalise"]
    assert not graph.ops[-3].more["causal"] and len(graph.ops[-3].inputs) == 2
    for name, at in (("grouped", -3), ("masked", -1)):
        causal = build(trace(network(name), inputs(1)), "model").ops[at]
        assert causal.kind == "softmax" and causal.more["causal"] and len(causal.inputs) == 1


@needs_gcc
@pytest.mark.parametrize("zeros", [None, 0.4])
def test_indices_take_as_many_bytes_as_they_need(zeros, tmp_path):
    torch.manual_seed(0)
    model, given = ternary(Tokens(), zeros), tokens(60)
    integer = integerize(model, given)
    with torch.no_grad():
        expected, found = model(*given), integer(*given)
    assert float((found - expected).norm() / expected.norm()) < 0.05
    q = integer.quantised(given)
    assert q.shape == (60, 6 + 2 * 9 + 30) and integer.program.parts == [(6, 1, 7), (9, 2, 300), (30, 1, 0)]
    words = q[:, 6:24].to(torch.int64) & 255
    assert torch.equal(words[:, ::2] + 256 * words[:, 1::2], given[1])
    assert differing(integer, torch.cat([q[:4], any_integers(integer, 4)]), tmp_path, SANITIZED) == 0
    assert "input 1: 2 bytes each" in (tmp_path / "model.h").read_text()
    with pytest.raises(InputError, match=r"the indices in input 1 must lie in \[0, 300\), .* got 300"):
        integer(given[0], given[1] * 0 + 300, given[2])


class OfIndices(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(9, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.table(x) * x[..., None]


def test_what_computes_with_indices_is_refused():
    with pytest.raises(InputError, match="OfIndices also computes with the indices of an embedding"):
        integerize(OfIndices(), torch.randint(0, 9, (8, 4)))


@pytest.mark.service
@pytest.mark.parametrize("cpu", sizes.CPUS)
@pytest.mark.parametrize("name", [*NETS, "tokens"])
def test_flash_and_memory_are_the_linkers_to_the_byte(name, cpu, tmp_path):
    if name == "tokens":
        torch.manual_seed(0)
        integer = integerize(ternary(Tokens(), 0.4), tokens(8))
    else:
        integer = integerize(network(name), inputs(8))
    check_sizes(integer, cpu, tmp_path)


@pytest.mark.service
@pytest.mark.parametrize("name", ["lstm", "gru of both directions", "encoder"])
def test_a_run_of_the_processors_own_code_under_qemu(name, tmp_path):
    integer = integerize(network(name), inputs(8))
    check_emulated(integer, inputs(4), "cortex-m3", tmp_path)


def test_an_export_is_refused_before_anything_is_written(tmp_path):
    class Divides(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x / (1 + x[:, :1].abs())

    with pytest.raises(InputError, match="Divides uses divide of two tensors, which has no integer form"):
        export_int8(integerize(Divides(), inputs(4)), tmp_path / "c")
    assert not (tmp_path / "c").exists()
