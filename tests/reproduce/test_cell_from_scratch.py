"""A cell of the MNIST table, from scratch with the published settings, against bounds from the ten repetitions.

The repetitions in ``examples/reports/main-mnist-cnn.json`` have seeds 0 to 9; this one has another. Of ten values with
mean m and standard deviation s, one more lies within m +- t s sqrt(1 + 1/10), t the quantile of Student's t with nine
degrees of freedom.
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from scipy.stats import t as student

from tests.conftest import ROOT

SEED = 10
ROWS = ("fp", "pttq", "pttq-released")
COVERAGE = 0.9999
"""A little above one in ten thousand false alarms a number; a real fault is much farther off (see the test below)."""


def bounds(values):
    """Where one more value lies."""
    n = len(values)
    mean = sum(values) / n
    std = (sum((v - mean) ** 2 for v in values) / (n - 1)) ** 0.5
    half = student.ppf((1 + COVERAGE) / 2, n - 1) * std * (1 + 1 / n) ** 0.5
    return mean - half, mean + half


@pytest.fixture(scope="module")
def committed():
    return json.loads((ROOT / "examples" / "reports" / "main-mnist-cnn.json").read_text())


def columns(summary, row):
    return next(entry["columns"] for entry in summary["rows"] if entry["row"] == row)


def test_the_report_has_ten_repetitions_at_full_length(committed):
    assert committed["seeds"] == list(range(10)) and committed["scale"] == 1 and committed["samples"] == 4800
    for row in committed["rows"]:
        assert (row["repetitions"], row["diverged"]) == (10, 0)


def test_the_bounds_would_see_a_fault(committed):
    low, high = bounds(columns(committed, "pttq")["mcc"]["values"])
    assert high - low < 25, "bounds so wide say nothing"
    other = columns(committed, "ttq")["srqw"]["mean"]
    low, high = bounds(columns(committed, "pttq")["srqw"]["values"])
    assert not low <= other <= high  # TTQ's zeros would not pass for pTTQ's


def test_a_cell(committed, shared, tmp_path):
    command = [sys.executable, "-m", "ttq_plugin.cli", "reproduce", "main", "--task", "mnist-cnn", "--repetitions", "1"]
    command += ["--seed", str(SEED), "--methods", ",".join(ROWS[1:]), "--data", str(shared / "data" / "mnist.npz")]
    done = subprocess.run(
        [*command, "--cache", str(tmp_path / "cache"), "--json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    assert [row["row"] for row in made["rows"]] == list(ROWS)
    for row in ROWS:
        for column in ("mcc",) if row == "fp" else ("mcc", "srqw", "cr_gain_total", "ec_gain_total"):
            low, high = bounds(columns(committed, row)[column]["values"])
            [value] = columns(made, row)[column]["values"]
            assert low <= value <= high, f"{row} {column}"
