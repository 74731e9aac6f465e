"""Scores on disturbed inputs: each disturbance does what it says, and the curves of a network that can be computed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from torch import nn

from ttq_plugin import InputError, cli
from ttq_plugin.deploy.bench.robustness import KINDS, curves, gain, lead_off, noise, resampled
from ttq_plugin.deploy.file.packed import save_packed
from ttq_plugin.statistics import resampling
from ttq_plugin.tasks.metrics import METRICS
from ttq_plugin.tasks.task import Data, Recipe, Split, Task

ACCURACY = METRICS["accuracy"]


def generator():
    return torch.Generator().manual_seed(1)


def signals(count=60, channels=2, time=40, seed=0):
    """Two classes: whether the first channel lies above or below zero; five people."""
    drawn = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % 2
    x = 0.3 * torch.rand(count, channels, time, generator=drawn)
    x[:, 0] += (2 * y[:, None] - 1).float()
    return Split(x, y, [f"p{place // 2 % 5}" for place in range(count)])


class Sign(nn.Module):
    """Class 1 if the first channel's mean is above zero; it is never wrong on ``signals``."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(2, 2, 1, bias=False)
        with torch.no_grad():
            self.conv.weight.copy_(torch.tensor([[-1.0, 0.0], [1.0, 0.0]]).unsqueeze(-1))

    def forward(self, x):
        return self.conv(x).mean(-1)


@pytest.mark.parametrize("level", [20.0, 0.0])
def test_noise_has_the_ratio_that_was_asked_for_in_each_channel(level):
    x = torch.stack([torch.sin(torch.arange(20_000) / 7), 5 + 100 * torch.cos(torch.arange(20_000) / 3)])[None]
    added = noise(x, level, generator()) - x
    ratio = 10 * torch.log10(x.var(-1) / added.var(-1))
    assert torch.allclose(ratio, torch.full((1, 2), level), atol=0.15) and abs(float(added.mean())) < 2
    flat = torch.full((1, 1, 4, 4), 3.0)
    assert torch.equal(noise(flat, level, generator()), flat)  # nothing deviates from the mean, so there is no signal


def test_gain_and_a_missing_lead():
    x = torch.rand(50, 3, 20, generator=generator()) + 1
    assert torch.equal(gain(x, 2.0, generator()), x + x)
    missing = lead_off(x, 0.25, generator()) == 0
    assert (missing.sum((1, 2)) == 5).all() and (missing.any(-1).sum(1) == 1).all()
    assert len({int(row.any(-1).float().argmax()) for row in missing}) == 3
    runs = [torch.nonzero(row.any(0)).flatten() for row in missing]
    assert all(int(run[-1] - run[0]) == 4 for run in runs) and len({int(run[0]) for run in runs}) > 5
    assert (lead_off(x[:, :1], 1.0, generator()) == 0).all()
    picture = lead_off(torch.ones(4, 3, 6, 8), 0.5, generator()) == 0
    assert (picture.sum((1, 2, 3)) == 6 * 4).all() and (picture.any(2).sum((1, 2)) == 4).all()


@pytest.mark.parametrize("level", [-5.0, 0.0, 4.0])
def test_a_ramp_read_by_another_clock_is_a_ramp_of_another_slope(level):
    time = torch.arange(101, dtype=torch.float64)
    found = resampled(time.expand(2, 3, 101), level, generator())
    assert torch.allclose(found, (50 + (time - 50) / (1 + level / 100)).clamp(0, 100).expand(2, 3, 101), atol=1e-9)


def test_curves_of_a_network_that_can_be_computed():
    found = curves(Sign(), Sign(), signals(), ACCURACY, seed=3)
    rows = {(row["kind"], row["level"]): row for row in found["levels"]}
    assert found["skipped"] == {} and len(rows) == 1 + sum(len(kind.levels) for kind in KINDS)
    assert all(row["change"]["value"] == 0 for row in rows.values())
    plain = rows[None, None]["full"]
    assert plain["value"] == 1 and plain["units"] == 5 and plain["grouped"]
    for key, row in rows.items():
        if key[0] in ("gain", "resampling"):
            assert row["compressed"]["value"] == 1
        if key[0] == "label_noise":
            assert row["full"]["value"] == pytest.approx(1 - round(60 * key[1]) / 60)
            assert row["full"]["low"] < row["full"]["value"] < row["full"]["high"]
    assert rows["lead_off", 0.25]["full"]["value"] == 1
    # A whole channel at zero: the first one in about half of the samples, whose class is then the lower one.
    assert 0.6 < rows["lead_off", 1.0]["full"]["value"] < 0.9
    assert curves(Sign(), Sign(), signals(), ACCURACY, seed=3) == found
    assert curves(Sign(), Sign(), signals(), ACCURACY, seed=4) != found


def test_noise_gives_no_class_to_samples_that_are_left_out(monkeypatch):
    monkeypatch.setattr(resampling, "FEWER", 20)
    whole = signals()
    targets = torch.cat([whole.y, torch.full((60,), -100)])
    found = curves(Sign(), Sign(), Split(whole.x.repeat(2, 1, 1), targets), ACCURACY)
    noisy = {row["level"]: row["full"]["value"] for row in found["levels"] if row["kind"] == "label_noise"}
    assert noisy == {level: pytest.approx(1 - round(60 * level) / 60) for level in noisy} and noisy


def test_a_change_is_that_of_the_same_disturbed_samples():
    blind = Sign()
    with torch.no_grad():
        blind.conv.weight.zero_()  # always class 0
    rows = curves(Sign(), blind, signals(), ACCURACY)["levels"]
    assert rows[0]["compressed"]["value"] == 0.5 and rows[0]["change"]["value"] == -0.5
    assert all(
        row["change"]["value"] == pytest.approx(row["compressed"]["value"] - row["full"]["value"]) for row in rows
    )


def test_pictures_have_no_clock_and_other_inputs_are_refused(monkeypatch):
    monkeypatch.setattr(resampling, "FEWER", 20)
    pictures = Split(torch.rand(8, 1, 4, 4), torch.arange(8) % 2)
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    found = curves(net, net, pictures, ACCURACY)
    assert found["skipped"] == {"resampling": "pictures have no sampling rate"}
    values = Split(torch.rand(8, 1, 4), torch.rand(8, 2))
    numbers = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    assert list(curves(numbers, numbers, values, METRICS["rmse"])["skipped"]) == ["label_noise"]
    for x in (torch.rand(8, 4), torch.zeros(8, 4, 4, dtype=torch.long), (torch.rand(8, 1, 4), torch.rand(8, 1, 4))):
        with pytest.raises(InputError, match=r"one floating-point input of the shape \(batch, channels, time\) or"):
            curves(net, net, Split(x, torch.arange(8) % 2), ACCURACY)


def load(source: Path | None, seed: int) -> Data:
    return Data(*(signals(seed=seed + part) for part in range(3)), simulated=True)


TASK = Task("sign", "above or below zero", load, Sign, F.cross_entropy, Recipe(epochs=1, lr=1e-4), metric="accuracy")
OWN = "tests.deploy.test_robustness:TASK"


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "m.safetensors"
    save_packed(Sign(), path)
    return path


def run(packed, folder, *more):
    words = ["bench", str(packed), "--task", OWN, "--cache", str(folder / "cache"), *more]
    return CliRunner().invoke(cli.cli, words, catch_exceptions=False)


def test_the_command_prints_and_writes_the_same_numbers(packed, tmp_path):
    words = ["--robustness", "--noise-seed", "5", "--plot", str(tmp_path / "p.png"), "--out", str(tmp_path / "n.json")]
    done = run(packed, tmp_path, *words, "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert json.loads((tmp_path / "n.json").read_text()) == found and found["seed"] == 5 and found["simulated"]
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    levels = curves(Sign(), Sign(), load(None, 0).test, ACCURACY, seed=5)["levels"]
    assert [row["compressed"] for row in found["levels"]] == [row["compressed"] for row in levels]
    text = run(packed, tmp_path, *words).stdout
    assert "undisturbed" in text and "signal-to-noise" in text and "over 5 groups" in text and "SIMULATED" in text


def test_options_that_do_not_go_together_are_refused(packed, tmp_path):
    with pytest.raises(InputError, match="--seconds applies to measurements of time, not to --robustness"):
        run(packed, tmp_path, "--robustness", "--seconds", "1")
    with pytest.raises(InputError, match="--cache has an effect only with --robustness"):
        run(packed, tmp_path)
