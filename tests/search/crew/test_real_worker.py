"""`ttq search` and `ttq worker` as programs of their own, on one PostgreSQL, with real trainings and a real clock."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections import Counter
from functools import partial

import pytest
from services import wait_until

from ttq_plugin.errors import InputError
from ttq_plugin.search.study.study import load_study
from ttq_plugin.trial import run as trial_code

SPACE = """
task: mnist-cnn
objectives: [mcc, latency_gain]
constraints: ["latency <= 1"]
trials: 12
stop_early: {collapsed: false, dominated: false}
parameters: {lr: {low: 1.0e-3, high: 4.0e-3, log: true}, lr_scale: 1.0e-3, epochs: 4, share: 1.0}
methods:
  ttq: {t: {low: 0.02, high: 0.3}}
"""


def start(folder, *words):
    command = [sys.executable, "-m", "ttq_plugin.cli", *map(str, words), "--json"]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def opened(url):
    """The study, once it is made."""
    with contextlib.suppress(InputError):
        return load_study(url, "real")


@pytest.mark.service
def test_a_search_and_a_worker_share_real_trials(postgres, tmp_path, cache):
    url = postgres.url()
    (tmp_path / "space.yaml").write_text(SPACE)
    searching = start(
        tmp_path, "search", "space.yaml", "--storage", url, "--study", "real", "--workers", 1, "--cache", cache
    )
    study = wait_until(partial(opened, url), searching, pause=2)
    wait_until(lambda: study.trials, searching)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    joined = start(elsewhere, "worker", "--storage", url, "--study", "real", "--workers", 1, "--cache", cache)
    out, err = joined.communicate(timeout=300)
    assert joined.returncode == 0, err
    result, log = searching.communicate(timeout=300)
    assert searching.returncode == 0, log
    here, result = json.loads(out)["trials"], json.loads(result)
    trials = [trial for trial in study.trials if trial.state.name == "COMPLETE"]
    assert len(trials) == 12 == result["trials"]["complete"] and not list(elsewhere.iterdir())
    crews = Counter(trial.user_attrs["worker"]["name"].split(".")[0] for trial in trials)
    assert 0 < here < 12 and sorted(crews.values()) == sorted([here, 12 - here])
    ready = trial_code.prepare("mnist-cnn", seed=0, cache=cache)
    for trial in trials:
        metrics = trial.user_attrs["metrics"]
        assert 0 < metrics["latency"] < 1 > metrics["latency_gain"] == trial.values[1]
        assert metrics["latency_gain"] == pytest.approx(1 - metrics["latency"] / metrics["latency_fp32"])
        if crews[trial.user_attrs["worker"]["name"].split(".")[0]] != here:
            continue
        outcome = trial_code.run(ready, trial_code.Settings(task="mnist-cnn", **trial.user_attrs["parameters"]))
        assert outcome.metrics["mcc"] == trial.values[0]
