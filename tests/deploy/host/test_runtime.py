"""``TernaryRuntime`` on integers: the integer network's outputs, exactly, in whatever form and batch."""

from __future__ import annotations

import os

import pytest
import torch
from torch import nn

from tests.deploy.integer.nets import inputs, network
from ttq_plugin import InputError, TernaryRuntime, integerize
from ttq_plugin.deploy.runtime import integers
from ttq_plugin.native.integer import KERNELS

needs_kernels = pytest.mark.skipif(KERNELS is None, reason="native kernels are switched off or were not built here")


@needs_kernels
@pytest.mark.parametrize("threads", [1, 2])
def test_outputs_are_the_integer_networks(threads):
    module = integerize(network("separable"), inputs(40))
    fast = TernaryRuntime(module, inputs(8), integer=True, threads=threads)
    assert fast.form == "integers" and fast.fallback is None
    for count in (1, 2, 5, 70):
        assert torch.equal(fast(inputs(count)), module(inputs(count)))
    assert set(fast.runs.values()) == {"ours"}
    assert [row.name for row in fast.table[fast.size(1)]] == [row.name for row in fast.table[fast.size(8)]]
    assert module.training  # as it was given


@needs_kernels
def test_a_model_is_integerized_on_the_batches():
    model, x = network("conv"), inputs(40)
    fast = TernaryRuntime(model, x[:2], integer=True, batches=[x[:20], x[20:]])
    assert torch.equal(fast(x), integerize(model, [x[:20], x[20:]])(x))
    assert torch.equal(TernaryRuntime(model, x, integer=True)(x), integerize(model, x)(x))
    with pytest.warns(UserWarning, match="on the 3 samples of the example; pass batches="):
        assert torch.equal(TernaryRuntime(model, x[:3], integer=True)(x), integerize(model, x[:3])(x))


@needs_kernels
def test_several_inputs_and_nested_outputs():
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other = nn.Linear(6, 4), nn.Linear(5, 4)

        def forward(self, a: torch.Tensor, b: torch.Tensor) -> dict[str, torch.Tensor]:
            first = self.one(a)
            return {"sum": first + self.other(b), "first": first}

    given = torch.randn(40, 6), torch.randn(40, 5)
    module = integerize(Two().eval(), given)
    fast = TernaryRuntime(module, given, integer=True)
    found, expected = fast(given), module(*given)
    assert list(found) == ["sum", "first"]
    assert all(torch.equal(found[key], expected[key]) for key in expected)


@needs_kernels
def test_not_numbers_are_what_the_module_makes_of_them():
    module = integerize(network("conv"), inputs(40))
    fast = TernaryRuntime(module, inputs(4), integer=True)
    x = inputs(4)
    x[0, 0, 0, 0], x[1, 1, 1, 1] = float("nan"), float("inf")
    assert torch.equal(fast(x), module(x))


@needs_kernels
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_computes_the_same():
    module = integerize(network("conv"), inputs(40))
    fast = TernaryRuntime(module, inputs(2), integer=True)
    x = inputs(2)
    expected = module(x)
    child = os.fork()
    if not child:
        os._exit(0 if torch.equal(fast(x), expected) else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_without_kernels_the_module_runs_and_the_runtime_says_so(monkeypatch):
    monkeypatch.setattr(integers, "KERNELS", None)
    module = integerize(network("conv"), inputs(40))
    with pytest.warns(UserWarning, match="runs the whole model in torch: it has no kernels for integers") as told:
        fast = TernaryRuntime(module, inputs(2), integer=True)
    assert len(told) == 1 and fast.form == "torch" and fast.fallback
    assert torch.equal(fast(inputs(3)), module(inputs(3)))


def test_what_does_not_go_together_is_refused():
    model, x = network("conv"), inputs(40)
    with pytest.raises(InputError, match="leave it out with integer=True"):
        TernaryRuntime(model, x, integer=True, int8=True)
    with pytest.raises(InputError, match="batches only calibrate integers; pass integer=True as well"):
        TernaryRuntime(model, x, batches=x)
    with pytest.raises(InputError, match="evaluation mode"):
        TernaryRuntime(model.train(), x, integer=True)
    with pytest.warns(UserWarning, match="already an integer network: batches are not used"):
        TernaryRuntime(integerize(model.eval(), x), x, integer=True, batches=x)
