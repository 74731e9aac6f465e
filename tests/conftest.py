"""Shared by all tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import pytest
import torch
from filelock import FileLock

from ttq_plugin.support import processes
from ttq_plugin.support.names import file_name

# Of every program that the tests start too: two threads a process on two busy cores spend their time waiting.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# CI tries the same examples each time: a new one that fails there would say nothing of the change that it judges.
hypothesis.settings.register_profile("ci", derandomize=True)
if os.environ.get("TTQ_REQUIRE_SERVICES"):
    hypothesis.settings.load_profile("ci")

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"


@pytest.fixture(autouse=True)
def _one_thread():
    """The machines have two cores; results and times are steadier with one thread a process."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _no_program():
    """Commands called in this process do not make it one of the package's own: some tests need all of NNI."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "own_process", lambda: None)
        yield


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real data and published numbers for development; a user has none of it."""
    if not SHARED.is_dir():
        pytest.skip("needs the folder ../shared beside the project")
    return SHARED


def common(tmp_path_factory, name: str) -> Path:
    """A folder of this run of the tests, the same one in all its processes."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return tmp_path_factory.mktemp(name)
    folder = tmp_path_factory.getbasetemp().parent / name
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def cache(tmp_path_factory) -> Path:
    """Where this run of the tests keeps trained full-precision models: each is trained once, by whichever process."""
    return common(tmp_path_factory, "cache")


@dataclass(frozen=True)
class Search:
    """A real search of a few short trials, made once for all tests that look at one; none of them changes it."""

    folder: Path
    store: Path
    space: Path
    study: str
    models: Path
    result: dict
    log: str


STUDY = "../../it's a [/b] $mall_ :smile: study's <i>name</i>"
"""A name is data: never a path, markup, a formula or a word of a shell."""

SMALL_SPACE = """
task: mnist-cnn
objectives: [mcc, cr_gain_total, ec_gain_total]
trials: 6
parameters:
  lr: {low: 1.0e-3, high: 4.0e-3, log: true}
  lr_scale: 1.0e-3
  lr_threshold: 1.0e-3
  epochs: {low: 1, high: 2}
  share: {low: 0.5, high: 1.0}
methods:
  pttq: {t_min: {low: 0.5, high: 2.0}, t_max: {low: 0.5, high: 2.0}, alpha: 5.0}
  ttq: {t: {low: 0.02, high: 0.3}}
paper:
  - {method: ttq, t: 0.05, lr: 1.0e-3, epochs: 2, share: 0.55}
"""


@pytest.fixture(scope="session")
def search(tmp_path_factory, cache) -> Search:
    """`ttq search` with two workers on the real digits, by whichever process of the tests asks first."""
    folder = common(tmp_path_factory, "search")
    space, log, found = folder / "space.yaml", folder / "log.txt", folder / "found.json"
    with FileLock(folder.with_suffix(".lock")):
        if not found.is_file():
            space.write_text(SMALL_SPACE)
            command = [sys.executable, "-m", "ttq_plugin", "search", str(space), "--study", STUDY, "--workers", "2"]
            result = subprocess.run(
                [*command, "--cache", str(cache), "--json"], capture_output=True, text=True, cwd=folder, timeout=600
            )
            assert result.returncode == 0, result.stderr
            log.write_text(result.stderr)
            found.write_text(result.stdout)
    store = folder / "mlflow_runs"
    models = store / "models" / file_name(STUDY)
    return Search(folder, store, space, STUDY, models, json.loads(found.read_text()), log.read_text())
