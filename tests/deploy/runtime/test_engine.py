"""A whole model in onnxruntime, one of the ways between which the runtime chooses."""

from __future__ import annotations

import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.deploy.runtime.test_forms import agrees
from tests.deploy.runtime.test_runtime import ternary
from ttq_plugin import TernaryRuntime
from ttq_plugin.deploy.runtime import engine, runtime
from ttq_plugin.deploy.runtime.agreement import difference
from ttq_plugin.support.inputs import call


class Pooled(nn.Module):
    """onnxruntime's maxima lose what is undefined."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(2, 8, 3)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        return self.head(F.max_pool2d(F.relu(self.layer(x)), 4).flatten(2).mean(2))


class Several(nn.Module):
    """A dict and a number in, a nesting with a number out; one input is not used."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 5)

    def forward(self, given, unused, power=2):
        y = self.layer(given["x"]) ** power
        return {"y": y, "parts": (y.sum(1), 3), "index": given["index"] + 1}


def forced(monkeypatch, model, example, runs="onnxruntime", **keywords):
    """A runtime in which one way wins each race."""
    monkeypatch.setattr(runtime, "race", lambda ways: {way: 1.0 + (way != runs) for way in ways})
    made = TernaryRuntime(model, example, **keywords)
    assert set(made.runs.values()) == {runs}
    return made


def test_undefined_inputs_go_to_torch_where_onnxruntime_loses_them(monkeypatch):
    model = ternary(Pooled().eval())
    x = torch.randn(2, 2, 10, 10)
    made = forced(monkeypatch, model, x)
    assert made._engine.careful and agrees(made, model, x)
    for value in (float("nan"), float("inf"), -float("inf")):
        spoilt = x.clone()
        spoilt[1, 0, 3, 3] = value
        for _ in range(2):  # by the long way and by the remembered one
            assert agrees(made, model, spoilt) and agrees(made, model, x)
    assert not forced(monkeypatch, nn.Linear(8, 4).eval(), torch.randn(2, 8))._engine.careful


def test_nestings_numbers_and_unused_inputs(monkeypatch):
    model = Several().eval()

    def batch(count):
        return {"given": {"x": torch.randn(count, 8), "index": torch.arange(count)}, "unused": torch.zeros(count, 1)}

    made = forced(monkeypatch, model, batch(3))
    for count in (3, 1, 7, 3, 7):
        x = batch(count)
        found = made(x)
        assert type(found) is dict and found["parts"][1] == 3 and torch.equal(found["index"], torch.arange(count) + 1)
        assert agrees(made, model, x)


def test_views_and_inputs_that_need_gradients(monkeypatch):
    model = ternary(Pooled().eval())
    x = torch.randn(3, 10, 10, 2)
    made = forced(monkeypatch, model, x.permute(0, 3, 1, 2))
    for given in (x.permute(0, 3, 1, 2), x.permute(0, 3, 1, 2)[::2], x.requires_grad_().permute(0, 3, 1, 2)):
        for _ in range(2):
            found = made(given)
            assert difference(found, call(model, given).detach(), 1e-5) is None and not found.requires_grad


def test_other_sizes_run_without_it(monkeypatch):
    class Mean(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv1d(2, 4, 3)

        def forward(self, x):
            return self.layer(x).mean(-1) * x.shape[-1]

    model = ternary(Mean().eval())
    made = forced(monkeypatch, model, torch.randn(2, 2, 20))
    asked = []
    right = engine.Engine.__call__
    monkeypatch.setattr(engine.Engine, "__call__", lambda self, x: (asked.append(x.shape[-1]), right(self, x))[1])
    for length in (20, 30, 20, 30):
        assert agrees(made, model, torch.randn(2, 2, length))
    assert set(asked) == {20}


def test_threads_share_a_batch(monkeypatch):
    model = ternary(Pooled().eval())
    made = forced(monkeypatch, model, torch.randn(4, 2, 10, 10), threads=2)
    assert made._apart
    for batch in (1, 2, 7):
        assert agrees(made, model, torch.randn(batch, 2, 10, 10))


@pytest.mark.parametrize("how", ["asked", "missing", "wrong"])
def test_where_it_must_not_or_cannot_run(how, monkeypatch):
    model, x = ternary(Pooled().eval()), torch.randn(2, 2, 10, 10)
    if how == "missing":
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
    if how == "wrong":
        right = engine.Engine.__call__
        monkeypatch.setattr(engine.Engine, "__call__", lambda self, x: right(self, x) * 1.01)
    made = TernaryRuntime(model, x, onnxruntime=how != "asked")
    assert made._engine is None and set(made.runs.values()) <= {"ours", "torch"} and agrees(made, model, x)


def test_a_batch_on_which_it_is_wrong_is_another_ones(monkeypatch):
    model, x = ternary(Pooled().eval()), torch.randn(2, 2, 10, 10)
    made = forced(monkeypatch, model, x)
    right = engine.Engine.__call__
    monkeypatch.setattr(engine.Engine, "__call__", lambda self, x: right(self, x) + (len(x) == 8))
    assert agrees(made, model, torch.randn(8, 2, 10, 10)) and made.runs[8] != "onnxruntime"


def test_the_model_keeps_its_mode_and_sizes_are_not_kept_for_ever(monkeypatch):
    model, x = nn.Sequential(nn.Linear(8, 8), nn.Dropout(), nn.Linear(8, 2)).eval(), torch.randn(2, 8)
    made = forced(monkeypatch, model, x)
    assert not any(module.training for module in model.modules())
    monkeypatch.setattr(runtime, "REMEMBERED", 3)
    for batch in range(1, 9):
        assert agrees(made, model, torch.randn(batch, 8)) and 1 <= len(made._ready) <= 3


def test_what_is_used_of_onnxruntime_beside_its_documentation():
    made = TernaryRuntime(nn.Linear(8, 4).eval(), torch.randn(2, 8))
    assert made._engine._run.__self__ is made._engine.session._sess
