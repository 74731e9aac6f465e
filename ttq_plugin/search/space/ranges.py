"""The parameters that a search may vary: their bounds, the methods that have them, and their ranges."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, StrictBool, StrictInt, model_validator

from ttq_plugin.methods import POSITIVE, Bound, searchable

if TYPE_CHECKING:
    from optuna.trial import Trial

SHARED = ("lr", "lr_scale", "lr_threshold", "epochs", "share")
"""The parameters whose one range holds for every method."""


class Problem(ValueError):
    """What is wrong below a key of a space file; load.py turns it into a sentence that names file and key."""

    def __init__(self, path: tuple[str | int, ...], message: str) -> None:
        super().__init__(message)
        self.path = path


def own_names() -> dict[str, tuple[str, ...]]:
    """Each method's own parameters; all of them are required, and each method has its own range for them."""
    return {name: row.names for name, row in searchable().items()}


def check_own(method: str, own: object) -> None:
    """Check that a method has its own parameters: its thresholds, or in their place a share of zeros.

    Args:
        method: One of ``own_names``.
        own: What a file says of it.

    Raises:
        Problem: It has others, or lacks one.
    """
    row = searchable()[method]
    prescribed = isinstance(own, Mapping) and row.zeros and "zeros" in own
    names = row.names_with(zeros=prescribed)
    if isinstance(own, Mapping) and prescribed and (both := [name for name in row.names if name in own.keys() - names]):
        why = "determines the thresholds"
        raise Problem((method, both[0]), f"cannot be given together with zeros, which {why}; leave one of them out")
    check_names((method,), own, names, required=names)


def bound(method: str | None, name: str) -> Bound:
    """The bound of a method's own parameter, or with method None of a shared one."""
    row = searchable().get(method or "")
    if row is not None and name in (*row.names, *(("zeros",) if row.zeros else ())):
        return row.number(name).bound
    return {"epochs": Bound(low=1, whole=True), "share": Bound(0, 1, low_open=True)}.get(name, POSITIVE)


class Range(BaseModel):
    """An interval to search, both ends included; a plain number in the file is the interval of that one value."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    low: FiniteFloat = Field(description="The smallest value.")
    high: FiniteFloat = Field(description="The largest value.")
    log: StrictBool = Field(default=False, description="Whether the logarithm is searched.")
    points: StrictInt = Field(default=3, ge=1, description="Number of values that the grid sampler tries.")

    @model_validator(mode="before")
    @classmethod
    def _from_number(cls, value: Any) -> Any:
        if isinstance(value, (dict, Range)):
            return value
        if isinstance(value, bool) or number(value) is None:
            raise Problem(
                (), f"must be a number or a mapping with low, high and optionally log and points, got {value!r}"
            )
        return {"low": value, "high": value}

    @model_validator(mode="after")
    def _ordered(self) -> Range:
        if self.low > self.high:
            raise Problem((), f"low must not exceed high, got low {self.low:g} and high {self.high:g}")
        if self.log and self.low <= 0:
            raise Problem(("low",), f"must be greater than 0 where log is true, got {self.low:g}")
        return self

    @property
    def constant(self) -> bool:
        """Whether there is nothing to search."""
        return self.low == self.high

    def contains(self, value: float) -> bool:
        """Whether the value lies between the two ends."""
        return self.low <= value <= self.high

    def grid(self, whole: bool) -> list[float | int]:
        """The `points` values that the grid sampler takes: evenly spaced, both ends included, on a log scale if so."""
        if self.constant or self.points == 1:
            middle = math.sqrt(self.low * self.high) if self.log else (self.low + self.high) / 2
            values = [self.low if self.constant else middle]
        else:
            low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
            steps = [low + (high - low) * i / (self.points - 1) for i in range(self.points)]
            values = [math.exp(step) if self.log else step for step in steps]
            values[0], values[-1] = self.low, self.high  # exactly
        return list(dict.fromkeys(round(value) for value in values)) if whole else list(values)

    def draw(self, trial: Trial, key: str, whole: bool) -> float | int:
        """The trial's value under that name; a constant is no parameter of the study and costs the sampler nothing."""
        if self.constant:
            return int(self.low) if whole else self.low
        if whole:
            return int(trial.suggest_int(key, int(self.low), int(self.high), log=self.log))
        return float(trial.suggest_float(key, self.low, self.high, log=self.log))

    def __str__(self) -> str:
        return f"{self.low:g}" if self.constant else f"[{self.low:g}, {self.high:g}]"


def number(value: Any) -> float | None:
    """The value as a finite float, else None; YAML 1.1 reads 3e-4 (without a dot) as a string, people mean a number."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        result = float(value)
    except (ValueError, OverflowError):
        return None
    return result if math.isfinite(result) else None


def unknown(kind: str, name: object, allowed: Iterable[str]) -> str:
    """The sentence about a name that is not among the allowed ones, with the closest of them if one is close."""
    names = list(allowed)
    close = difflib.get_close_matches(str(name), names, n=1)
    hint = f" (did you mean {close[0]}?)" if close else ""
    return f"unknown {kind} {name!r}{hint}, allowed: {', '.join(names)}"


def check_names(
    path: tuple[str | int, ...],
    value: object,
    allowed: Any,
    *,
    required: tuple[str, ...] = (),
    kind: str = "key",
) -> None:
    """Refuse anything but a mapping, unknown names and missing ones, before pydantic checks the values."""
    names = list(allowed)
    if not isinstance(value, Mapping):
        raise Problem(path, f"must be a mapping with keys among {', '.join(names)}, got {value!r}")
    for name in value:
        if name not in names:
            raise Problem(path, unknown(kind, name, names))
    for name in required:
        if name not in value:
            raise Problem((*path, name), f"is missing, required here: {', '.join(required)}")
