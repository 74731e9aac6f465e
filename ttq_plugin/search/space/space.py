"""A search space: methods, parameter ranges, objectives, and the papers' settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import PrivateAttr, model_validator

from ttq_plugin.fronts import Objective, upward
from ttq_plugin.methods import MIXED, SCALES, THRESHOLDS, searchable
from ttq_plugin.search.space.file import TRIED_FIRST, SpaceFile
from ttq_plugin.search.space.objectives import GAINS, PLAIN, Constraint, Quantity
from ttq_plugin.search.space.ranges import SHARED, Problem, Range, bound, check_names, number, own_names
from ttq_plugin.support.arguments import exact

if TYPE_CHECKING:
    from optuna.trial import Trial


class Space(SpaceFile):
    """A validated space file.

    Optuna knows a method's own parameters as "pttq.t_min": the same word means other values in each method, and one
    name with two ranges would confuse the sampler. The shared ones keep their plain names.
    """

    _text: str = PrivateAttr(default="")

    @property
    def text(self) -> str:
        """The file as it was read, or else JSON (which is valid YAML); a study stores it to record its space."""
        return self._text or self.model_dump_json()

    @property
    def limits(self) -> tuple[Constraint, ...]:
        """The constraints."""
        return tuple(Constraint.parse(text, self.quantities) for text in self.constraints)

    @property
    def quantities(self) -> dict[str, Quantity]:
        """What may be limited: the metric, the gains and the quantities behind them."""
        return self.metric.quantity | GAINS | PLAIN

    @property
    def score(self) -> Objective:
        """The task's metric, whether or not it is an objective."""
        return self.metric.objective

    @model_validator(mode="after")
    def _consistent(self) -> Space:
        for method, path, name, interval in self._ranges():
            limits = bound(method, name)
            for end, value in (("low", interval.low), ("high", interval.high)):
                if not limits.allows(value):
                    raise Problem(
                        (*path, *(() if interval.constant else (end,))), f"must be {limits}, got {exact(value)}"
                    )
        rows = {name: row for name, row in searchable().items() if name in self.methods}
        for method, row in rows.items():
            if THRESHOLDS in row.learns and "lr_threshold" not in self.parameters:
                raise Problem(("parameters", "lr_threshold"), f"is missing: {method} learns its thresholds")
        self._check_order()
        self._check_floor()
        if self.granularity == "out_channel" and (without := [m for m in self.methods if not rows[m].channels]):
            why = f"out_channel is not for {without[0]}; leave that method out, or the granularity"
            raise Problem(("granularity",), why)
        if "srqw" in self.objectives and (without := [m for m in self.methods if rows[m].binary]):
            raise Problem(("objectives",), f"srqw is for methods with zeros, got {without[0]}; leave one of them out")
        for key in TRIED_FIRST:
            checked = tuple(self.check_setting((key, i), entry) for i, entry in enumerate(getattr(self, key)))
            object.__setattr__(self, key, checked)
        return self

    def _ranges(self) -> Iterator[tuple[str | None, tuple[str, ...], str, Range]]:
        for name, interval in self.parameters.items():
            yield None, ("parameters", name), name, interval
        for method, name, interval in self._own():
            yield method, ("methods", method, name), name, interval

    def _own(self) -> Iterator[tuple[str, str, Range]]:
        for method, own in self.methods.items():
            for name, interval in own.items():
                yield method, name, interval

    def _check_order(self) -> None:
        """Every pair that can be drawn must be one that aTTQ accepts; a range that depends on another cannot be."""
        for method, own in self.methods.items():
            if searchable()[method].ordered and "t_min" in own and own["t_min"].high > own["t_max"].low:
                raise Problem(
                    ("methods", method),
                    f"every t_min must lie at or below every t_max, got t_min up to {own['t_min'].high:g} "
                    f"and t_max from {own['t_max'].low:g}",
                )

    def _check_floor(self) -> None:
        """A floor must be a value that the metric can have, and be said once."""
        stop, here = self.stop_early, ("stop_early", "mcc_floor")
        if stop.mcc_floor is not None and self.metric.name != "mcc":
            raise Problem(here, f"is for the metric mcc, but this task's is {self.metric.name}; use score_floor")
        if stop.mcc_floor is not None and stop.score_floor is not None:
            raise Problem(here, "means the same as score_floor; leave one of them out")
        known = self.quantities[self.metric.name]
        if stop.score_floor is not None and not known.low <= stop.score_floor <= known.high:
            ends = f"[{known.low:g}, {known.high:g}]"
            raise Problem(("stop_early", "score_floor"), f"must lie in {ends} for {self.metric.name}, "
                          f"got {stop.score_floor:g}")  # fmt: skip

    def far_below(self, value: float | None, full: float | None) -> dict[str, float]:
        """By how much a score is worse than `stop_early.far_below` allows, as the violation of a constraint.

        Args:
            value: The value of the task's metric.
            full: The same of the full-precision model.

        Returns:
            The constraint's text -> its violation, 0 or less where it holds; empty if none is required or known.
        """
        most = self.stop_early.far_below
        if most is None or value is None or full is None:
            return {}
        return {
            f"{self.score} within {most:g} of full precision": upward(self.score, full)
            - upward(self.score, value)
            - most
        }

    def check_setting(self, here: tuple[str | int, ...], entry: Mapping[str, Any]) -> dict[str, Any]:
        """One setting under plain names with its numbers as numbers.

        Args:
            here: Where it comes from, for the message.
            entry: Method and parameters, as in `paper` and `first`.

        Returns:
            The setting, fit for `fixed`.

        Raises:
            Problem: The search could not draw it.
        """
        method = entry.get("method")
        if method not in self.methods:
            came = f"got {method!r}" if "method" in entry else "but it is missing"
            raise Problem((*here, "method"), f"must be one of this space's methods, {', '.join(self.methods)}, {came}")
        own = tuple(self.methods[method])
        shared = [name for name in SHARED if self.applies(method, name)]
        check_names(here, entry, ("method", *own, *shared), required=own)
        values: dict[str, Any] = {"method": method}
        for name in (*own, *shared):
            if name in entry:
                values[name] = self._value((*here, name), method, name, entry[name])
        if searchable()[method].ordered and "t_min" in own and values["t_min"] > values["t_max"]:
            raise Problem((*here, "t_min"), f"must not exceed t_max {values['t_max']:g}, got {values['t_min']:g}")
        for name, value in values.items():
            interval = None if name == "method" else self._range(method, name)
            if interval is not None and not interval.contains(value):
                raise Problem((*here, name), f"must lie in this space's range {interval}, got {value:g}")
        return values

    @staticmethod
    def _value(path: tuple[str | int, ...], method: str, name: str, raw: object) -> float | int:
        limits = bound(method, name)
        value = number(raw)
        if value is None or not limits.allows(value):
            raise Problem(path, f"must be {limits}, got {raw!r}")
        return int(value) if limits.whole else value

    def _range(self, method: str, name: str) -> Range:
        return self.methods[method][name] if name in self.methods[method] else self.parameters[name]

    def intervals(self) -> dict[str, Range]:
        """Every range under the name that Optuna knows it by."""
        own = {f"{method}.{name}": interval for method, name, interval in self._own()}
        return {**self.parameters, **own}

    def applies(self, method: str, name: str) -> bool:
        """Whether the shared parameter exists in this space and does something under the method."""
        learns = searchable()[method].learns
        useful = {"lr_threshold": THRESHOLDS in learns, "lr_scale": SCALES in learns, "share": method != MIXED}
        return name in self.parameters and useful.get(name, True)

    def _names(self, method: str) -> list[tuple[str, str]]:
        """(plain name, name in Optuna) of what a method is given, the shared ones first."""
        shared = [(name, name) for name in SHARED if self.applies(method, name)]
        own = searchable()[method].names_with(zeros="zeros" in self.methods[method])
        return shared + [(name, f"{method}.{name}") for name in own]

    def suggest(self, trial: Trial) -> dict[str, Any]:
        """One trial's values under Optuna's names, constants included; with a single method, that one is a constant."""
        methods = list(self.methods)
        method: str = trial.suggest_categorical("method", methods) if len(methods) > 1 else methods[0]
        values: dict[str, Any] = {"method": method}
        for name, key in self._names(method):
            values[key] = self._range(method, name).draw(trial, key, bound(None, name).whole)
        return values

    def grid(self, method: str) -> dict[str, list[float | int]]:
        """The grid sampler's values of each parameter that a method varies, under Optuna's names."""
        names = ((self._range(method, name), bound(None, name).whole, key) for name, key in self._names(method))
        return {key: interval.grid(whole) for interval, whole, key in names if not interval.constant}

    def enqueued(self, *keys: str) -> list[dict[str, Any]]:
        """What is tried first as fixed parameters for `study.enqueue_trial`; parameters that one leaves out are drawn.

        Args:
            keys: Names among `TRIED_FIRST`; by default all of them.

        Returns:
            The settings, in the file's order.
        """
        return [self.fixed(entry) for key in keys or TRIED_FIRST for entry in getattr(self, key)]

    def fixed(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        """A setting under plain names as fixed parameters; what is no parameter of the study here is left out."""
        fixed = {"method": entry["method"]} if len(self.methods) > 1 else {}
        for name, key in self._names(entry["method"]):
            if name in entry and not self._range(entry["method"], name).constant:
                fixed[key] = entry[name]
        return fixed

    def settings(self, values: Mapping[str, Any], seed: int) -> dict[str, Any]:
        """The keywords of ``Settings`` for such values; None where the method has no such parameter."""
        # A learning rate of scales that nothing learns is left out, as is a share where a budget is in its place.
        method = values["method"]
        every = {name: None for own in own_names().values() for name in own} | {"lr_threshold": None}
        given = {name: values[key] for name, key in self._names(method)}
        fine = {} if self.granularity == "default" else {"granularity": self.granularity}
        return {"task": self.task, "method": method, **every, **given, **fine, "seed": seed}
