"""The command that a report prints gives back the settings that a search has drawn, to the last bit."""

from __future__ import annotations

import shlex
from pathlib import Path

import optuna
import pytest

import ttq_plugin.commands.compress
from tests.conftest import ROOT
from ttq_plugin.cli import cli
from ttq_plugin.search.space.load import load_space
from ttq_plugin.tracking import TrialRecord
from ttq_plugin.tracking.remake import remake
from ttq_plugin.trial.settings import Settings

SPACES = sorted(path.stem for path in (ROOT / "search_spaces").glob("*.yaml"))


@pytest.mark.parametrize("name", SPACES)
def test_every_built_in_space(name, monkeypatch):
    space = load_space(name)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=len(name)))
    got: dict = {}
    monkeypatch.setattr(ttq_plugin.commands.compress, "compress", lambda **options: got.update(options))
    for _ in range(12):
        settings = space.settings(space.suggest(study.ask()), 7)
        parameters = {key: value for key, value in settings.items() if value is not None and key != "task"}
        record = TrialRecord(0, "complete", parameters, {}, "search", 7, 0.0, 0.0)
        words = shlex.split(remake(space.task, record))
        assert words[:3] == ["OMP_NUM_THREADS=1", "ttq", "compress"]
        cli.main(words[2:], standalone_mode=False)
        given = {key: got[key] for key in vars(Settings(**settings)) if key in got}
        again = vars(Settings(**given | {"seed": got["seed"] or 0}))
        # Where the method does not use a rate, or the share, the command has its default.
        for key, value in vars(Settings(**settings)).items():
            assert again[key] == value or (key in {"lr_threshold", "share"} and settings.get(key) is None), key


def test_what_was_given_is_quoted():
    record = TrialRecord(3, "complete", {"method": "ttq", "t": 0.1 + 0.2, "alpha": None}, {}, "search", 1, 0.0, 0.0)
    line = remake("mnist-cnn", record, {"data": Path("my data/x; rm *.npz"), "cache": None})
    assert "--t 0.30000000000000004 " in line and "--alpha" not in line and "--cache" not in line
    assert shlex.split(line)[shlex.split(line).index("--data") + 1] == "my data/x; rm *.npz"
