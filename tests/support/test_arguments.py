"""Every argument of every exported function, given something else: one sentence names it and says what came."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import nni
import numpy as np
import pytest
import torch
from nni.compression.utils import TorchEvaluator
from torch import nn

import ttq_plugin
from ttq_plugin import InputError
from ttq_plugin.support.arguments import check_types, no_less, no_more, shown
from ttq_plugin.trial.settings import Settings


class Stranger:
    """An object of no use to anybody, whose text is long and has lines."""

    def __repr__(self):
        return "a\nlong text " * 50


def net():
    return nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4))


def chain(model):
    optimizer = nni.trace(torch.optim.SGD)(model.parameters(), lr=0.1)
    evaluator = TorchEvaluator(lambda *given: None, optimizer, lambda batch, model: model(batch).sum())
    return {"model": model, "links": [], "evaluator": evaluator, "max_epochs": 1}


GIVEN: dict[str, Callable[[], dict[str, Any]]] = {
    **{
        name: lambda: {"model": net(), "config_list": [{"op_names": ["0"]}]}
        for name in ttq_plugin.__all__
        if name.endswith(("Quantizer", "Pruner"))
    },
    "ternarize": lambda: {"model": net(), "layers": ["0"]},
    "parameter_groups": lambda: {"model": net()},
    "bake": lambda: {"model": net()},
    "project_": lambda: {"model": net()},
    "EnergyModel": dict,
    "Budget": dict,
    "measure": lambda: {"full_precision": net(), "compressed": net(), "example_input": torch.ones(1, 16)},
    "generate_config": lambda: {"model": net(), "loss_fn": nn.functional.cross_entropy, "batches": []},
    "compress_chain": lambda: chain(net()),
    "TernaryRuntime": lambda: {"model": net().eval(), "example_input": torch.ones(1, 16)},
    "latency": lambda: {"model": net().eval(), "example_input": torch.ones(1, 16)},
    "integerize": lambda: {"model": net().eval(), "batches": torch.ones(1, 16)},
    "save_packed": lambda: {"model": net(), "path": "packed.safetensors"},
    "load_packed": lambda: {"path": "packed.safetensors"},
    "packed_info": lambda: {"path": "packed.safetensors"},
    "train": lambda: {"task": "mnist-cnn"},
    "compress": lambda: {"task": "mnist-cnn"},
    "TernaryObjective": lambda: {"task": "mnist-cnn"},
    "search": lambda: {"task": "mnist-cnn"},
}
FREE = {"example_input", "batches", "existed_wrappers", "options", "numbers", "rest"}
"""Arguments of any type, or that NNI passes to itself."""


def arguments(name):
    function = getattr(ttq_plugin, name)
    if name == "search":
        from ttq_plugin.studies import search as function
    return [key for key in inspect.signature(function).parameters if key not in FREE or name == "save_packed"]


CASES = [(name, argument) for name in GIVEN for argument in arguments(name)]


def test_nothing_exported_is_left_out():
    values = {"METHODS", "InputError", "__version__", "register"}
    assert set(GIVEN) == set(ttq_plugin.__all__) - values and len(CASES) > 150


@pytest.mark.parametrize("name, argument", CASES)
def test_an_argument_of_another_type_is_refused_in_a_sentence(name, argument, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for wrong in (Stranger(), [Stranger()], Stranger):
        if isinstance(wrong, type) and argument in {"loss_fn", "on_health"}:
            continue  # a class can be called
        with pytest.raises(InputError) as caught:
            getattr(ttq_plugin, name)(**{**GIVEN[name](), argument: wrong})
        said = str(caught.value)
        assert "\n" not in said and "Stranger" in said and argument.removesuffix("s") in said, said
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["epochs", "lr", "t_min", "loss", "precision", "normalize", "max_bytes", "seed"])
def test_a_number_of_a_compression_too(name):
    with pytest.raises(InputError, match=f"{name} must be .*, got Stranger"):
        Settings(task="mnist-cnn", method="pttq", **{name: Stranger()})


def checked(
    number: float = 1.0,
    whole: int = 1,
    text: str = "",
    flag: bool = False,
    path: Path | str | None = None,
    names: Sequence[str] = (),
    any_names: Iterable[str] = (),
    table: Mapping[str, int] | None = None,
    word: float | Literal["auto"] = "auto",
    made: Callable[[], Any] = dict,
    free: Any = None,
) -> None:
    check_types(checked, locals())


@pytest.mark.parametrize(
    "right",
    [
        *({"number": value} for value in (2, 2.5, np.float32(1), np.int64(1))),
        *({"whole": value} for value in (2, np.int8(1))),
        *({"path": value} for value in (None, "a", Path("a"))),
        *({"names": value} for value in ([], ["a"], ("a",), {"a"}, {"a": 1})),
        *({"any_names": value} for value in (iter(["a"]), (name for name in "ab"))),
        *({"table": value} for value in (None, {}, {"a": 1})),
        *({"word": value} for value in (1, "auto", "other")),
        *({"flag": value} for value in (True, np.True_)),
        {"made": list},
        {"free": object()},
    ],
)
def test_what_fits_is_taken(right):
    assert checked(**right) is None


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"number": True}, "number must be a number, got True."),
        ({"number": "1"}, "number must be a number, got '1'."),
        ({"whole": 1.0}, "whole must be a whole number, got 1.0."),
        ({"whole": None}, "whole must be a whole number, got None."),
        ({"text": b"x"}, "text must be a string, got b'x'."),
        ({"flag": 1}, "flag must be True or False, got 1."),
        ({"path": 3}, "path must be a path or None, got 3."),
        ({"names": "ab"}, "names must be a list of strings, got 'ab'."),
        ({"names": [1]}, "names must be a list of strings, got list of int."),
        ({"any_names": 7}, "any_names must be a list of strings, got 7."),
        ({"table": ["a"]}, "table must be a dict or None, got list of str."),
        ({"table": {1: 1}}, "table must be a dict or None, got dict."),
        ({"word": None}, "word must be a number or 'auto', got None."),
        ({"made": 3}, "made must be a function, got 3."),
    ],
)
def test_what_does_not_fit_is_named(wrong, message):
    with pytest.raises(InputError) as caught:
        checked(**wrong)
    assert str(caught.value) == message


def test_a_value_is_shown_on_one_short_line():
    assert shown("x" * 100) == "'" + 76 * "x" + "..." and shown("a\nb") == r"'a\nb'"
    assert [shown(value) for value in (nn.Linear, net(), [], [1], None)] == [
        "the class Linear", "Sequential", "list", "list of int", "None",
    ]  # fmt: skip


@pytest.mark.parametrize("value", [0.99999, 1 / 3, 123456.0, 1.00001e-9, 2.0, 7e-16, 0.1 + 0.2])
def test_limits_are_rounded_to_the_side_that_keeps_to_them(value):
    low, high = float(no_more(value)), float(no_less(value))
    assert low <= value <= high and high - low <= 1.1e-3 * value
    assert len(no_less(value).split("e")[0].replace("0.", "").replace(".", "")) <= 4
