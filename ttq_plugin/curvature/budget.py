"""The budget of a choice of methods."""

import math
from dataclasses import dataclass, fields
from numbers import Real

from ttq_plugin.errors import InputError
from ttq_plugin.support.arguments import shown

UNITS = {
    "share": "share of the weights",
    "bits": "bits of the stored model",
    "energy": "joules per sample",
    "sensitivity": "units of the loss",
}


@dataclass(frozen=True)
class Budget:
    """A limit of one of four kinds; exactly one field is set.

    Attributes:
        share: Smallest share of the candidate layers' weights to quantise, in (0, 1]. Sensitivity is minimised.
        bits: Largest size of the whole stored model in bits. Sensitivity is minimised.
        energy: Largest energy of one inference of the whole model in joules. Sensitivity is minimised.
        sensitivity: Largest sum of the chosen methods' Omegas, in units of the loss. Bits are minimised.

    Examples:
        >>> from ttq_plugin import Budget
        >>> Budget(bits=60_000).kind, Budget(share=0.9).limit
        ('bits', 0.9)
    """

    share: float | None = None
    bits: float | None = None
    energy: float | None = None
    sensitivity: float | None = None

    def __post_init__(self) -> None:
        given = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) is not None}
        if len(given) != 1:
            named = " and ".join(given) or "none of them"
            raise InputError(f"A budget must set one of share, bits, energy and sensitivity, got {named}.")
        for name, value in given.items():
            if isinstance(value, bool) or not isinstance(value, Real):
                raise InputError(f"`budget` must be a number of {name}, got {shown(value)}.")
        if self.share is not None and not 0 < self.share <= 1:
            raise InputError(
                f"`budget` must lie in (0, 1], got {self.share}: it is the share of the weights to quantise at least; "
                "Budget(bits=...) bounds the size."
            )
        if self.share is None and not (math.isfinite(self.limit) and self.limit >= 0):
            raise InputError(f"`budget` must be a finite number of {self.unit}, at least 0; got {self.limit}.")

    @property
    def kind(self) -> str:
        """Name of the field that is set."""
        return next(f.name for f in fields(self) if getattr(self, f.name) is not None)

    @property
    def limit(self) -> float:
        """Its value."""
        return float(getattr(self, self.kind))

    @property
    def unit(self) -> str:
        """Unit of the value, in words."""
        return UNITS[self.kind]

    def to_dict(self) -> dict[str, float]:
        """Plain JSON."""
        return {self.kind: getattr(self, self.kind)}

    def __str__(self) -> str:
        if self.share is not None:
            return f"at least {100 * self.share:g} % of the weights"
        return f"at most {self.limit:,.15g} {self.unit}"


def as_budget(value: object) -> Budget:
    """The budget itself, or a number as a share of weights.

    Args:
        value: The user's budget.

    Returns:
        The budget.

    Raises:
        InputError: For a value of another type or outside its range.
    """
    if isinstance(value, Budget):
        return value
    if isinstance(value, bool) or not isinstance(value, Real):
        raise InputError(f"`budget` must be a share of the weights or a Budget, got {shown(value)}.")
    return Budget(share=float(value))
