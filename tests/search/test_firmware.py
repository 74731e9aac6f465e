"""Flash and memory of the integer C code as objectives and limits of a search."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from tests.deploy.nets import made
from ttq_plugin import integerize
from ttq_plugin.deploy.c99.export import export_c
from ttq_plugin.deploy.c_int8.export import export_int8
from ttq_plugin.search.space.measured import measured
from ttq_plugin.search.space.objectives import Constraint, gains, violations
from ttq_plugin.tasks import get_task


@pytest.fixture(scope="module")
def digits():
    return get_task("mnist-cnn").load(None, 0)


def space(objectives, *limits):
    return SimpleNamespace(objectives=objectives, limits=[Constraint.parse(limit) for limit in limits])


def test_they_are_what_the_export_writes(digits, tmp_path):
    model, prepared = made("mnist-cnn"), SimpleNamespace(train=digits.train)
    found = measured(space(("mcc", "flash_gain"), "ram <= 900"), model, prepared)
    written = export_int8(integerize(model, digits.train.head(256).x), tmp_path / "int8")
    floats = export_c(model, digits.train.head(1).x, tmp_path / "c", dense=True)
    assert found == {
        "flash": written.flash["cortex-m0"],
        "ram": written.static_bytes,
        "flash_fp32": 4 * 9840,
        "ram_fp32": floats.static_bytes,
    }
    every = gains(found)
    assert (
        every["flash_gain"] == 1 - found["flash"] / 39360 and every["ram_gain"] == 1 - found["ram"] / found["ram_fp32"]
    )
    assert 0.8 < every["flash_gain"] < 0.95


def test_limits_of_bytes(digits):
    limits = [Constraint.parse("flash <= 4000"), Constraint.parse("ram <= 1000")]
    found = violations(limits, {"flash": 5000.0, "ram": 900.0})
    assert found == {"flash <= 4000": 0.25, "ram <= 1000": -0.1}


def test_what_nobody_asks_for_is_not_made(digits):
    assert measured(space(("mcc", "srqw")), made("mnist-cnn"), SimpleNamespace(train=None)) == {}
