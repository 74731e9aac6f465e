"""A search's front as ``ttq search`` prints it: a table, the events of the search, and the non-inferior members."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ttq_plugin.commands.parts.confirm import print_confirmed
from ttq_plugin.commands.parts.console import out, table
from ttq_plugin.commands.parts.lines import command, see, store_words
from ttq_plugin.commands.train import SIMULATED
from ttq_plugin.search.space.space import Space
from ttq_plugin.tracking.words import label_of, with_unit

ENDED = {
    "time": "its time limit was reached",
    "grid": "every combination of the grid was tried",
    "stagnation": "the hypervolume stopped rising",
}
"""Why a search ended before its number of trials, in words."""

HEADINGS = {
    "cr_gain_total": "CR_G",
    "cr_gain_quantized": "CR_G quant",
    "ec_gain_total": "EC_G",
    "cr_gain_disk": "file gain",
    "cr_gain_entropy": "Shannon gain",
    "srqw": "zeros",
}


def print_front(result: dict[str, Any], space: Space, store: str, storage: Sequence[str] = ()) -> None:
    """Print the front as a table, the events of the search, and where to find its picture and its runs.

    Args:
        result: The result of ``finish``.
        space: The space that was searched.
        store: MLflow's folder or address.
        storage: The option that names the study's database, if commands need it.
    """
    _print_table(result, space)
    _print_events(result)
    _print_proven(result)
    print_confirmed(result["front"], space)
    _print_notes(result["front"])
    out.print(f"took {result['seconds']:.0f} s")
    out.print(f"picture: {result['picture']}")
    if result["front"]:
        options = [*store_words(store), *storage]
        out.print(f"report:  {command('report', [result['study']], options)}")
    for line in see(store, result["link"], result["study"]):
        out.print(line)


def _print_table(result: dict[str, Any], space: Space) -> None:
    """Print the full-precision model and the members of the front, one row each."""
    full, score = result["full_precision"], space.score
    metrics = list(dict.fromkeys([*space.objectives, "srqw"]))
    headings = {"trial": "right", "method": "left", "from": "left"}
    names = HEADINGS | {score: f"{label_of(score)} val"}
    numbers = [names.get(name, name) for name in metrics] + [f"{label_of(score)} test", "epochs"]
    baseline = ["", "fp32", ""] + [with_unit(score, full[score]) if m == score else "" for m in metrics]
    rows = [[*baseline, with_unit(score, full[score.on_test]), ""]]
    rows += [
        [str(row["trial"]), row["method"], row["origin"]]
        + [with_unit(m, row.get(m)) for m in metrics]
        + [with_unit(score, row[score.on_test]), str(row["epochs"])]
        for row in result["front"]
    ]
    title = f"{result['study']}: the front of {result['trials']['complete']} trials"
    table(title, headings | dict.fromkeys(numbers, "right"), rows)


def _print_events(result: dict[str, Any]) -> None:
    """Print the events of the search."""
    counts = result["trials"]
    if result["simulated"]:
        out.print(SIMULATED)
    if counts["failed"]:
        out.print(f"{_trials(counts['failed'])} failed; MLflow shows why.")
    if counts["pruned"]:
        saved = f"{result['saved_seconds']:.0f} s"
        out.print(f"{_trials(counts['pruned'])} ended early, which saved about {saved} of training.")
    if result["ended"] in ENDED:
        out.print(f"The search ended because {ENDED[result['ended']]}.")


def _trials(count: int) -> str:
    return "1 trial" if count == 1 else f"{count} trials"


def _print_notes(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the classes that members have lost; other notes are long, and MLflow shows them."""
    for row in rows:
        for note in (note for note in row["notes"] if " is lost: " in note):
            out.print(f"trial {row['trial']}: {note}")
    if noted := [str(row["trial"]) for row in rows if row["notes"]]:
        named = f"trial{'s' if len(noted) > 1 else ''} {', '.join(noted)}"
        out.print(f"MLflow has notes on {named}, for example about lowered thresholds or collapsed layers.")


def _print_proven(result: dict[str, Any]) -> None:
    """Print which members are shown to lose less than the margin on test data."""
    judged = [row for row in result["front"] if "not_inferior" in row]
    if not judged:
        return
    margin, change = judged[0]["not_inferior"]["margin"], judged[0]["test_change"]
    units = f"{change['units']} {'groups' if change['grouped'] else 'samples'}"
    named = with_unit(result["metric"], margin).replace(" %", " points")
    proven = ", ".join(str(row["trial"]) for row in judged if row["not_inferior"]["holds"])
    said = f"shown for trial{'s' if ',' in proven else ''} {proven}" if proven else "not shown for any trial"
    members = "member" if len(judged) == 1 else "members"
    out.print(
        f"Non-inferiority on test data within {named}: {said} ({units}, Holm's correction for {len(judged)} {members})."
    )
