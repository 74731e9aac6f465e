"""Variants of a step timed in turns, so that a change of the machine's speed meets all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

WARM_UP = 2
"""Turns that do not count."""


def take_turns(
    variants: Mapping[str, Callable[[], None]],
    turns: int,
    steps: int,
    wait: Callable[[], None] = lambda: None,
    seconds: float = float("inf"),
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds a step of every variant in every turn; every other turn goes backwards.

    Args:
        variants: name -> what does one step.
        turns: how often each has its turn.
        steps: how many steps a turn has.
        wait: waits for what a device has still to do.
        seconds: after so many no further turn begins, if there were three.
        clock: what measures a turn; the process's own time where others use the same cores.

    Returns:
        Name -> one value a turn.
    """
    found: dict[str, list[float]] = {name: [] for name in variants}
    until = time.perf_counter() + seconds
    for turn in range(-WARM_UP, turns):
        if turn > 2 and time.perf_counter() > until:
            break
        for name in list(variants)[:: -1 if turn % 2 else 1]:
            run = variants[name]
            wait()
            started = clock()
            for _ in range(steps):
                run()
            wait()
            if turn >= 0:
                found[name].append((clock() - started) / steps)
    return found


def ratios(found: Mapping[str, list[float]], base: str) -> dict[str, tuple[float, float, float]]:
    """Quartiles of each variant's ratio to ``base`` in the same turn: lower, median, upper."""
    divided = {name: [v / b for v, b in zip(values, found[base], strict=True)] for name, values in found.items()}
    return {name: tuple(statistics.quantiles(values, n=4)) for name, values in divided.items()}


def lines(found: Mapping[str, list[float]], base: str) -> list[str]:
    """A line a variant: median milliseconds a step, median ratio and its quartiles."""
    return [
        f"{name:24} {1e3 * statistics.median(found[name]):9.3f} ms {middle:6.3f}x  (quartiles {low:.3f} to {high:.3f})"
        for name, (low, middle, high) in ratios(found, base).items()
    ]
