"""Trains the members of a front again with other seeds; members that were only lucky fall off."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev

import optuna
from optuna.trial import TrialState

from ttq_plugin.errors import InputError
from ttq_plugin.fronts import upward, upward_vector
from ttq_plugin.search import keys
from ttq_plugin.search.crew.engines import get_engine
from ttq_plugin.search.crew.job import Job, as_text
from ttq_plugin.search.crew.loop import OnPoll
from ttq_plugin.search.crew.parent import run_job, stop_requests
from ttq_plugin.search.runner import positive
from ttq_plugin.search.space.file import TRIED_FIRST
from ttq_plugin.search.space.space import Space
from ttq_plugin.search.space.stopping import StopEarly
from ttq_plugin.search.study import insides
from ttq_plugin.search.study.early import dominates
from ttq_plugin.search.study.storage import open_storage
from ttq_plugin.search.study.study import load_study, open_study
from ttq_plugin.statistics import LEVEL

CONFIRMED = "~confirm"
"""Suffix of the name of the study that holds the trainings with other seeds."""

Key = tuple[int, int]
"""A front member's number, and the seed of a training."""


@dataclass(frozen=True)
class Confirmed:
    """Results with other seeds for a front member. Its first run is left out, because it was selected for being good.

    Attributes:
        runs: Number of trainings that gave all objectives.
        failed: Number of trainings that did not.
        mean: Mean of each objective.
        low: Lower end of each mean's interval (Student's t, 95 %).
        high: Upper end of each mean's interval.
        holds: Whether no training failed and no other member's mean dominates the better ends of these intervals.
        change: Mean change of the score from full precision with its interval, by the corrected resampled t-test (an
            `Interval` as a dict); None where full precision is not known.
    """

    runs: int
    failed: int
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    holds: bool = True
    change: dict[str, float | int | bool] | None = None


@dataclass(frozen=True)
class Baseline:
    """What front members are compared with.

    Attributes:
        score: Name of the task's metric, one of the objectives.
        value: Full precision's score on validation data.
        share: Share of the validation samples among the training and validation samples.
    """

    score: str
    value: float
    share: float

    def change(
        self, objectives: Sequence[str], values: Sequence[tuple[float, ...]]
    ) -> dict[str, float | int | bool] | None:
        """The mean change over trainings that share all their data.

        Args:
            objectives: Names of the objectives.
            values: Their values in each training.

        Returns:
            The `Interval` of the corrected resampled t-test; None if the score is no objective.
        """
        from ttq_plugin.statistics.noninferiority import corrected_t  # torch comes with it

        if self.score not in objectives:
            return None
        place = list(objectives).index(self.score)
        return corrected_t([vector[place] - self.value for vector in values], self.share).to_dict()


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
    baseline: Baseline | None = None,
) -> tuple[dict[int, Confirmed], bool]:
    """Train each front member again with other seeds of sample order and dropout, in a study called NAME~confirm.

    That study is as robust as the search: killed workers are replaced, an interrupted one goes on, and nothing is
    trained twice.

    Args:
        space: What was searched.
        storage: Database URL of the study.
        study_name: Name of the searched study.
        members: Numbers of its front members.
        seeds: Number of trainings for each member, at least 2.
        workers: Number of processes.
        data: The data, as in `run_search`.
        cache: The cache folder, as in `run_search`.
        weights: The user's weights, as in `run_search`.
        device: The device, as in `run_search`.
        engine: The engine, as in `run_search`.
        trial_module: The module that runs a trial, as in `run_search`.
        on_poll: The callback, as in `run_search`.
        pause: Seconds between two looks at the study.
        baseline: Full precision, to measure changes from; None to measure none.

    Returns:
        The result for each member, which the study stores in its attribute `confirmed`, and whether the trainings were
        interrupted by a signal or an error.

    Raises:
        InputError: If there are fewer than 2 seeds, or the storage cannot be used.
    """
    if seeds < 2:
        raise InputError(f"An interval needs at least 2 other seeds, got {seeds}.")
    study, to_the_end = load_study(storage, study_name), _without_stops(space)
    place = get_engine(engine, storage)
    size = positive("workers", workers, place.room)
    name, seed = study_name + CONFIRMED, int(study.user_attrs[keys.SEED])
    wanted = {(number, seed + index) for number in members for index in range(1, seeds + 1)}
    exists = name in insides.names(open_storage(storage, create=False))
    again = open_study(storage, name, to_the_end, resume=exists, seed=seed)
    job = Job(
        storage=storage,
        study_name=name,
        space=to_the_end,
        target=_enqueue(study, again, wanted),
        seed=seed,
        data=as_text(data),
        device=device,
        cache=as_text(cache),
        trial_module=trial_module,
        weights=as_text(weights),
        fingerprint=study.user_attrs.get(keys.FINGERPRINT),
    )
    with stop_requests() as stop:
        summary = run_job(again, job, place, size, stop, on_poll=on_poll, pause=pause)
    found = judge(_runs(again, wanted, space.objectives), space.objectives, baseline)
    study.set_user_attr(keys.CONFIRMED, {str(number): asdict(result) for number, result in found.items()})
    return found, summary.interrupted or summary.error is not None


def _without_stops(space: Space) -> Space:
    """The same space, whose trainings go to their end."""
    none = {"stop_early": StopEarly(), "timeout": None, "stagnation": None, "sampler": "tpe"}
    plain = space.model_copy(update=none | dict.fromkeys(TRIED_FIRST, ()))
    plain._text = ""  # the space file's own text says what the search stops
    return plain


def _enqueue(study: optuna.Study, again: optuna.Study, wanted: set[Key]) -> int:
    """Enqueue the missing trainings; returns the total number of trainings."""
    known = {_key(trial) for trial in again.get_trials(deepcopy=False)}
    trials = {trial.number: trial for trial in study.get_trials(deepcopy=False)}
    for number, seed in sorted(wanted - known):
        parameters = {**insides.fixed(trials[number]), **trials[number].params}
        again.enqueue_trial(parameters, user_attrs={keys.ORIGIN: "confirm", keys.MEMBER: number, keys.SEED: seed})
    return len(wanted | known)


def judge(
    runs: Mapping[int, list[tuple[float, ...] | None]], objectives: tuple[str, ...], baseline: Baseline | None = None
) -> dict[int, Confirmed]:
    """Compute means and intervals, and decide which members hold.

    Args:
        runs: The objectives' natural values of each member's trainings, None for a training that failed.
        objectives: Names of the objectives.
        baseline: Full precision, or None.

    Returns:
        A result for each member with at least two finished trainings; the others are left out.
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
            change=None if baseline is None else baseline.change(objectives, values),
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


def _key(trial: optuna.trial.FrozenTrial) -> Key:
    return trial.user_attrs[keys.MEMBER], trial.user_attrs[keys.SEED]


def _runs(
    study: optuna.Study, wanted: set[Key], objectives: tuple[str, ...]
) -> dict[int, list[tuple[float, ...] | None]]:
    runs: dict[int, list[tuple[float, ...] | None]] = {}
    for trial in sorted(study.get_trials(deepcopy=False), key=_key):
        if _key(trial) in wanted and trial.state.is_finished():
            complete = trial.state == TrialState.COMPLETE
            values = tuple(trial.user_attrs[keys.METRICS][name] for name in objectives) if complete else None
            runs.setdefault(trial.user_attrs[keys.MEMBER], []).append(values)
    return runs
