"""The parts of a space file that say when a trial is ended early, and when something that fails is given up."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, StrictBool, StrictInt


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

    @property
    def looks(self) -> bool:
        """Whether validation data must be looked at during the training."""
        return self.dominated or self.floor is not None or self.far_below is not None

    @property
    def floor(self) -> float | None:
        """The value of the task's metric that a training must reach by then."""
        return self.mcc_floor if self.score_floor is None else self.score_floor


class GiveUp(BaseModel):
    """How often failures are retried, and how long the search waits for what is out of reach."""

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
