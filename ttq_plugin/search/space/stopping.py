"""The part of a space file that says when a trial is ended early."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, StrictBool


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

    @property
    def looks(self) -> bool:
        """Whether validation data must be looked at during the training."""
        return self.dominated or self.floor is not None

    @property
    def floor(self) -> float | None:
        """The value of the task's metric that a training must reach by then."""
        return self.mcc_floor if self.score_floor is None else self.score_floor
