"""``ttq search --confirm``: trains the front's members again, with a progress bar, and reports the results."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.progress import Progress

from ttq_plugin.commands.parts.console import out
from ttq_plugin.search.confirm import Confirmed, confirm_front
from ttq_plugin.search.space.space import Space
from ttq_plugin.search.study.ledger import RunningTrial
from ttq_plugin.tracking.records import TrialRecord
from ttq_plugin.tracking.words import again_in_words, with_unit, written


def confirm_all(
    space: Space,
    storage: str,
    study: str,
    members: Iterable[int],
    seeds: int,
    bars: Progress,
    options: Mapping[str, Any],
) -> tuple[dict[int, Confirmed], bool]:
    """Confirm the front; ``options`` are those of ``confirm_front``.

    Returns:
        The results with other seeds for each member, and whether the run was interrupted.
    """
    chosen = sorted(members)
    bar = bars.add_task("other seeds", total=seeds * len(chosen), note="")

    def on_poll(finished: Sequence[TrialRecord], running: Sequence[RunningTrial]) -> None:
        bars.update(bar, completed=len(finished), note=f"running {len(running)}")

    return confirm_front(space, storage, study, chosen, seeds, on_poll=on_poll, **options)


def print_confirmed(rows: Sequence[Mapping[str, Any]], space: Space) -> None:
    """Print one line per member: means and half widths over the other seeds, and whether it stays on the front."""
    for row in rows:
        if (found := row.get("confirmed")) is None:
            continue
        numbers = zip(space.objectives, found["mean"], found["high"], strict=True)
        told = ", ".join(
            f"{name} {with_unit(name, mean)} +- {written(name, high - mean)}" for name, mean, high in numbers
        )
        runs = f"{found['runs']} other seeds" + (f", {found['failed']} failed" if found["failed"] else "")
        out.print(f"trial {row['trial']}: {told} ({runs}){'' if found['holds'] else '  FALLS OFF the front'}")
        if change := again_in_words(found.get("change"), space.score):
            out.print(f"  change from full precision on validation data: {change}", markup=False)
