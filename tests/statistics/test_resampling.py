"""Intervals against closed forms, against the samples themselves, and against simulated truth."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import t

from ttq_plugin import InputError
from ttq_plugin.statistics import resampling
from ttq_plugin.statistics.noninferiority import corrected_t, holm, p_inferior, verdicts
from ttq_plugin.statistics.resampling import Answers, Interval, change, interval
from ttq_plugin.tasks.metrics import METRICS, Metric

ACCURACY = METRICS["accuracy"]


def answers(right, groups=None):
    """A model that is right where the list says so; the truth is class 1 everywhere."""
    outputs = torch.as_tensor(np.where(right, 1.0, -1.0))
    groups = None if groups is None else np.asarray(groups)
    return Answers(outputs, torch.ones(len(outputs), dtype=torch.long), groups)


def test_the_error_of_an_accuracy_is_the_binomials():
    found = interval(ACCURACY, answers([True] * 160 + [False] * 40))
    assert found.value == 0.8 and found.units == 200 and not found.grouped
    assert found.error == pytest.approx(math.sqrt(0.8 * 0.2 / 199), rel=0.06)
    assert found.high - found.low == pytest.approx(2 * t.ppf(0.975, 199) * found.error, rel=1e-12)


def test_groups_of_equal_size_count_as_one_number_each():
    shares = [0.9, 0.7, 0.8, 0.5, 1.0, 0.6]
    right = [k < 10 * share for share in shares for k in range(10)]
    groups = [f"person {number}" for number in range(6) for _ in range(10)]
    found = interval(ACCURACY, answers(right, groups))
    assert found.units == 6 and found.grouped
    assert found.error == pytest.approx(np.std(shares, ddof=1) / math.sqrt(6), rel=0.06)
    alone = interval(ACCURACY, answers(right))
    assert alone.error < found.error


@pytest.mark.parametrize("name", ["mcc", "accuracy", "balanced_accuracy", "macro_f1"])
@pytest.mark.parametrize("grouped", [False, True])
def test_counts_and_samples_give_one_answer(name, grouped, monkeypatch):
    generator = torch.Generator().manual_seed(1)
    truth = torch.randint(3, (120,), generator=generator)
    outputs = torch.nn.functional.one_hot(truth, 3) + 0.9 * torch.randn(120, 3, generator=generator)
    both = Answers(outputs, truth, np.arange(120) // 10 if grouped else None)
    fast = interval(METRICS[name], both)
    monkeypatch.setattr(resampling, "MOST_CELLS", 0)
    monkeypatch.setattr(resampling, "FEWER", 2000)
    slow = interval(METRICS[name], both)
    assert fast.value == pytest.approx(slow.value, abs=1e-12) and fast.units == slow.units
    assert fast.error == pytest.approx(slow.error, rel=0.1)


def test_positions_of_a_picture_stay_with_their_picture():
    generator = torch.Generator().manual_seed(0)
    truth = (torch.rand(6, 1, 8, 8, generator=generator) > 0.5).float()
    outputs = truth - 0.5 + torch.randn(6, 1, 8, 8, generator=generator)
    found = interval(METRICS["dice"], Answers(outputs, truth))
    assert found.units == 6 and found.value == pytest.approx(METRICS["dice"].function(outputs, truth), abs=1e-12)


def test_positions_that_are_left_out_move_none_to_another_picture():
    """Each picture leaves out another number of positions, which add up to a whole number of pictures."""
    truth = torch.zeros(4, 12, dtype=torch.long)
    outputs = torch.nn.functional.one_hot(truth, 2).movedim(-1, 1).float()
    for picture, left_out in enumerate((0, 11, 9, 4)):
        truth[picture, 12 - left_out :] = -100
    outputs[0] = outputs[0].flip(0)  # all of the first picture is wrong, and nothing else
    found = interval(ACCURACY, Answers(outputs, truth))
    shares = np.array([[0, 12], [1, 1], [3, 3], [8, 8]])
    drawn = np.array(np.meshgrid(*[range(4)] * 4)).reshape(4, -1).T  # all resamples there are
    scores = shares[drawn, 0].sum(1) / shares[drawn, 1].sum(1)
    assert found.value == 0.5
    assert found.error == pytest.approx(np.std(scores) * math.sqrt(4 / 3), rel=0.06)


def test_a_picture_of_which_nothing_counts_gives_no_score():
    truth = torch.tensor([[0, 0], [-100, -100]])
    outputs = torch.tensor([[[2.0, 2.0], [1.0, 1.0]]] * 2)
    assert interval(ACCURACY, Answers(outputs, truth)) is None  # one resample in four has no position


def test_a_change_is_measured_on_the_same_samples():
    right = np.arange(300) % 5 > 0
    worse = right.copy()
    worse[:6] = False
    found = change(ACCURACY, answers(right), answers(worse))
    assert found.value == pytest.approx(worse.mean() - right.mean(), abs=1e-12)
    assert found.error < 0.3 * math.hypot(*(interval(ACCURACY, answers(each)).error for each in (right, worse)))
    same = change(ACCURACY, answers(right), answers(right))
    assert (same.value, same.error, same.low, same.high) == (0, 0, 0, 0)
    assert same.grain == pytest.approx(1 / 300)
    exact = replace(same, grain=0.0)
    assert p_inferior(exact, 0.01) == 0 and p_inferior(replace(exact, value=-0.02), 0.01) == 1
    error = math.sqrt(0.01 / 300 / 2)
    assert p_inferior(same, 0.01) == pytest.approx(t.sf(0.01 / error, 299), rel=1e-9)


@pytest.mark.parametrize("name", ["rmse", "mae", "r2", "auroc"])
def test_metrics_that_no_table_gives_are_computed_from_the_samples(name):
    generator = torch.Generator().manual_seed(0)
    truth = (
        (torch.rand(80, generator=generator) > 0.5).long() if name == "auroc" else torch.randn(80, generator=generator)
    )
    outputs = truth + torch.randn(80, generator=generator)
    found = interval(METRICS[name], Answers(outputs, truth))
    assert found.low < found.value < found.high
    assert found.value == pytest.approx(METRICS[name].function(outputs, truth), abs=1e-12)


def test_the_error_of_a_mean_absolute_error_is_the_means():
    wrong = torch.linspace(0, 2, 100)
    found = interval(METRICS["mae"], Answers(wrong, torch.zeros(100)))
    assert found.error == pytest.approx(float(wrong.std()) / 10, rel=0.12)


def test_an_own_metric_and_one_that_is_undefined_too_often():
    mean = Metric("mean_output", lambda outputs, targets: float(outputs.mean()))
    found = interval(mean, Answers(torch.arange(50.0), torch.zeros(50)))
    assert found.value == 24.5
    rare = torch.zeros(30, dtype=torch.long)
    rare[0] = 1  # a third of the resamples has no sample of this class
    assert interval(METRICS["auroc"], Answers(torch.randn(30), rare)) is None
    assert interval(ACCURACY, answers([True] * 9, ["one"] * 9)) is None


def test_bad_arguments_are_refused():
    some = answers([True, False, True])
    with pytest.raises(InputError, match=r"level must lie in \(0, 1\), got 95"):
        interval(ACCURACY, some, level=95)
    with pytest.raises(InputError, match="on the same samples, got 3 and 2"):
        change(ACCURACY, some, answers([True, False]))
    with pytest.raises(InputError, match="margin must be above 0, got -1"):
        p_inferior(Interval(0, 1, -2, 2, 9, False), -1)
    for values, share in (([0.1], 0.1), ([0.1, 0.2], 1.5)):
        with pytest.raises(InputError, match="at least 2|must lie in"):
            corrected_t(values, share)
    with pytest.raises(InputError, match=r"level must lie in \(0, 1\), got 95"):
        corrected_t([0.1, 0.2], 0.1, level=95)


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_what_is_no_number_gives_no_verdict(number):
    with pytest.raises(InputError, match="differences of all repetitions must be finite, got"):
        corrected_t([0.1, number, 0.2], 0.1)
    for found in (Interval(number, 1, -2, 2, 9, False), Interval(0, number, -2, 2, 9, False)):
        with pytest.raises(InputError, match="change must be finite, with a finite error, got"):
            verdicts({"a": found}, 0.01)
    with pytest.raises(InputError, match=r"p-value must lie in \[0, 1\], got"):
        holm([0.01, number])


def test_holm_by_hand_and_the_direction_of_a_loss():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    small = Interval(0.002, 0.001, 0, 0.004, 12, True)
    assert p_inferior(small, 0.01, higher=False) > p_inferior(small, 0.01)
    found = verdicts({"a": small, "b": replace(small, value=-0.0081)}, 0.01)
    assert found["a"].holds and found["a"].adjusted == pytest.approx(2 * t.sf(12, 11))
    assert found["b"].p == found["b"].adjusted == pytest.approx(t.sf(1.9, 11)) and found["b"].holds
    several = verdicts({k: replace(small, value=-0.0081) for k in "abc"}, 0.01)
    assert all(v.p < 0.05 < v.adjusted and not v.holds for v in several.values())


def test_the_corrected_test_over_repetitions_by_hand():
    found = corrected_t([1.0, 3.0, 2.0, 2.0], 0.2)
    assert found.value == 2 and found.error == pytest.approx(math.sqrt(2 / 3 * (1 / 4 + 0.25)))
    assert found.high - 2 == pytest.approx(t.ppf(0.975, 3) * found.error)


@pytest.mark.parametrize(("seeds", "share"), [(3, 0.2), (10, 0.1)])
def test_repetitions_that_share_samples_are_called_not_inferior_in_one_case_of_twenty(seeds, share):
    """Models that are worse by the margin, whose changes have the correlation that sharing samples gives them.

    Nadeau and Bengio take the correlation of two repetitions for the share of test samples. The usual t-test, which
    takes them for independent, errs more often.
    """
    generator, margin, spread = np.random.default_rng(seeds), 0.01, 0.01
    studies = 2000
    shared, own = generator.normal(size=(studies, 1)), generator.normal(size=(studies, seeds))
    changes = -margin + spread * (math.sqrt(share) * shared + math.sqrt(1 - share) * own)
    wrong = np.mean([p_inferior(corrected_t(values, share), margin) <= 0.05 for values in changes])
    usual = changes.std(axis=1, ddof=1) / math.sqrt(seeds)
    plain = np.mean(t.sf((margin + changes.mean(axis=1)) / usual, seeds - 1) <= 0.05)
    assert wrong <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / studies) and plain > wrong + 0.02
    better = corrected_t(changes[0] + 10 * margin, share)
    assert p_inferior(better, margin) < 0.05


def simulated(change_of_mean, people, generator, spread=0.006, size=60):
    """Answers of two models on people whose accuracies differ, and change by a mean with a spread between people."""
    ability = np.clip(generator.normal(0.9, 0.06, people), 0.3, 0.99)
    shift = generator.normal(change_of_mean, spread, people)
    draws = generator.random((people, size))  # the same recordings for both models: their answers mostly agree
    groups = np.repeat(np.arange(people), size)
    return [answers((draws < level[:, None]).ravel(), groups) for level in (ability, ability + shift)]


@pytest.mark.parametrize("people", [5, 10])
def test_a_model_that_is_worse_by_the_margin_is_rarely_called_not_inferior(people):
    generator = np.random.default_rng(people)
    plain = wrong = 0
    for _ in range(400):
        found = change(ACCURACY, *simulated(-0.02, people, generator))
        wrong += p_inferior(found, 0.02) <= 0.05
        plain += p_inferior(replace(found, grain=0.0), 0.02) <= 0.05
    assert wrong / 400 <= 0.05
    assert plain > wrong  # what the plain t-test would do


def test_the_power_at_ten_people():
    generator = np.random.default_rng(0)
    found = [change(ACCURACY, *simulated(0.0, 10, generator)) for _ in range(200)]
    assert np.mean([p_inferior(each, 0.02) <= 0.05 for each in found]) >= 0.8


def test_intervals_cover_the_truth():
    generator = np.random.default_rng(3)
    covered = 0
    for _ in range(400):
        found = change(ACCURACY, *simulated(-0.01, 10, generator))
        covered += found.low <= -0.01 <= found.high
    assert 0.92 <= covered / 400 <= 0.99
