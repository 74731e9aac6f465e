"""The parts of a space file that define when trials are stopped early and when retries end."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, StrictBool, StrictInt

QUARTERS = (0.25, 0.5, 0.75)
"""Parts of a trial's epochs after which a floor, the distance from full precision and the front are checked."""


class Halving(BaseModel):
    """Successive halving: of the trials that reach a rung (a part of their epochs), only the better ones continue."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    eta: StrictInt = Field(default=2, ge=2, le=16, description="One of so many trials that reach a rung goes on.")
    rungs: StrictInt = Field(
        default=2, ge=1, le=6, description="Number of rungs; they lie at 1/eta, 1/eta^2 and so on of a trial's epochs."
    )

    @property
    def fractions(self) -> tuple[float, ...]:
        """Where the rungs lie, the lowest first."""
        return tuple(float(self.eta) ** -rung for rung in range(self.rungs, 0, -1))


class StopEarly(BaseModel):
    """Reasons to end a trial as pruned before its last epoch; those that are left out do not apply."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    collapsed: StrictBool = Field(
        default=False, description="End a trial after any epoch in which all weights of a layer have become zero."
    )
    score_floor: FiniteFloat | None = Field(
        default=None,
        description="End a trial after a quarter, a half or three quarters of its epochs if the task's metric on "
        "validation data is worse than this.",
    )
    mcc_floor: Annotated[FiniteFloat, Field(ge=-1, le=1)] | None = Field(
        default=None, description="The same as score_floor, for a task whose metric is mcc."
    )
    dominated: StrictBool = Field(
        default=False,
        description="End a trial at the same times if even the largest improvement seen so far (in at least eight "
        "complete trials of the study) would leave it below the front or would leave a constraint violated.",
    )

    far_below: Annotated[FiniteFloat, Field(gt=0)] | None = Field(
        default=None,
        description="End a trial after a half or three quarters of its epochs if the task's metric on validation data "
        "is worse than that of the full-precision model by more than this. A finished trial that far below is not on "
        "the front.",
    )
    halving: Halving | None = Field(
        default=None,
        description="Successive halving: a trial goes on from a rung if it is in the better part of all trials that "
        "have reached that rung so far, by the rank of its front and then by the hypervolume that it adds.",
    )

    @property
    def fractions(self) -> tuple[float, ...]:
        """Fractions of a trial's epochs after which it is evaluated on validation data, in rising order."""
        quarters = QUARTERS if self.dominated or self.floor is not None or self.far_below is not None else ()
        return tuple(sorted({*quarters, *(self.halving.fractions if self.halving else ())}))

    @property
    def floor(self) -> float | None:
        """The value of the task's metric that a training must reach by then."""
        return self.mcc_floor if self.score_floor is None else self.score_floor


class GiveUp(BaseModel):
    """How often failures are retried, and how long the search waits for an unreachable database or a full disk."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    attempts: StrictInt = Field(
        default=3,
        ge=1,
        description="A trial counts as failed after its worker was killed this many times. Workers that end with the "
        "search itself, by Ctrl-C or killed, are not counted.",
    )
    alike: StrictInt = Field(
        default=3, ge=2, description="The search ends when this many first trials all fail with the same error."
    )
    crashes: StrictInt | None = Field(
        default=None,
        ge=1,
        description="The search ends when this many workers in a row, times the number of workers, are killed without "
        "a finished trial in between; by default one more than attempts.",
    )
    patience: Annotated[FiniteFloat, Field(ge=0)] = Field(
        default=900.0, description="Seconds to wait for an unreachable database or a full disk."
    )

    @property
    def most_crashes(self) -> int:
        """Number of workers killed in a row that ends the search."""
        return self.attempts + 1 if self.crashes is None else self.crashes
