"""The parts of a space file that say when a trial is ended early, and when something that fails is given up."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, StrictBool, StrictInt


class StopEarly(BaseModel):
    """When a trial ends as pruned, before its last epoch; what is left out is not looked at."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    collapsed: StrictBool = Field(
        default=False, description="After any epoch: a layer has no weight left that does anything."
    )
    score_floor: FiniteFloat | None = Field(
        default=None,
        description="After a quarter, a half, three quarters of the epochs: the task's metric on validation data is "
        "worse than this.",
    )
    mcc_floor: Annotated[FiniteFloat, Field(ge=-1, le=1)] | None = Field(
        default=None, description="The same as score_floor, of a task whose metric is mcc."
    )
    dominated: StrictBool = Field(
        default=False,
        description="At the same times: even if every objective still rises by the most that it rose from there in "
        "any complete trial of the study (eight at least), the front dominates it, or a constraint stays broken.",
    )

    far_below: Annotated[FiniteFloat, Field(gt=0)] | None = Field(
        default=None,
        description="After a half and three quarters of the epochs: the task's metric on validation data is worse than "
        "full precision's by more than this. A trial that ends so far below is not on the front.",
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
    """How often what failed is tried again, and how long what fails is waited for."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    attempts: StrictInt = Field(
        default=3,
        ge=1,
        description="A trial whose worker is killed this often counts as failed; what ends with the search itself, by "
        "Ctrl-C or killed, is not counted.",
    )
    alike: StrictInt = Field(
        default=3, ge=2, description="The search ends when its first trials, this many, all fail with the same error."
    )
    crashes: StrictInt | None = Field(
        default=None,
        ge=1,
        description="The search ends when this many workers (for each worker that it has) are killed in a row, without "
        "a trial finished in between; by default one more than attempts.",
    )
    patience: Annotated[FiniteFloat, Field(ge=0)] = Field(
        default=900.0, description="Seconds to wait for a database that is away, or a disk that is full."
    )

    @property
    def most_crashes(self) -> int:
        """Of workers, in a row."""
        return self.attempts + 1 if self.crashes is None else self.crashes
