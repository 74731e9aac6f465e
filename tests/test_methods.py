"""The table of methods is the one place that lists them: a row and its equations are all that a new method needs."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from tests.commands.own_modules import BINARY, COMMON
from tests.conftest import ROOT
from tests.nni_adapter.nets import Net, config, make_evaluator
from ttq_plugin import core
from ttq_plugin.core.methods import define
from ttq_plugin.core.rules import MAX_FRACTION
from ttq_plugin.curvature import Budget, generate_config
from ttq_plugin.curvature.plan import build_chain
from ttq_plugin.methods import METHODS, SCALES, THRESHOLDS, Method, Number, quantizers
from ttq_plugin.nni_adapter import QUANTIZERS, PTTQQuantizer
from ttq_plugin.search.space.defaults import default_space
from ttq_plugin.search.space.load import parse_space
from ttq_plugin.search.space.ranges import bound, own_names
from ttq_plugin.search.space.schema import space_schema
from ttq_plugin.tasks import get_task
from ttq_plugin.trial.settings import Settings

THIRD = Number("t", 1 / 3, 0.2, 0.5)
TOY = Method("toy", "Toy", "A third of the largest weight.", None, (THIRD,), r"\Delta = t\max\lvert w\rvert")


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.setitem(METHODS, "toy", TOY)
    monkeypatch.setitem(core.METHODS, "toy", None)  # so that it is gone afterwards
    return define("toy", MAX_FRACTION)


def test_rows_and_equations_agree():
    assert list(METHODS) == list(core.METHODS)
    for name, row in METHODS.items():
        method = core.METHODS[name]
        assert row.name == method.name == name
        assert set(method.learnable) == row.learns <= {SCALES, THRESHOLDS}
        assert {**method.t, "alpha": method.alpha} == {"alpha": method.alpha, **row.starts}
        assert row.label and row.description.endswith(".") and row.equation


def test_ranges_hold_the_values_that_their_numbers_may_take():
    for row in METHODS.values():
        for number in row.numbers:
            assert number.bound.allows(number.low) and number.bound.allows(number.high) and number.low < number.high
            assert number.low <= number.start <= number.high


def test_binary_is_what_makes_no_zeros():
    w = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    for name, row in METHODS.items():
        method = core.METHODS[name]
        codes = set(method.codes(w, method.init(w)[0]).unique().tolist())
        assert codes == ({-1, 1} if row.binary else {-1, 0, 1}), name


def test_quantizers_are_those_of_the_table():
    assert {name: quantizer.__name__ for name, quantizer in QUANTIZERS.items()} == quantizers()


def test_a_toy_method_is_known_to_the_mathematics(toy):
    w = torch.tensor([-0.9, -0.2, 0.1, 0.31, 0.5])
    q = toy.weights(w, toy.init(w)[0])
    assert torch.equal(q.sign(), torch.tensor([-1.0, 0, 0, 1, 1])) and core.get_method("toy") is toy
    net = core.bake(core.ternarize(nn.Sequential(nn.Linear(8, 8)), ["0"], method="toy"))
    assert len(net[0].weight.unique()) == 3


def test_a_toy_method_is_known_to_search_spaces(toy):
    assert own_names()["toy"] == ("t",) and not bound("toy", "t").allows(-1)
    schema = space_schema()["properties"]
    assert "toy" in schema["only"]["items"]["enum"] and "toy" in schema["methods"]["properties"]
    data = default_space(get_task("mnist-cnn"))
    assert data["methods"]["toy"] == {"t": {"low": 0.2, "high": 0.5}}
    space = parse_space(json.dumps(data | {"only": ["toy"], "paper": [], "first": []}), "test")
    assert space.applies("toy", "lr_scale") and not space.applies("toy", "lr_threshold")
    values = {"method": "toy", **{name: 1 for name in space.parameters}, "toy.t": 0.4}
    assert Settings(**space.settings(values, 0)).options() == {"t": 0.4}


def test_a_toy_method_is_known_to_curvature_and_to_chains(toy):
    x, y = torch.randn(32, 8), torch.arange(32) % 3
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
    chosen = generate_config(model, nn.functional.cross_entropy, [(x, y)], Budget(share=1.0), methods=["toy"])
    assert chosen.methods == {"0": "toy", "2": "toy"}
    [link] = build_chain({}, {"toy": ["0"]}, {})
    assert link.compressor == "PTTQQuantizer" and link.options == {"method": "toy"}


def test_a_toy_method_trains_in_a_quantizer(toy):
    model = Net()
    before = model.conv2.weight.detach().clone()
    quantizer = PTTQQuantizer(model, config("conv2"), make_evaluator(model), method="toy", t=0.4)
    quantizer.compress(max_steps=5, max_epochs=None)
    codes = quantizer.codes()["conv2"]
    assert quantizer.states()["conv2"].method == toy.configure(t=0.4)
    exported = quantizer.export_model().conv2.weight
    assert torch.equal(exported.sign(), codes.to(exported.dtype)) and len(exported.unique()) == 3
    trained = model.conv2.weight.detach()
    assert not torch.equal(trained, before)
    assert torch.equal(codes, torch.where(trained.abs() > 0.4 * trained.abs().max(), trained.sign(), 0).to(codes.dtype))


ADDED = """
from ttq_plugin.core.methods import define
from ttq_plugin.core.rules import MAX_FRACTION
from ttq_plugin.methods import METHODS, Method, Number

METHODS["toy"] = Method("toy", "Toy", "A third of the largest weight.", None, (Number("t", 1 / 3, 0.2, 0.5),))
define("toy", MAX_FRACTION)
"""
"""What a row of the table and the equations of core are in the package; in the task's module, workers see it too."""

COMMANDS = """
import sys, own
from ttq_plugin.cli import cli
if __name__ == "__main__":
    for words in WORDS:
        cli.main([*words, "--json"], standalone_mode=False)
"""


def test_a_toy_method_is_known_to_every_command(tmp_path):
    (tmp_path / "own.py").write_text(ADDED + COMMON + BINARY)
    task = "own:TASK"
    words = [
        ("compress", task, "--method", "toy", "--t", "0.4", "--epochs", "1"),
        ("sensitivity", task, "--methods", "toy"),
        ("search", task, "--method", "toy", "--trials", "2", "--workers", "1"),
    ]
    done = subprocess.run(
        [sys.executable, "-c", f"WORDS = {words!r}\n{COMMANDS}"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "TTQ_CACHE_DIR": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    decoder, text, said = json.JSONDecoder(), done.stdout.strip(), []
    while text:
        value, end = decoder.raw_decode(text)
        said, text = [*said, value], text[end:].strip()
    compressed, sensitive, searched = said
    assert compressed["settings"]["method"] == "toy" and compressed["settings"]["t"] == 0.4
    assert sensitive["methods"] == {"0": "toy", "2": "fp32"}
    assert searched["trials"]["complete"] == 2 and {member["method"] for member in searched["front"]} == {"toy"}
