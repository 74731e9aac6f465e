"""Decides when a trial is stopped before its last epoch; Optuna's own pruners support one objective only."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import optuna
from optuna import Study
from optuna.trial import TrialState

from ttq_plugin.fronts import is_higher, upward
from ttq_plugin.search import keys
from ttq_plugin.search.crew.patience import PATIENCE, patiently
from ttq_plugin.search.space.objectives import Constraint, gains
from ttq_plugin.search.space.space import Space
from ttq_plugin.search.space.stopping import QUARTERS
from ttq_plugin.search.study.halving import LATEST, Reached, place, room

EXPERIENCE = 8
"""Complete trials without which nothing is known about how much an objective still rises.

Were trials alike, the largest of n rises would be exceeded by the next one with probability 1 / (n + 1).
"""


class Look(Protocol):
    """A training after one of its epochs, as `ttq_plugin.trial.run` shows it."""

    epoch: int
    dead: tuple[str, ...]

    def measure(self) -> dict[str, float]:
        """The trial's numbers if its training ended here."""


class Judge:
    """Follows one trial's training, and ends it by `optuna.TrialPruned` where the space says so.

    Args:
        study: An optuna.Study, read again at each look: other workers' trials count as soon as they are complete.
        space: What is searched.
        epochs: Number of epochs of this trial.
        full: The full-precision model's value of the task's metric; None where it is not known.
        number: The number of the trial.
        tell: Called with all measurements so far before a rung decides, so that other workers' trials are compared with
            this one.
    """

    def __init__(
        self,
        study: Study,
        space: Space,
        epochs: int,
        full: float | None = None,
        number: int | None = None,
        tell: Callable[[Mapping[str, Mapping[str, float]]], None] = lambda looks: None,
    ) -> None:
        self.study, self.space, self.epochs, self.full = study, space, epochs, full
        self.number, self.tell = number, tell
        self.looks: dict[str, dict[str, float]] = {}
        self.epoch = 0
        self._times: dict[int, list[float]] = {}
        for fraction in space.stop_early.fractions:
            if 0 < (epoch := round(epochs * fraction)) < epochs:
                self._times.setdefault(epoch, []).append(fraction)

    def __call__(self, look: Look) -> None:
        """Judge a training after an epoch.

        Args:
            look: The state of the training.

        Raises:
            TrialPruned: If the trial is to stop here; the message says why.
        """
        self.epoch = look.epoch
        if self.epoch == self.epochs:
            return
        when = f"after epoch {self.epoch} of {self.epochs}"
        if look.dead and self.space.stop_early.collapsed:
            raise optuna.TrialPruned(f"{', '.join(look.dead)} collapsed {when}")
        if self.epoch not in self._times:
            return
        numbers, fractions = self._wanted(look.measure()), self._times[self.epoch]
        self.looks |= {_key(fraction): numbers for fraction in fractions}
        for fraction in fractions:
            if fraction in QUARTERS:
                self._at_quarter(fraction, numbers, when)
        halving = self.space.stop_early.halving
        for fraction in fractions:
            if halving is not None and fraction in halving.fractions:
                self._at_rung(fraction, halving.eta, numbers, when)

    def _at_quarter(self, fraction: float, numbers: Mapping[str, float], when: str) -> None:
        """Stop a trial that scores too low, or that the front will dominate."""
        score, floor = self.space.score, self.space.stop_early.floor
        if floor is not None and upward(score, numbers[score]) < upward(score, floor):
            side = "below" if score.higher else "above"
            raise optuna.TrialPruned(f"validation {score.label} {numbers[score]:.3f} {side} {floor:g} {when}")
        if fraction != QUARTERS[0] and self._far_below(numbers[score]):
            what = f"validation {score.label} {numbers[score]:.3f} far below full precision's {self.full:.3f}"
            raise optuna.TrialPruned(f"{what} {when}")
        if self.space.stop_early.dominated and (why := self._hopeless(_key(fraction), numbers)):
            raise optuna.TrialPruned(f"{why} {when}")

    def _at_rung(self, fraction: float, eta: int, numbers: Mapping[str, float], when: str) -> None:
        """Stop a trial that is not in the better part of those that have reached this rung."""
        self.tell(self.looks)
        trials = patiently(lambda: self.study.get_trials(deepcopy=False), PATIENCE)
        key = _key(fraction)
        known = [t.user_attrs.get(keys.LOOKS, {}).get(key) for t in trials if t.number != self.number]
        others = [look for look in known if look is not None][-LATEST:]
        # Quantities that only a finished model is measured for are known of nobody here.
        names = [name for name in self.space.objectives if all(name in look for look in [numbers, *others])]
        if not names:
            return
        ahead = place(self._reached(numbers, names), [self._reached(look, names) for look in others])
        if ahead >= room(len(others) + 1, eta):
            score = self.space.score
            raise optuna.TrialPruned(
                f"{ahead + 1} of {len(others) + 1} at this rung, with a validation {score.label} of "
                f"{numbers[score]:.3f} {when}"
            )

    def _reached(self, look: Mapping[str, float], names: Sequence[str]) -> Reached:
        broken = [limit.violation(look[limit.name]) for limit in self.space.limits if limit.name in look]
        broken += self.space.far_below(look.get(self.space.score), self.full).values()
        return Reached(sum(max(0.0, by) for by in broken), tuple(upward(name, look[name]) for name in names))

    def saved(self, seconds: float) -> float:
        """Seconds that the epochs left out would have taken, at the pace of those done."""
        return seconds * (self.epochs - self.epoch) / max(self.epoch, 1)

    def _far_below(self, value: float) -> bool:
        """Whether a score is too far below full precision's; a schedule that is a quarter done may still recover."""
        return any(violation > 0 for violation in self.space.far_below(value, self.full).values())

    def _wanted(self, metrics: Mapping[str, float]) -> dict[str, float]:
        metrics = gains(metrics)
        names = dict.fromkeys([self.space.score, *self.space.objectives, *(c.name for c in self.space.limits)])
        return {name: metrics[name] for name in names if name in metrics}

    def _hopeless(self, key: str, now: Mapping[str, float]) -> str | None:
        trials = patiently(lambda: self.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)), PATIENCE)
        pairs = [
            (trial.user_attrs[keys.LOOKS][key], trial.user_attrs[keys.METRICS])
            for trial in trials
            if key in trial.user_attrs.get(keys.LOOKS, {})
        ]
        if len(pairs) < EXPERIENCE:
            return None
        for limit in self.space.limits:
            if limit.name in now and limit.violation(now[limit.name]) + _best_change(limit, pairs) > 0:
                return f"{limit} stays broken"
        bound = [optimistic(name, now, pairs, self._best(name)) for name in self.space.objectives]
        front = (trial for trial in trials if all(violation <= 0 for violation in trial.constraints.values()))
        if any(dominates(trial.values, bound) for trial in front):
            return "dominated even at best"
        return None

    def _best(self, name: str) -> float:
        """The best value that an objective can have at all."""
        known = self.space.quantities[name]
        return known.high if is_higher(name) else known.low


def _key(fraction: float) -> str:
    """A part of the epochs as the storage names it."""
    return f"{fraction:.4g}"


def optimistic(
    name: str,
    now: Mapping[str, float],
    pairs: Sequence[tuple[Mapping[str, float], Mapping[str, float]]],
    best: float,
) -> float:
    """The most that an objective is expected to end at, as an upward number.

    Args:
        name: Name of the objective.
        now: The trial's numbers at this look.
        pairs: The pairs of each complete trial, its numbers at this look and at its end.
        best: The best value there is.

    Returns:
        Today's value and the largest rise there was; where either is unknown (a quantity that only a finished model is
        measured for), the best value there is.
    """
    rises = [upward(name, end[name]) - upward(name, then[name]) for then, end in pairs if name in then and name in end]
    highest = upward(name, best)
    return min(highest, upward(name, now[name]) + max(0.0, *rises)) if name in now and rises else highest


def dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether every value of the first vector is at least the second's, and one is larger."""
    return list(one) != list(other) and all(a >= b for a, b in zip(one, other, strict=True))


def _best_change(limit: Constraint, pairs: Sequence[tuple[Mapping[str, float], Mapping[str, float]]]) -> float:
    changes = [
        limit.violation(end[limit.name]) - limit.violation(then[limit.name])
        for then, end in pairs
        if limit.name in then and limit.name in end
    ]
    return min(0.0, *changes)
