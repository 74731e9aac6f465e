"""``ttq report``: one study as an HTML page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ttq_plugin.commands.parts.console import err, out, print_json, working
from ttq_plugin.errors import InputError
from ttq_plugin.fronts import Objective, hypervolume, is_higher, knee, upward
from ttq_plugin.search import keys
from ttq_plugin.search.study.importance import importances
from ttq_plugin.search.study.ledger import finished
from ttq_plugin.search.study.study import load_study, stored_space
from ttq_plugin.support.names import file_name
from ttq_plugin.tracking import TrialRecord, front
from ttq_plugin.tracking.records import objective_vector
from ttq_plugin.tracking.remake import remake
from ttq_plugin.tracking.store import check_folder, tested
from ttq_plugin.tracking.words import again_in_words, label_of, with_unit, written

if TYPE_CHECKING:
    import optuna

    from ttq_plugin.tracking.page.report import Study


def report(
    study: str,
    store: str,
    storage: str | None,
    floor: float | None,
    path: Path | None,
    *,
    as_json: bool,
    seed: int | None = None,
    device: str = "cpu",
) -> None:
    """Write the page and print which member it recommends; ``device`` has no effect here."""
    with working("report"):
        result = write_report(study, store, storage, floor, path, seed=seed or 0)
    if as_json:
        print_json(result)
        return
    pick = result["pick"]
    values = ", ".join(f"{name} {with_unit(name, pick[name])}" for name in result["objectives"])
    out.print(f"recommended: trial {pick['trial']} ({values})")
    out.print(f"             {result['command']}")
    out.print(f"report: {path or result['report']}")
    if not result["tested"]:
        err.print("There are no test scores: the front is not in this MLflow store, or has not been tested yet.")


def write_report(
    study: str, store: str, storage: str | None, floor: float | None, path: Path | None, *, seed: int = 0
) -> dict[str, Any]:
    """Read a study, choose the member to recommend, and write its page.

    Args:
        study: The study's name.
        store: MLflow's folder or address.
        storage: The study's database; None for the one in the store's folder.
        floor: Score that the recommended member must reach.
        path: Path of the page; None for the store's folder.
        seed: Random seed used to estimate the parameters' importances.

    Returns:
        The page's path, the front, the recommended member and its command, as plain data.

    Raises:
        InputError: If there is no such study, or it has no front yet.
    """  # noqa: DOC502 - raised by what it calls
    from ttq_plugin.support.files import write_text
    from ttq_plugin.tracking.page.report import report_page

    loaded = load_study(storage_of(store, storage), study)
    described, members = _described(loaded, store, floor, seed)
    target = path or store_folder(store) / "reports" / f"{file_name(study)}.html"
    write_text(target, report_page(described))
    return _summary(described, members) | {"report": str(target.absolute())}


def _described(loaded: optuna.Study, store: str, floor: float | None, seed: int) -> tuple[Study, list[TrialRecord]]:
    """The contents of the page, and the members of the front."""
    from ttq_plugin.tracking.page.report import Study

    space, notes = stored_space(loaded), loaded.user_attrs
    objectives, score = space.objectives, space.score
    records = finished(loaded)
    members = front_members(loaded.study_name, records, objectives)
    confirmed = {int(number): found for number, found in notes.get(keys.CONFIRMED, {}).items()}
    fallen = {number for number, found in confirmed.items() if not found["holds"]}
    pick, why = recommended([m for m in members if m.number not in fallen] or members, objectives, floor, score)
    complete = [record for record in records if objective_vector(record, objectives) is not None]
    evidence = tested(store, loaded.study_name, score)
    described = Study(
        name=loaded.study_name,
        facts={"task": space.task, "objectives": ", ".join(objectives), "seed": str(notes[keys.SEED])},
        objectives=objectives,
        records=records,
        commands={record.number: remake(space.task, record, notes.get(keys.INPUTS)) for record in complete},
        pick=pick.number,
        why=why,
        tests={number: found[score.on_test] for number, found in evidence.items()},
        remarks={number: _remark(found, objectives, score) for number, found in confirmed.items()},
        importances={f"{i.among} ({i.trials})": i.shares for i in importances(loaded, objectives, seed=seed)},
        score=score,
        full_precision=notes.get(keys.FULL_PRECISION, {}),
        evidence=evidence,
    )
    return described, members


def _summary(study: Study, members: Sequence[TrialRecord]) -> dict[str, Any]:
    """The front and the recommended member as plain data."""
    pick = next(record for record in members if record.number == study.pick)
    return {
        "study": study.name,
        "objectives": list(study.objectives),
        "tested": sorted(study.tests),
        "trials": len(study.records),
        "front": sorted(record.number for record in members),
        "hypervolume": hypervolume([objective_vector(record, study.objectives) or () for record in members]),
        "pick": {
            "trial": pick.number,
            **{name: value for name, value in pick.parameters.items() if value is not None},
            **pick.metrics,
            study.score.on_test: study.tests.get(pick.number),
        },
        "metric": study.score,
        "command": study.commands[pick.number],
        "importances": study.importances,
    }


def _remark(found: Mapping[str, Any], objectives: Sequence[str], score: str) -> str:
    """The results with other seeds for a member."""
    ends = zip(objectives, found["mean"], found["high"], strict=True)
    means = ", ".join(f"{name} {written(name, mean)} +- {written(name, high - mean)}" for name, mean, high in ends)
    verdict = "holds" if found["holds"] else "falls off"
    change = again_in_words(found.get("change"), score)
    moved = f"; change from full precision {change}" if change else ""
    return f"{verdict} with {found['runs']} other seeds (means, 95 % intervals): {means}{moved}"


def store_folder(store: str) -> Path:
    """The folder for files that accompany an MLflow store; for a server, a local default."""
    return Path("mlflow_runs") if "://" in store else Path(store)


def default_storage(folder: Path) -> str:
    """The study database that ``ttq search`` uses by default."""
    check_folder(folder)
    return f"sqlite:///{(folder / 'studies.db').absolute()}"


def storage_of(store: str, storage: str | None) -> str:
    """The study database to read.

    Args:
        store: MLflow's folder or address.
        storage: The database's URL; None for the one that ``ttq search`` uses with that store.

    Returns:
        Its URL.

    Raises:
        InputError: If the store is a server and there is no database in this folder.
    """
    folder = store_folder(store)
    if storage is None and "://" in store and not (folder / "studies.db").is_file():
        raise InputError(
            f"the study's database must be named by --storage if --store is a server, because {folder / 'studies.db'} "
            "does not exist here; a search with that store leaves it in the folder in which it ran."
        )
    return default_storage(folder) if storage is None else storage


def front_members(study: str, records: Sequence[TrialRecord], objectives: Sequence[str]) -> list[TrialRecord]:
    """The trials on a study's front.

    Args:
        study: The study's name.
        records: Its finished trials.
        objectives: The objectives of the front.

    Returns:
        The members in the order of their numbers.

    Raises:
        InputError: If the study has none yet.
    """
    numbers = front(records, objectives)
    if not numbers:
        raise InputError(
            f"The study {study!r} has no front yet: none of its {len(records)} finished trials can be on it."
        )
    return [record for record in records if record.number in numbers]


def recommended(
    members: Sequence[TrialRecord],
    objectives: Sequence[str],
    floor: float | None,
    score: str = Objective("mcc"),
) -> tuple[TrialRecord, str]:
    """The knee of the front, among the members that reach the floor.

    Args:
        members: The members of the front.
        objectives: The objectives of the front.
        floor: Lowest acceptable validation score (for an error, the highest); None for any.
        score: The task's metric.

    Returns:
        The member, and the reason for choosing it.

    Raises:
        InputError: If no member reaches the floor.
    """
    reached = {record.number: upward(score, record.metrics[score]) for record in members}
    able = [record for record in members if floor is None or reached[record.number] >= upward(score, floor)]
    bound = "" if floor is None else f"{label_of(score)} {'>=' if is_higher(score) else '<='} {floor:g}"
    if not able:
        best = max(members, key=lambda record: reached[record.number]).metrics[score]
        raise InputError(f"no member of the front has {bound}; the best has {best:.4f}.")
    vectors = [objective_vector(record, objectives) or () for record in able]
    among = "the front" if floor is None else f"the {len(able)} members of the front with {bound}"
    return able[knee(vectors)], (
        f"The knee of {among}: the member closest to the best value of every objective, each scaled to its range "
        f"there. This is a compromise; with other priorities, another member may suit better."
    )
