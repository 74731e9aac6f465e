"""Is a front real? Its members are trained again with other seeds: what was lucky once falls off."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from optuna.trial import TrialState

from ttq_plugin.errors import InputError
from ttq_plugin.fronts import upward, upward_vector
from ttq_plugin.search.crew.engines import get_engine
from ttq_plugin.search.crew.job import Job
from ttq_plugin.search.crew.loop import OnPoll
from ttq_plugin.search.runner import positive, run_job, stop_requests
from ttq_plugin.search.space.space import Space
from ttq_plugin.search.space.stopping import StopEarly
from ttq_plugin.search.study import insides
from ttq_plugin.search.study.early import dominates
from ttq_plugin.search.study.storage import open_storage
from ttq_plugin.search.study.study import load_study, open_study
from ttq_plugin.statistics import LEVEL

CONFIRMED = "~confirm"
"""What a searched study's name gets for the study of its front's other seeds."""


@dataclass(frozen=True)
class Confirmed:
    """What other seeds gave for a front member; its first run is left out, for it was chosen because it was good.

    Attributes:
        runs: trainings that gave all objectives.
        failed: trainings that did not.
        mean: of each objective.
        low: lower end of the mean's interval (Student's t, 95 %), of each objective.
        high: upper end.
        holds: whether no other member's mean dominates this one's better ends, and no training failed.
    """

    runs: int
    failed: int
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    holds: bool = True


def confirm_front(
    space: Space,
    storage: str,
    study_name: str,
    members: Iterable[int],
    seeds: int,
    *,
    workers: int | None = None,
    data: str | Path | None = None,
    cache: str | Path | None = None,
    weights: str | Path | None = None,
    device: str = "cpu",
    engine: str = "processes",
    trial_module: str = "ttq_plugin.trial.run",
    on_poll: OnPoll | None = None,
    pause: float = 0.5,
) -> tuple[dict[int, Confirmed], bool]:
    """Trains each front member again with other seeds of sample order and dropout, as a study NAME~confirm.

    That study has the search's own care: a killed worker is replaced, an interrupted one goes on, nothing is run twice.

    Args:
        space: what was searched.
        storage: the database URL.
        study_name: the searched study.
        members: numbers of its front members.
        seeds: how many trainings each gets, at least 2.
        workers: processes.
        data: as in `run_search`, likewise the next six.
        cache: as there.
        weights: as there.
        device: as there.
        engine: as there.
        trial_module: as there.
        on_poll: as there.
        pause: between two looks.

    Returns:
        what was found for each member, also kept in the study's attribute `confirmed`; whether a signal cut it short.

    Raises:
        InputError: fewer than 2 seeds, or the storage cannot be used.
    """
    if seeds < 2:
        raise InputError(f"An interval needs at least 2 other seeds, got {seeds}.")
    study = load_study(storage, study_name)
    plain = space.model_copy(
        update={"stop_early": StopEarly(), "timeout": None, "stagnation": None, "sampler": "tpe", "paper": ()}
    )
    plain._text = ""  # the file's says what the search stops; these trainings go to their end
    place = get_engine(engine, storage)
    size = positive("workers", workers, place.room)
    name, seed = study_name + CONFIRMED, int(study.user_attrs["seed"])
    exists = name in insides.names(open_storage(storage, create=False))
    again = open_study(storage, name, plain, resume=exists, seed=seed)
    wanted = {(number, seed + index) for number in members for index in range(1, seeds + 1)}
    known = {_key(trial) for trial in again.get_trials(deepcopy=False)}
    fixed = {trial.number: trial for trial in study.get_trials(deepcopy=False)}
    for number, own in sorted(wanted - known):
        trial = fixed[number]
        parameters = {**insides.fixed(trial), **trial.params}
        again.enqueue_trial(parameters, user_attrs={"origin": "confirm", "member": number, "seed": own})
    target = len(wanted | known)
    job = Job(
        storage,
        name,
        plain,
        target,
        seed,
        _text(data),
        device,
        _text(cache),
        None,
        trial_module,
        weights=_text(weights),
        fingerprint=study.user_attrs.get("fingerprint"),
    )
    with stop_requests() as stop:
        summary = run_job(again, job, place, size, stop, on_poll=on_poll, pause=pause)
    found = judge(_runs(again, wanted, space.objectives), space.objectives)
    study.set_user_attr("confirmed", {str(number): asdict(result) for number, result in found.items()})
    return found, summary.interrupted or summary.error is not None


def judge(runs: Mapping[int, list[tuple[float, ...] | None]], objectives: tuple[str, ...]) -> dict[int, Confirmed]:
    """Means, intervals, and which members hold.

    Args:
        runs: of each member, the objectives' natural values of its trainings, None for one that failed.
        objectives: their names.

    Returns:
        a result for each member with at least two finished trainings; another one is left out.
    """
    found = {}
    for number, vectors in runs.items():
        values = [vector for vector in vectors if vector is not None]
        if len(values) < 2:
            continue
        columns = list(zip(*values, strict=True))
        middle = tuple(mean(column) for column in columns)
        half = [half_width(column) for column in columns]
        found[number] = Confirmed(
            runs=len(values),
            failed=len(vectors) - len(values),
            mean=middle,
            low=tuple(m - h for m, h in zip(middle, half, strict=True)),
            high=tuple(m + h for m, h in zip(middle, half, strict=True)),
        )
    assert all(len(result.mean) == len(objectives) for result in found.values())
    return {
        number: Confirmed(**{**asdict(result), "holds": not result.failed and not _off(number, found, objectives)})
        for number, result in found.items()
    }


def _off(number: int, found: Mapping[int, Confirmed], objectives: tuple[str, ...]) -> bool:
    """Whether another member's mean dominates the better end of each of this one's intervals."""
    own = found[number]
    ends = zip(objectives, own.low, own.high, strict=True)
    best = tuple(max(upward(name, low), upward(name, high)) for name, low, high in ends)
    means = (upward_vector(objectives, other.mean) for key, other in found.items() if key != number)
    return any(dominates(mean, best) for mean in means)


def half_width(values: Sequence[float]) -> float:
    """Half the width of the interval of a mean (Student's t); of at least two values."""
    from scipy.stats import t

    return float(t.ppf((1 + LEVEL) / 2, len(values) - 1) * stdev(values) / math.sqrt(len(values)))


def _key(trial: Any) -> tuple[int, int]:
    return trial.user_attrs["member"], trial.user_attrs["seed"]


def _runs(
    study: Any, wanted: set[tuple[int, int]], objectives: tuple[str, ...]
) -> dict[int, list[tuple[float, ...] | None]]:
    runs: dict[int, list[tuple[float, ...] | None]] = {}
    for trial in sorted(study.get_trials(deepcopy=False), key=_key):
        if _key(trial) in wanted and trial.state.is_finished():
            complete = trial.state == TrialState.COMPLETE
            values = tuple(trial.user_attrs["metrics"][name] for name in objectives) if complete else None
            runs.setdefault(trial.user_attrs["member"], []).append(values)
    return runs


def _text(path: str | Path | None) -> str | None:
    return None if path is None else str(path)
