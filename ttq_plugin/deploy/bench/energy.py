"""Energy as reported by the processor's own counters (RAPL), if the system allows reading them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")


@dataclass(frozen=True)
class Counter:
    """One processor package's counter of microjoules, which starts again at zero after ``limit``.

    Attributes:
        file: The file to be read.
        limit: Microjoules.
    """

    file: Path
    limit: int

    def read(self) -> int:
        """Microjoules so far."""
        return int(self.file.read_text())


def counters(folder: Path | None = None) -> list[Counter]:
    """The packages' counters that can be read.

    Args:
        folder: The folder of Linux's powercap interface; None for the system's.

    Returns:
        One for each package; empty if there is none, or none is readable.
    """
    found = []
    for zone in sorted((folder or POWERCAP).glob("intel-rapl:*")):
        if zone.name.count(":") > 1:  # a part of a package, counted in it
            continue
        try:
            counter = Counter(zone / "energy_uj", int((zone / "max_energy_range_uj").read_text()))
            counter.read()
        except (OSError, ValueError):
            continue
        found.append(counter)
    return found


def joules(call: Callable[[], object], found: Sequence[Counter], seconds: float, samples: int) -> float | None:
    """Energy of the whole processor per sample, including idle cores and other programs in that time.

    Args:
        call: The function to run repeatedly.
        found: The counters.
        seconds: Time for which to run it.
        samples: Number of samples of one call.

    Returns:
        Joules per sample; None without a counter.
    """
    if not found:
        return None
    before = [counter.read() for counter in found]
    calls, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        call()
        calls += 1
    used = [(counter.read() - b) % (counter.limit + 1) for counter, b in zip(found, before, strict=True)]
    return sum(used) / 1e6 / (calls * samples)
