"""A wheel built where there is no compiler: it installs, trains by torch, and says once that it is slower."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile

import pytest

from tests.conftest import ROOT

CODE = """
import warnings
import torch
from ttq_plugin.core import ternarize
from ttq_plugin.native import inference, integer, training

assert training.BUILT is None and integer.KERNELS is None
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    for granularity in ("default", "out_channel"):
        model = ternarize(torch.nn.Sequential(torch.nn.Linear(64, 32)), ["0"], granularity=granularity)
        for _ in range(2):
            model(torch.randn(8, 64)).sum().backward()
        assert model[0].weight.unique().numel() == (3 if granularity == "default" else 65)
        assert model[0].parametrizations.weight[0].thresholds.grad.abs().min() > 0
print(training.__file__)
print(*[str(w.message) for w in told if "ttq-plugin" in str(w.message)], sep="\\n")
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    pytest.importorskip("hatchling")
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE", "hatch_build.py"):
        shutil.copy(ROOT / name, source)
    for name in ("ttq_plugin", "search_spaces"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    environment = os.environ | {"CC": "/bin/false"}
    done = subprocess.run(
        [*command, "--wheel-dir", str(source / "wheels"), str(source)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    [made] = (source / "wheels").iterdir()
    return made


def test_a_wheel_without_a_compiler_is_of_every_platform_and_has_no_library(wheel):
    assert wheel.name.endswith("-py3-none-any.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert not [name for name in names if name.endswith(".so")]
    for name in ("native/training.c", "native/training_rows.h", "native/training.cu", "search_spaces/mnist-cnn.yaml"):
        assert f"ttq_plugin/{name}" in names


def test_a_wheel_without_a_compiler_trains_and_says_so_once(wheel, tmp_path):
    zipfile.ZipFile(wheel).extractall(tmp_path)
    environment = {k: v for k, v in os.environ.items() if k != "TTQ_NATIVE"} | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=600
    )
    assert done.returncode == 0, done.stderr
    home, *told = done.stdout.splitlines()
    assert home.startswith(str(tmp_path))
    assert len(told) == 1 and told[0].startswith("ttq-plugin was installed without a C compiler: torch is used")
    quiet = subprocess.run(
        [sys.executable, "-c", CODE],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment | {"TTQ_NATIVE": "0"},
        timeout=600,
    )
    assert quiet.returncode == 0 and "ttq-plugin was" not in quiet.stdout
