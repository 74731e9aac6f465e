"""Every script in examples/ runs by itself, elsewhere, offline, and prints what it promises."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time

import pytest

from tests.conftest import ROOT

SCRIPTS = sorted((ROOT / "examples").glob("*.py"))


def number(output, words):
    """The number that follows these words in the output."""
    (found,) = re.findall(rf"^{words} +(?:accuracy )?([\d.]+)$", output, re.MULTILINE)
    return float(found)


def ternary(output):
    """All printed lists of weight values: each has a negative one, zero and a positive one."""
    lists = [[float(v) for v in found.split(",")] for found in re.findall(r"values \[([^]]*)\]", output)]
    return bool(lists) and all(len(v) == 3 and v[0] < v[1] == 0 < v[2] for v in lists)


def quick_start(output):
    assert number(output, "full precision") > 0.9
    assert number(output, "ternary, int8") > 0.9 and number(output, "ternary, exported") > 0.9
    assert ternary(output)
    assert output.count("weight int2, _input_0 int8, _output_0 int8") == 2


def fusion(output):
    assert number(output, "teacher accuracy") > 0.9 and number(output, "student accuracy") > 0.9
    assert ternary(output)
    zeros = [float(found) for found in re.findall(r"zeros ([\d.]+)", output)]
    assert len(zeros) == 2 and min(zeros) >= 0.8, "the pruner's share, and the dead zone's"


def lightning(output):
    assert number(output, "full precision") > 0.85 and number(output, "ternary") > 0.85
    assert ternary(output)


def pruner(output):
    assert number(output, "full precision") > 0.9
    ((accuracy, zeros),) = re.findall(r"^pruned accuracy ([\d.]+) at ([\d.]+)% zeros", output, re.MULTILINE)
    assert float(accuracy) > 0.9 and 50 < float(zeros) < 90


def resume(output):
    assert output.splitlines()[-1] == "equal: True after 285 steps"


def packed(output):
    """Bytes of the packed file and of the weights in full precision."""
    ((now, before),) = re.findall(r"^packed (\d+) bytes, was (\d+)$", output, re.MULTILINE)
    return int(now), int(before)


def hugging_face(output):
    assert number(output, "full precision") > 0.9 and number(output, "ternary") > 0.85
    now, before = packed(output)
    assert now < before / 2 and ternary(output)


def segmentation(output):
    assert number(output, "full precision IoU") > 0.7 and number(output, "ternary +IoU") > 0.65
    now, before = packed(output)
    assert now < before / 3 and ternary(output)


def regression(output):
    error = number(output, "ternary +median error")
    assert number(output, "full precision median error") < 45 and error < 50, "guessing the median costs 61"
    now, before = packed(output)
    assert now < before / 6 and ternary(output)


OF_TASKS = (hugging_face, segmentation, regression)
CHECKS = {check.__name__: check for check in (quick_start, fusion, lightning, pruner, resume, *OF_TASKS)}


@pytest.mark.parametrize("script", SCRIPTS, ids=[script.stem for script in SCRIPTS])
def test_example(script, tmp_path):
    lines = script.read_text().splitlines()
    assert len(lines) <= 60 and lines[0].startswith('"""')
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    environment["TTQ_CACHE_DIR"] = str(tmp_path / "cache")  # what is trained is trained here
    start = time.monotonic()
    result = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stderr
    assert time.monotonic() - start < 60
    CHECKS.get(script.stem, lambda output: None)(result.stdout)
    assert result.stdout


def test_the_promised_scripts_are_there():
    assert set(CHECKS) <= {script.stem for script in SCRIPTS}
