"""Numbers in other places as copies: as few as the longest stretches allow, in time proportional to the places."""

from __future__ import annotations

import random

import pytest

from ttq_plugin.deploy.integer.operators import picks


def by_trying(sources):
    """Every stretch from the first place that is left, of which the first longest is taken."""
    left, found = dict(enumerate(sources)), []
    while left:
        first = min(left)
        best, told = [first], (1, 1)
        for second in sorted(left)[1:]:
            step, move = second - first, left[second] - left[first]
            run = [first]
            while move >= 0 and left.get(run[-1] + step) == left[run[-1]] + move:
                run.append(run[-1] + step)
            if len(run) > len(best):
                best, told = run, (step, move)
        found.append((len(best), (first, told[0]), (left[first], told[1])))
        left = {place: source for place, source in left.items() if place not in best}
    return found


def test_the_longest_stretches_are_found():
    drawn = random.Random(0)
    orders = [list(range(12)), [i // 3 for i in range(12)], [i % 4 * 5 + i // 4 for i in range(20)], [0] * 7, []]
    orders += [[drawn.randrange(size) for _ in range(size)] for size in range(1, 30) for _ in range(4)]
    for order in orders:
        assert picks.stretches(order, 100) == by_trying(order)
        assert picks.stretches(order, 3) == by_trying(order)[:3]


@pytest.mark.parametrize(("order", "stretches"), [("as it was", 1), ("each twice", 2), ("shuffled", 65)])
def test_the_time_is_proportional_to_the_places(order, stretches, monkeypatch):
    places, steps, run = 20_000, [], picks._run
    monkeypatch.setattr(picks, "_run", lambda *given: steps.append(found := run(*given)) or found)
    sources = [place // 2 if order == "each twice" else place for place in range(places)]
    if order == "shuffled":
        random.Random(0).shuffle(sources)
    assert len(picks.stretches(sources, 65)) == stretches
    assert sum(map(len, steps)) <= 2 * stretches * places
