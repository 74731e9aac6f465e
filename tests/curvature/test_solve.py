"""The program against brute force: every combination of up to ten layers, in one array of sums."""

import random
import subprocess
import sys
from functools import reduce
from pathlib import Path

import numpy as np
import pytest

from ttq_plugin.curvature import solve
from ttq_plugin.curvature.solve import ROUNDING, TIE, choose, smallest, total

KINDS = {
    "plain": lambda r: r.random(),
    "wide": lambda r: 10 ** r.uniform(-15, 3),
    "tiny": lambda r: 1e-30 * r.random(),
    "huge": lambda r: 1e30 * r.random(),
    "tied": lambda r: r.choice([0, 0.1, 0.1, 0.2, 0.3]),
    "whole": lambda r: float(r.randint(0, 5)),
    "zero": lambda r: 0.0,
}


def sums(numbers):
    """The sum of every combination."""
    return reduce(np.add.outer, [np.array(row, dtype=float) for row in numbers]).ravel()


def instance(seed, kind):
    r = random.Random(f"{seed}{kind}")
    counts = [r.randint(1, 4) for _ in range(r.randint(1, 7))] if seed % 8 else [2 + i % 2 for i in range(10)]
    draw = KINDS[kind]
    costs = [[draw(r) for _ in range(k)] for k in counts]
    whole = r.random() < 0.6
    sizes = [[r.randint(1, 10 ** r.choice([1, 4, 7])) if whole else draw(r) for _ in range(k)] for k in counts]
    ties = [[r.randint(1, 10 ** r.choice([1, 4, 7])) for _ in range(k)] for k in counts]
    least, some = total(sizes, smallest(sizes)), total(sizes, tuple(r.randrange(k) for k in counts))
    limit = r.choice([least, some, least + r.random() * (sums(sizes).max() - least)])
    return costs, sizes, limit, ties


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(24))
def test_no_combination_is_better(seed, kind):
    costs, sizes, limit, ties = instance(seed, kind)

    def fits(picks):
        return total(sizes, picks) <= limit + ROUNDING * abs(limit)

    choice = choose(costs, sizes, limit, ties, fits)
    assert fits(choice.picks)
    feasible = sums(sizes) <= limit * (1 + 1e-12)
    best = sums(costs)[feasible].min()
    assert total(costs, choice.picks) <= best * (1 + 2 * TIE)
    assert total(ties, choice.picks) <= sums(ties)[feasible & (sums(costs) <= best * (1 + 1e-10))].min()
    assert choice.gap == 0


def test_what_solver_tolerances_let_pass_is_cut_off():
    """One more than the limit of 2^50 is 1e-15 of it: HiGHS takes it, the exact test does not."""
    most = 2**50
    costs, sizes = [[1.0, 0.0], [1.0, 0.0]], [[0, most // 2], [0, most // 2 + 1]]

    def fits(picks):
        return total(sizes, picks) <= most

    assert choose(costs, sizes, most, sizes, lambda picks: True).picks == (1, 1)
    choice = choose(costs, sizes, most, sizes, fits)
    assert choice.picks == (1, 0) and choice.gap == 0


def test_a_limit_of_zero_allows_nothing_however_small():
    choice = choose([[1.0, 0.5], [1.0, 0.0]], [[0.0, 1e-12], [0.0, 0.0]], 0.0, [[0, 0], [0, 0]], lambda picks: True)
    assert choice.picks == (0, 1)


def network(layers, seed):
    """A network as it might be: sensitivities over nine decades, six methods, a budget of 2.8 bits a weight."""
    r = random.Random(seed)
    weights = [r.choice([36864, 147456, 262144, 2359296, 5000]) for _ in range(layers)]
    traces = [10 ** r.uniform(-5, 0) for _ in weights]
    distances = (0, 1e-6, 3e-4, 0.1, 0.2, 0.5)
    costs = [[t * d * n * r.uniform(0.8, 1.2) for d in distances] for t, n in zip(traces, weights, strict=True)]
    sizes = [[int(bits * n) for bits in (32, 8, 4, 2, 1.6, 1)] for n in weights]
    return costs, sizes, int(sum(weights) * 2.777)


def solved(costs, sizes, limit):
    return choose(costs, sizes, limit, sizes, lambda picks: total(sizes, picks) <= limit)


def test_the_gap_tells_what_time_left_open(monkeypatch):
    costs, sizes, limit = network(60, 22)
    best = total(costs, solved(costs, sizes, limit).picks)
    monkeypatch.setattr(solve, "SECONDS", 0.0)
    choice = solved(costs, sizes, limit)
    assert total(sizes, choice.picks) <= limit
    assert 0 < choice.gap <= 1
    assert total(costs, choice.picks) * (1 - choice.gap) <= best * (1 + TIE)


def test_nothing_but_the_answer_on_standard_output():
    """HiGHS 1.12 writes from C on this problem; a program that prints JSON must stay readable."""
    code = "from tests.curvature.test_solve import network, solved; print('gap', solved(*network(40, 6)).gap)"
    root = Path(__file__).resolve().parents[2]
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert result.stdout == "gap 0.0\n"
