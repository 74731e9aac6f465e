"""What a search may vary: which parameters exist, what each may be, which method has which, and a range of one."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, FiniteFloat, StrictBool, model_validator

OBJECTIVES = ("mcc", "cr_gain_total", "cr_gain_quantized", "ec_gain_total", "srqw")
"""All are maximised: a quantity that should shrink enters as its gain, so no other place knows a direction."""

METHODS: dict[str, tuple[str, ...]] = {
    "ttq": ("t",),
    "attq": ("t_min", "t_max"),
    "pttq": ("t_min", "t_max", "alpha"),
}
"""A method's own parameters; all of them are required, and each method has its own range for them."""

LEARNS_THRESHOLDS = frozenset({"pttq"})
"""The methods that use lr_threshold; elsewhere it would be a dimension of the search without an effect."""

SHARED = ("lr", "lr_scale", "lr_threshold", "epochs", "share")
"""The parameters whose one range holds for every method."""


class Problem(ValueError):
    """What is wrong below a key of a space file; load.py turns it into a sentence that names file and key."""

    def __init__(self, path: tuple[str | int, ...], message: str) -> None:
        super().__init__(message)
        self.path = path


@dataclass(frozen=True)
class Bound:
    """The values that a parameter may take at all, wherever a space's own ranges lie."""

    low: float = -math.inf
    high: float = math.inf
    low_open: bool = False
    high_open: bool = False
    whole: bool = False

    def allows(self, value: float) -> bool:
        """Whether the value lies inside."""
        above = value > self.low if self.low_open else value >= self.low
        below = value < self.high if self.high_open else value <= self.high
        return above and below and (not self.whole or float(value).is_integer())

    def __str__(self) -> str:
        kind = "a whole number" if self.whole else "a number"
        if self.high < math.inf:
            return (
                f"{kind} in {'(' if self.low_open else '['}{self.low:g}, {self.high:g}{')' if self.high_open else ']'}"
            )
        if self.low > -math.inf:
            return f"{kind} {'greater than' if self.low_open else 'of at least'} {self.low:g}"
        return kind


POSITIVE = Bound(low=0, low_open=True)


def bound(method: str | None, name: str) -> Bound:
    """The bound of a method's own parameter, or with method None of a shared one."""
    if name == "t":
        return Bound(0, 1, low_open=True, high_open=True)
    if name in {"t_min", "t_max"}:
        # pTTQ's are learned from there on and kept positive; aTTQ's have a sign (t_min is usually negative).
        return Bound(low=0) if method in LEARNS_THRESHOLDS else Bound()
    return {"epochs": Bound(low=1, whole=True), "share": Bound(0, 1, low_open=True)}.get(name, POSITIVE)


class Range(BaseModel):
    """An interval to search, both ends included; a plain number in the file is the interval of that one value."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    low: FiniteFloat
    high: FiniteFloat
    log: StrictBool = False

    @model_validator(mode="before")
    @classmethod
    def _from_number(cls, value: Any) -> Any:
        if isinstance(value, (dict, Range)):
            return value
        if isinstance(value, bool) or number(value) is None:
            raise Problem((), f"must be a number or a mapping with low, high and optionally log, got {value!r}")
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

    def draw(self, trial: Any, key: str, whole: bool) -> float | int:
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
