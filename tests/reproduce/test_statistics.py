"""Means and bootstrap intervals against closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from ttq_plugin.reproduce.statistics import Sample, sample


def test_mean_and_standard_deviation():
    values = Sample((1.0, 2.0, 4.0))
    assert values.mean == pytest.approx(7 / 3)
    assert values.std == pytest.approx((((4 / 3) ** 2 + (1 / 3) ** 2 + (5 / 3) ** 2) / 2) ** 0.5)
    assert Sample((1.0,)).std is None and Sample((1.0,)).interval() is None
    assert sample([None, None]) is None and sample([1.0, None]) == Sample((1.0,))


def test_the_interval_is_the_normal_one_for_many_values():
    values = Sample(tuple(np.random.default_rng(1).normal(3, 2, size=400)))
    low, high = values.interval()
    half = 1.96 * values.std / 20
    assert (low, high) == pytest.approx((values.mean - half, values.mean + half), abs=0.02)
    assert values.interval() == (low, high)  # seeded


def test_a_published_mean_brings_its_own_uncertainty():
    values = Sample((5.0, 5.0, 5.0))
    low, high = values.interval((4.0, 1.0), repetitions=100)
    assert (low, high) == pytest.approx((1 - 0.196, 1 + 0.196), abs=0.01)
    assert values.interval((4.0, 0.0), repetitions=10) == pytest.approx((1.0, 1.0))


def test_it_covers_as_often_as_it_says():
    generator = np.random.default_rng(2)
    hits = 0
    for _ in range(200):
        low, high = Sample(tuple(generator.normal(0, 1, size=30))).interval()
        hits += low <= 0 <= high
    assert 0.88 <= hits / 200 <= 0.99  # the percentile bootstrap of 30 values covers about 93 %
