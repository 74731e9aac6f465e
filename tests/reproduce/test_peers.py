"""Rivals at equal bytes: who takes part, how they are tuned and compared, and a comparison from the command line."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from tests.reproduce import tiny
from ttq_plugin import InputError
from ttq_plugin.cli import cli
from ttq_plugin.deploy.file.packed import save_packed
from ttq_plugin.reproduce.peers.compare import best_trials, duels, summarize
from ttq_plugin.reproduce.peers.entrants import LR, Entrant, chosen, entrants
from ttq_plugin.reproduce.peers.rivals import rival
from ttq_plugin.reproduce.peers.rounds import FULL, Round, layers_of, size
from ttq_plugin.tasks.metrics import METRICS
from ttq_plugin.trial.prepared import prepare

ACCURACY, RMSE = METRICS["accuracy"], METRICS["rmse"]


def result(row, seed, test, size=100, score=None):
    settings = None if row == FULL else {"method": row, "lr": 0.1 * (score or 1)}
    return {
        **{"row": row, "seed": seed, "test": test, "bytes": size, "zeros": 0.5, "score": score, "settings": settings},
        **{"seconds": 1.0, "notes": []},
    }


def test_tuning_draws_alike_for_all_and_begins_with_the_recipe():
    row = Entrant("a", "ttq", {"x": 1}, {"lr": LR, "t": (0.01, 0.04)})
    assert row.draw(0, 0.002) == {"method": "ttq", "x": 1, "lr": 0.002, "t": pytest.approx(0.02)}
    drawn = [row.draw(trial, 0.002) for trial in range(1, 200)]
    assert all(LR[0] <= d["lr"] <= LR[1] and 0.01 <= d["t"] <= 0.04 for d in drawn)
    middle = math.exp(sum(math.log(d["t"]) for d in drawn) / len(drawn))
    assert middle == pytest.approx(0.02, rel=0.1) and row.draw(7, 0.002) == row.draw(7, 0.5)
    with pytest.raises(InputError, match="peers must be some of .*, got 'nobody'"):
        chosen(entrants(), ("nobody",))
    assert [row.name for row in chosen(entrants(), ("twn",))] == ["twn"]


def test_the_best_trial_is_chosen_on_validation_data_in_the_metrics_direction():
    trials = [result("a", 0, None, score=s) for s in (0.5, None, 0.9, 0.7)]
    assert best_trials(trials, ACCURACY)["a"]["lr"] == pytest.approx(0.09)
    assert best_trials(trials, RMSE)["a"]["lr"] == pytest.approx(0.05)


def test_means_changes_and_who_wins_at_equal_bytes():
    results = [result(FULL, seed, 0.9, 4000) for seed in (1, 2, 3)]
    results += [result("pttq 50% zeros", seed, 0.89, 1000) for seed in (1, 2, 3)]
    results += [result("pttq 90% zeros", seed, 0.80 + seed / 1000, 100) for seed in (1, 2, 3)]
    results += [result("small", seed, 0.70 + seed / 1000, 101) for seed in (1, 2, 3)]
    results += [result("large", seed, 0.895 + seed / 1e6, 1500) for seed in (1, 2, 3)]
    results += [result("tiny", seed, 0.6, 10) for seed in (1, 2)] + [result("tiny", 3, None)]
    rows = summarize(results, ACCURACY)
    known = {row["row"]: row for row in rows}
    assert known["pttq 90% zeros"]["change"]["mean"] == pytest.approx(-0.098)
    assert known["tiny"]["diverged"] == 1 and known["small"]["bytes"]["mean"] == 101
    found = {duel["peer"]: duel for duel in duels(rows, ACCURACY)}
    assert found["small"]["ours"] == "pttq 90% zeros" and found["small"]["verdict"] == "ours"
    assert found["small"]["difference"] == pytest.approx(0.1)
    assert found["large"]["ours"] == "pttq 50% zeros" and found["large"]["verdict"] == "peer"
    assert found["tiny"]["ours"] is None
    turned = {duel["peer"]: duel for duel in duels(rows, RMSE)}
    assert turned["small"]["verdict"] == "peer"


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_pruning_keeps_the_largest_weights_in_eight_bits(share, tmp_path):
    ready = prepare(replace(tiny.TASK), cache=tmp_path, curvature=False)
    layers = layers_of(ready.model)
    before = ready.model.state_dict()
    before = {name: value.clone() for name, value in before.items()}
    model = rival(ready, layers, {"method": "magnitude-int8", "zeros": share, "lr": 1e-3, "epochs": 2}, seed=0)
    weights = [model.get_submodule(name).weight.detach() for name in layers]
    zeros = sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights)
    assert share <= zeros + 1 / sum(w.numel() for w in weights) and zeros < share + 0.1
    for weight in weights:
        for row in weight.reshape(len(weight), -1):
            steps = 127 * row / row.abs().max().clamp(min=1e-12)
            assert torch.allclose(steps, steps.round(), atol=1e-3)
    assert all(torch.equal(before[name], value) for name, value in ready.model.state_dict().items())


def test_eight_bits_count_as_codes_in_the_file_that_all_others_have(tmp_path):
    """The header and the rest of the packed file stay; in place of 4 bytes a weight there are codes and scales."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 30), nn.BatchNorm1d(30), nn.Linear(30, 3))
    model[0].weight.data = torch.where(torch.rand(30, 40) < 0.9, torch.zeros(30, 40), model[0].weight)
    ready = SimpleNamespace(model=None)
    info = save_packed(model, tmp_path / "model.safetensors")
    whole = size(ready, model, ["0"])["bytes"]
    eight = size(ready, model, ["0"], eight_bits=True)
    assert whole == info.nbytes and eight["zeros"] == int((model[0].weight == 0).sum()) / 1200
    codes = whole - eight["bytes"] - info.entries["0.weight"]["bytes"]  # less what replaces them
    kept = int((model[0].weight != 0).sum())
    entropy = kept / 8 * math.log2(1200 / kept) + (1200 - kept) / 8 * math.log2(1200 / (1200 - kept))
    assert 4 * 30 + kept * 5 / 8 + entropy < -codes < 4 * 30 + 1.5 * (kept + entropy) + 256


def test_a_comparison_from_the_command_line_and_what_it_leaves(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["reproduce", "peers", "--task", "tests.reproduce.tiny:TASK", "--methods", "twn,pttq 90% zeros", "--json"]
    words += ["--trials", "2", "--repetitions", "2", "--scale", "0.1", "--workers", "1", "--cache", str(tmp_path / "c")]
    done = CliRunner().invoke(cli, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert [row["row"] for row in found["rows"]] == [FULL, "pttq 90% zeros", "twn"]
    assert all(row["repetitions"] == 2 and row["test"] is not None for row in found["rows"])
    [own] = [row for row in found["rows"] if row["row"].startswith("pttq")]
    assert own["zeros"]["mean"] == pytest.approx(0.9, abs=0.02)
    [page] = (tmp_path / "reports").glob("*.md")
    text = page.read_text()
    assert "## At equal bytes" in text and found["command"] in text
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "reports").rglob("*seed*.json")}
    assert len(kept) == 1 + 2 * 2 + 3 * 2
    assert CliRunner().invoke(cli, words, catch_exceptions=False).exit_code == 0
    assert kept == {path: path.stat().st_mtime_ns for path in kept}  # nothing is trained again


def test_bad_input_is_refused_before_anything_is_trained(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for words, told in (
        (["--task", "mnist-cnn", "--methods", "nobody"], "peers must be some of"),
        (["--task", "no-such-task"], "no-such-task"),
    ):
        with pytest.raises(InputError, match=told):
            CliRunner().invoke(cli, ["reproduce", "peers", *words], catch_exceptions=False)
    assert not list(tmp_path.iterdir())
    assert Round("a b%", 3, "t", None, 1).key == "a-b--seed3-trial1"
