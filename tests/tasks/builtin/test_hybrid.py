"""`esr-hybrid*` and `ecg-hybrid*`: two inputs of one sample, the fusions by hand, guidance, and every command."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.tasks.readers.test_ecg_files import record
from tests.tasks.recordings import lines, write
from tests.tasks.walk import walk, walk_on
from ttq_plugin.errors import InputError
from ttq_plugin.tasks import HYBRID, get_task
from ttq_plugin.tasks.builtin.hybrid import GUIDANCE, TASKS, WIDTH, Hybrid, Joined, Late, guided
from ttq_plugin.tasks.full_precision import full_precision
from ttq_plugin.tasks.scoring.branches import ternary_shares
from ttq_plugin.tasks.scoring.parts import part_label
from ttq_plugin.tasks.scoring.scores import score
from ttq_plugin.tasks.task import Split


@pytest.fixture(scope="module")
def eeg(tmp_path_factory):
    return write(tmp_path_factory.mktemp("eeg") / "Epileptic Seizure Recognition.csv", lines())


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """Four people with beats of every class."""
    folder = tmp_path_factory.mktemp("records")
    for place, name in enumerate(("100", "103", "105", "107")):
        record(folder, name, symbols="NNNNAAVVFF//" * 2, rate=250, period=0.6 + 0.06 * place)
    return folder


def parts(data):
    return data.train, data.validation, data.test


@pytest.mark.parametrize("kind, frames", [("esr", 37), ("ecg", 39)])
def test_both_inputs_are_of_the_same_sample(eeg, records, kind, frames):
    """As the tasks of one input give them, with the same split and targets."""
    source = eeg if kind == "esr" else records
    data = get_task(f"{kind}-hybrid").load(source, 0)
    signals, pictures = (get_task(f"{kind}-{name}").load(source, 0) for name in ("cnn-transformer", "2dcnn"))
    for split, signal, picture in zip(*map(parts, (data, signals, pictures)), strict=True):
        assert torch.equal(split.x[0], signal.x) and torch.equal(split.y, signal.y)
        assert split.x[1].shape[1:] == (1, 32, frames) == get_task(f"{kind}-hybrid").shape[1]
        np.testing.assert_allclose(split.x[1].numpy(), picture.x.numpy(), atol=0.05)


@pytest.mark.parametrize("kind", ["esr", "ecg"])
def test_no_recording_or_person_is_in_two_splits(eeg, records, kind):
    data = get_task(f"{kind}-hybrid").load(eeg if kind == "esr" else records, 0)
    groups = [set(part.group_ids.tolist()) for part in parts(data)]
    assert sum(map(len, groups)) == len(set.union(*groups)) == (50 if kind == "esr" else 4)


def test_late_fusion_is_the_softmax_of_two_scores():
    torch.manual_seed(0)
    late = Late(3).double()
    signal, picture = torch.randn(2, 5, WIDTH, dtype=torch.float64)
    scores = torch.cat([late.score_signal(signal), late.score_picture(picture)], dim=1)
    weights = scores.softmax(dim=1)
    expected = weights[:, :1] * late.of_signal(signal) + weights[:, 1:] * late.of_picture(picture)
    torch.testing.assert_close(late(signal, picture), expected, atol=1e-12, rtol=0)


def test_intermediate_fusions_by_hand():
    torch.manual_seed(0)
    signal, picture = torch.randn(2, 5, WIDTH, dtype=torch.float64)
    joined = {ending: Joined(3, ending).double() for ending in ("-concatenation", "-sum", "-weighted-sum")}
    with torch.no_grad():
        joined["-weighted-sum"].weight_signal.normal_()
    weighted = signal * joined["-weighted-sum"].weight_signal + picture
    features = {"-concatenation": torch.cat([signal, picture], 1), "-sum": signal + picture, "-weighted-sum": weighted}
    for ending, module in joined.items():
        expected = features[ending] @ module.classify.weight.T + module.classify.bias
        torch.testing.assert_close(module(signal, picture), expected, atol=1e-12, rtol=0)
        first, second = module.alone(signal, picture)
        assert torch.equal(first, module(signal, 0 * picture)) and torch.equal(second, module(0 * signal, picture))


@pytest.mark.parametrize("name", HYBRID)
def test_guidance_is_in_training_alone_and_every_parameter_learns(name):
    torch.manual_seed(0)
    task = get_task(name)
    model = task.model()
    model.dropout.p = 0.0
    x, y = task.noise(8), torch.arange(8) % 2
    outputs = model.train()(*x)
    assert set(outputs) == {"logits", "signal", "picture"}
    losses = [F.cross_entropy(outputs[part], y) for part in ("logits", "signal", "picture")]
    torch.testing.assert_close(guided(outputs, y), losses[0] + GUIDANCE * (losses[1] + losses[2]))
    guided(outputs, y).backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())
    logits = model.eval()(*x)
    assert isinstance(logits, torch.Tensor) and torch.equal(guided(logits, y), F.cross_entropy(logits, y))


def test_every_name_has_its_task():
    assert tuple(TASKS) == HYBRID
    sizes = {name: sum(p.numel() for p in task.model().parameters()) for name, task in TASKS.items()}
    assert max(sizes.values()) < 60_000
    assert sizes["esr-hybrid-weighted-sum"] == sizes["esr-hybrid-sum"] + 2 * WIDTH


def test_both_branches_are_learnt_from(eeg, tmp_path):
    """Unmistakable seizures; with either input at its mean, the answers change."""
    task = get_task("esr-hybrid")
    quick = replace(task, recipe=replace(task.recipe, epochs=4, batch_size=10))
    data = task.load(eeg, 0)
    found = full_precision(quick, data, seed=0, cache=tmp_path)
    assert found.score > 0.8 and 0 < found.parts["attention_0"] < 1
    signals, pictures = data.validation.x
    with torch.no_grad():
        whole = found.model(signals, pictures)
        for changed in (
            (signals.mean(0).expand_as(signals), pictures),
            (signals, pictures.mean(0).expand_as(pictures)),
        ):
            assert (found.model(*changed) - whole).abs().max() > 0.1


def test_without_data():
    with pytest.raises(InputError, match="none was given with --data"):
        get_task("ecg-hybrid").load(None, 0)


def test_a_network_of_another_shape_is_one_that_two_inputs_fit():
    model = Hybrid(100, 32, 20, 4, "-sum").eval()
    assert model(torch.zeros(2, 1, 100), torch.zeros(2, 1, 32, 20)).shape == (2, 4)


def test_every_command_takes_two_inputs(eeg, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    walk("esr-hybrid", eeg, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("ending", ["-concatenation", "-sum", "-weighted-sum"])
def test_the_other_fusions_too(eeg, tmp_path, monkeypatch, ending):
    monkeypatch.chdir(tmp_path)
    walk(f"esr-hybrid{ending}", eeg, tmp_path)


@pytest.mark.long
def test_so_do_search_report_and_fit(eeg, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    walk_on("esr-hybrid", eeg, tmp_path)
    [page] = tmp_path.rglob("walk.html")
    text = page.read_text()
    assert "attention on the first branch, class 1" in text and "ternary share of the branch signal" in text


def test_attention_by_class_is_a_part_of_the_score():
    torch.manual_seed(0)
    model = Hybrid(32, 16, 16, 3).eval()
    with torch.no_grad():
        model.fusion.score_signal.bias.fill_(1.0)
    x, y = (torch.randn(40, 1, 32), torch.randn(40, 1, 16, 16)), torch.arange(40) % 2
    seen = []
    hook = model.fusion.attention.register_forward_hook(lambda module, given, found: seen.append(found))
    with torch.no_grad():
        model(*x)
    hook.remove()
    found = score(model, Split(x, y), "accuracy").parts
    for label in (0, 1):
        assert found[f"attention_{label}"] == pytest.approx(float(seen[0][y == label].mean()), rel=1e-5)
    assert "attention_2" not in found and 0 < found["attention_0"] < 1 and not model.fusion.attention._forward_hooks
    assert part_label("attention_1", ("N", "S")) == "attention on the first branch, class S"
    assert not any("attention" in name for name in score(Hybrid(32, 16, 16, 3, "-sum"), Split(x, y)).parts)
    model.fusion.attention = nn.Identity()  # no longer between 0 and 1
    assert not any("attention" in name for name in score(model, Split(x, y), "accuracy").parts)


def test_the_ternary_share_of_each_branch():
    model = Hybrid(32, 16, 16, 3)
    layers = ["signal.5", *(f"signal.{block}.0" for block in range(4)), "picture.1.0"]
    found = ternary_shares(model, layers)
    weights = [p.numel() for p in model.picture.parameters() if p.dim() > 1]
    assert found == {"ternary_signal": 1.0, "ternary_picture": weights[0] / sum(weights), "ternary_fusion": 0.0}
    assert part_label("ternary_picture") == "ternary share of the branch picture"
    assert ternary_shares(nn.Sequential(nn.Linear(2, 2)), ["0"]) == {}
