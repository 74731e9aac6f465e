"""``ttq compare``: the fronts of several studies in one figure, with numbers that compare them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from optuna import Study

from ttq_plugin.commands.parts.console import err, out, print_json, table
from ttq_plugin.commands.parts.lines import see
from ttq_plugin.commands.report import front_members, storage_of
from ttq_plugin.errors import InputError
from ttq_plugin.search import keys
from ttq_plugin.search.space.space import Space
from ttq_plugin.search.study.ledger import finished
from ttq_plugin.search.study.study import load_study, stored_space
from ttq_plugin.tracking import TrialRecord, open_store
from ttq_plugin.tracking.comparison import Comparison, compare_fronts, with_tests
from ttq_plugin.tracking.pictures.comparison import plot_fronts
from ttq_plugin.tracking.runs.comparison import record_comparison, rows
from ttq_plugin.tracking.store import tested
from ttq_plugin.trial.tested import change_of, margin_of


def compare(
    studies: Sequence[str],
    store: str,
    storage: str | None,
    floors: Sequence[float],
    path: Path | None,
    *,
    margin: float | None = None,
    as_json: bool,
    seed: int | None = None,
    device: str = "cpu",
) -> None:
    """Compare the studies, log the run and draw the picture; ``seed`` and ``device`` have no effect here."""
    names = list(dict.fromkeys(studies))
    if len(names) < 2:
        raise InputError(f"a comparison needs at least two different studies, got {', '.join(names)}; name another.")
    url = storage_of(store, storage)
    loaded = {name: load_study(url, name) for name in names}
    spaces = {name: stored_space(study) for name, study in loaded.items()}
    objectives, score = _common(spaces), spaces[names[0]].score
    records = {name: finished(study) for name, study in loaded.items()}
    for name, own in records.items():
        front_members(name, own, objectives)  # refuses a study without any
    comparison = compare_fronts(records, objectives, sorted(floors), score)
    comparison = _tested(comparison, records, loaded, store, margin_of(spaces[names[0]].metric, margin))
    seeds = {name: study.user_attrs[keys.SEED] for name, study in loaded.items()}
    task = spaces[names[0]].task
    opened = open_store(store)
    if path:
        plot_fronts(comparison.fronts, objectives, path, f"{task}: {len(names)} studies", score)
    link = record_comparison(opened, comparison, {"task": task, "studies": ",".join(names)})
    if as_json:
        print_json(asdict(comparison) | {"task": task, "picture": str(path.absolute()) if path else None, "link": link})
        return
    _print(comparison, task)
    if len(set(seeds.values())) > 1:
        err.print(
            "The studies have different seeds and therefore different validation splits, which also changes "
            "their scores."
        )
    if path:
        out.print(f"picture: {path}")
    for line in see(store, link):
        out.print(line)


def _tested(
    comparison: Comparison,
    records: dict[str, list[TrialRecord]],
    studies: dict[str, Study],
    store: str,
    margin: float | None,
) -> Comparison:
    """Add the members' test scores from MLflow, and the results with other seeds, to the comparison."""
    score = comparison.score
    evidence = {name: tested(store, name, score) for name in studies}
    changes = {
        name: {number: change for number, numbers in own.items() if (change := change_of(numbers, score)) is not None}
        for name, own in evidence.items()
    }
    again = {name: _again(study) for name, study in studies.items()}
    return with_tests(comparison, records, evidence, changes, margin, again)


def _again(study: Study) -> dict[int, dict[str, float | int | bool]]:
    """The members that `--confirm` trained again, with their mean change from full precision if it is known."""
    found = study.user_attrs.get(keys.CONFIRMED, {})
    return {int(number): told["change"] for number, told in found.items() if told.get("change") is not None}


def _common(spaces: dict[str, Space]) -> list[str]:
    """Find the objectives that all studies have, in the order of the first study.

    Args:
        spaces: The search space of each study, by the study's name.

    Returns:
        The names of at least two objectives.

    Raises:
        InputError: If the studies have different tasks or metrics, or share fewer than two objectives.
    """
    tasks = {name: space.task for name, space in spaces.items()}
    if len(set(tasks.values())) > 1:
        told = ", ".join(f"{name} ({task})" for name, task in tasks.items())
        raise InputError(f"the studies must search the same task, got {told}; compare studies of one task.")
    if len({space.metric for space in spaces.values()}) > 1:
        told = ", ".join(f"{name} ({space.metric.name})" for name, space in spaces.items())
        raise InputError(f"the studies must be scored by the same metric, got {told}; compare studies with one metric.")
    kept = {name: list(space.objectives) for name, space in spaces.items()}
    common = [name for name in next(iter(kept.values())) if all(name in own for own in kept.values())]
    if len(common) < 2:
        told = "; ".join(f"{name}: {', '.join(own)}" for name, own in kept.items())
        raise InputError(f"the studies must share at least two objectives, got {told}.")
    return common


def _print(comparison: Comparison, task: str) -> None:
    names = list(comparison.fronts)
    headings = {"": "left"} | {name: "right" for name in names}
    table(f"{task}: {len(names)} fronts, together {comparison.together:.4f}", headings, rows(comparison))
