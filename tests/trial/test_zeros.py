"""One compression to a share of zeros, or to a budget by way of it, on the real digits."""

from __future__ import annotations

import json

import pytest
import torch

from ttq_plugin import api
from ttq_plugin.deploy.file.packed import save_packed
from ttq_plugin.errors import InputError
from ttq_plugin.trial.run import Settings, prepare, run

LAYERS = [{"op_names": ["conv1", "conv2", "fc1"]}]
SIZE = 250 + 5000 + 4000


@pytest.fixture(scope="module")
def ready(cache):
    torch.set_num_threads(1)
    return prepare("mnist-cnn", cache=cache, curvature=False)


def compressed(ready, **options):
    return run(ready, Settings("mnist-cnn", "pttq", epochs=2, lr_threshold=5e-3, **options), config_list=LAYERS)


def zeros(outcome):
    return sum(int((outcome.model.get_submodule(n).weight == 0).sum()) for n in ("conv1", "conv2", "fc1"))


def test_a_share_is_met_and_reported(ready):
    outcome = compressed(ready, zeros=0.9)
    assert zeros(outcome) == round(0.9 * SIZE)
    assert outcome.metrics["srqw"] == pytest.approx(0.9, abs=1e-3)
    assert not outcome.notes
    assert outcome.score > 0.7


def test_its_size_is_known_while_it_trains(ready):
    seen = []
    settings = Settings("mnist-cnn", "pttq", epochs=2, lr_threshold=5e-3, zeros=0.9)
    outcome = run(ready, settings, config_list=LAYERS, on_look=lambda look: seen.append(look.measure()))
    plain = compressed(ready, zeros=0.9)
    assert outcome.metrics == plain.metrics, "looking changes nothing"
    assert seen[0].keys() == outcome.metrics.keys() and seen[0]["mcc"] != seen[1]["mcc"]
    # The share is made exact after the last look, which may move a few weights.
    assert seen[1]["mcc"] == pytest.approx(outcome.metrics["mcc"], abs=0.03)
    for look in seen:
        for name in ("srqw", "cr_gain_total", "bits_coo34", "bits_dense2"):
            assert look[name] == outcome.metrics[name], name
        assert look["ec_gain_total"] == pytest.approx(outcome.metrics["ec_gain_total"], abs=0.05)


def test_channels_too(ready):
    configs = [{"op_names": ["conv2", "fc1"], "granularity": "out_channel"}]
    outcome = run(ready, Settings("mnist-cnn", "pttq", epochs=1, zeros=0.85, lr_threshold=5e-3), config_list=configs)
    found = [outcome.model.get_submodule(n).weight for n in ("conv2", "fc1")]
    assert sum(int((w == 0).sum()) for w in found) == round(0.85 * 9000)


def test_a_file_is_at_most_as_large_as_asked_and_nearly_so(ready, tmp_path):
    outcome = compressed(ready, max_bytes=4000)
    report = outcome.report.to_dict()
    size = save_packed(outcome.model, tmp_path / "m.safetensors", method="pttq", report=report).nbytes
    assert 3500 < size <= 4000
    assert any(note.startswith("max_bytes = 4000 requires ") for note in outcome.notes)


@pytest.mark.parametrize(
    ("name", "key", "most"), [("max_bits", "bits_entropy", 30_000), ("max_energy", "ec_total", 0.0)]
)
def test_bits_and_joules_are_kept(ready, name, key, most):
    if not most:
        half, many = (compressed(ready, zeros=z).metrics[key] for z in (0.55, 0.9))
        most = half + 0.6 * (many - half)
    outcome = compressed(ready, **{name: most})
    assert 0.9 * most < outcome.metrics[key] <= most


def test_a_budget_that_everything_fits_asks_for_the_least(ready):
    assert zeros(compressed(ready, max_bits=1e7)) == round(0.5 * SIZE)


def test_an_impossible_budget_is_refused_before_training(ready):
    with pytest.raises(
        InputError, match=r"^max_bytes must be at least \d+ for these layers, which is what all but one"
    ):
        compressed(ready, max_bytes=1000)


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("pttq", {"zeros": 0.9, "max_bits": 1e5}, "^max_bits and zeros both say how many weights are zero"),
        ("pttq", {"max_bytes": 1e4, "max_bits": 1e5}, "^max_bytes and max_bits both say how many weights are zero"),
        ("pttq", {"max_bytes": -1}, "^max_bytes must be a positive number, got -1"),
        (
            "pttq",
            {"max_bytes": 1e4, "t_min": 1.0},
            "^max_bytes is met by a share of zeros, but zeros determines the thresholds",
        ),
        ("dorefa", {"max_energy": 1e-6}, "^max_energy is met by a share of zeros, but dorefa cannot meet a share"),
        ("mixed", {"max_bytes": 1e4}, "^max_bytes is met by a share of zeros, which mixed does not have"),
        ("mixed", {"zeros": 0.9}, "^mixed has no zeros; set it in the options of the chain's links"),
        ("pttq", {"zeros": 0.9, "t_max": 1.0}, "^zeros determines the thresholds, so t_max cannot be given"),
        ("attq", {"zeros": 1.2}, r"^zeros must lie in \(0, 1\), got 1.2"),
    ],
)
def test_settings_refuse(method, options, message):
    with pytest.raises(InputError, match=message):
        Settings("mnist-cnn", method, **options)


def test_the_command_takes_a_size_and_keeps_it(cache, tmp_path):
    from click.testing import CliRunner

    from ttq_plugin.cli import cli

    target = tmp_path / "m.safetensors"
    common = ["compress", "mnist-cnn", "--epochs", "1", "--cache", str(cache), "--json", "--out", str(target)]
    result = CliRunner().invoke(cli, [*common, "--max-bytes", "2400"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["settings"]["lr_threshold"] == 1e-4
    assert told["settings"]["max_bytes"] == 2400
    assert 1700 < target.stat().st_size <= 2400
    assert told["srqw"] > 0.5


def test_thresholds_are_slower_where_zeros_are_prescribed(monkeypatch):
    asked = []
    monkeypatch.setattr(api, "run", lambda ready, settings, **_: asked.append(settings.lr_threshold))
    monkeypatch.setattr(api.Trained, "with_traces", lambda self, show: None)
    trained = api.Trained(None, "mcc", 1.0, {}, "", prepared=type("P", (), {"task": type("T", (), {"name": "t"})}))
    api.compress(trained, "pttq", zeros=0.9, show=False)
    api.compress(trained, "pttq", max_bytes=9000, show=False)
    api.compress(trained, "pttq", t_min=1.0, show=False)
    api.compress(trained, "pttq", zeros=0.9, lr_threshold=5e-3, show=False)
    assert asked == [1e-4, 1e-4, 1e-3, 5e-3]
