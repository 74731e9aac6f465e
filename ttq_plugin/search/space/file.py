"""The format of a space file: its fields and their valid values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    StrictInt,
    StrictStr,
    ValidationInfo,
    field_validator,
    model_validator,
)

from ttq_plugin.errors import InputError
from ttq_plugin.fronts import Objective
from ttq_plugin.search.space.objectives import GAINS, PLAIN, Constraint, check_together
from ttq_plugin.search.space.ranges import SHARED, Problem, Range, check_names, check_own, own_names, unknown
from ttq_plugin.search.space.samplers import SAMPLERS
from ttq_plugin.search.space.scored import Scored
from ttq_plugin.search.space.stopping import GiveUp, StopEarly
from ttq_plugin.tasks import OWN, TASKS

TRIED_FIRST = ("paper", "first")
"""The keys of settings that are tried before any other; each is the origin of its trials."""


class SpaceFile(BaseModel):
    """The fields of a space file, each checked by itself."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    task: StrictStr = Field(min_length=1, description="The task whose model is compressed.")
    also: tuple[StrictStr, ...] = Field(
        default=(),
        description="Further tasks for which this space can be used; a built-in space is found by their names too.",
    )
    metric: Scored = Field(
        default=Scored(name="mcc"),
        description="The metric that scores a trial: its name, or the description of a metric of your own.",
    )
    objectives: tuple[StrictStr, ...] = Field(description="Two or more quantities that are optimised together.")
    constraints: tuple[StrictStr, ...] = Field(
        default=(), description="Limits such as mcc >= 0.90; a trial that violates one is not on the front."
    )
    sampler: StrictStr = Field(default="tpe", description="The sampler that proposes the trials.")
    trials: StrictInt = Field(default=40, ge=1, description="Number of trials after which the search ends.")
    timeout: FiniteFloat | None = Field(
        default=None, gt=0, description="Seconds after the start of the search from which on no trial begins."
    )
    stagnation: StrictInt | None = Field(
        default=None,
        ge=5,
        description="The search ends when this many trials have raised the hypervolume by less than 0.1 %.",
    )
    seed: StrictInt = Field(default=0, ge=0, description="Random seed shared by splits, samplers and trainings.")
    stop_early: StopEarly = Field(default=StopEarly(), description="Reasons to end a trial before its last epoch.")
    give_up: GiveUp = Field(default=GiveUp(), description="Limits on retrying what fails.")
    granularity: Literal["default", "out_channel"] = Field(
        default="default",
        description="Whether each layer (default) or each output channel has its own scales and thresholds.",
    )
    parameters: dict[str, Range] = Field(description="Parameters of every method: a range, or a fixed number.")
    methods: dict[str, dict[str, Range]] = Field(description="Methods, each with ranges for its own parameters.")
    only: tuple[StrictStr, ...] = Field(
        default=(),
        description="The methods that are searched unless the command line names others; by default all of them.",
    )
    paper: tuple[dict[str, Any], ...] = Field(
        default=(), description="Published settings, which are tried first; parameters that one leaves out are drawn."
    )
    first: tuple[dict[str, Any], ...] = Field(
        default=(), description="Other settings that are tried first; parameters that one leaves out are drawn."
    )

    @model_validator(mode="before")
    @classmethod
    def _selected(cls, data: Any) -> Any:
        """The file with the methods of `only` alone, and the settings of these that are tried first."""
        only = data.get("only") if isinstance(data, Mapping) else None
        if not only or not isinstance(only, Sequence) or not isinstance(data.get("methods"), Mapping):
            return data
        for index, name in enumerate(only):
            if name not in data["methods"]:
                raise Problem(("only", index), unknown("method", name, data["methods"]))
        methods = {name: own for name, own in data["methods"].items() if name in only}
        tried = {
            key: [entry for entry in data[key] if not isinstance(entry, Mapping) or entry.get("method") in only]
            for key in TRIED_FIRST
            if isinstance(data.get(key), Sequence)
        }
        return {**data, "methods": methods, **tried}

    @field_validator("task")
    @classmethod
    def _known_task(cls, value: str) -> str:
        if value not in TASKS and not OWN.fullmatch(value):
            raise Problem((), unknown("task", value, TASKS))
        return value

    @field_validator("also")
    @classmethod
    def _known_tasks(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for index, name in enumerate(value):
            if name not in TASKS:
                raise Problem((index,), unknown("task", name, TASKS))
        return value

    @field_validator("sampler")
    @classmethod
    def _known_sampler(cls, value: str) -> str:
        if value not in SAMPLERS:
            raise Problem((), unknown("sampler", value, SAMPLERS))
        return value

    @field_validator("constraints")
    @classmethod
    def _good_constraints(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        limits: list[Constraint] = []
        known = _metric_of(info).quantity | GAINS | PLAIN
        for index, text in enumerate(value):
            try:
                limits.append(Constraint.parse(text, known))
                check_together(limits)
            except InputError as error:
                raise Problem((index,), str(error)) from None
        return value

    @field_validator("objectives")
    @classmethod
    def _known_objectives(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        metric = _metric_of(info)
        known = metric.quantity | GAINS
        for index, name in enumerate(value):
            if name not in known:
                raise Problem((index,), unknown("objective", name, known))
            if name in value[:index]:
                raise Problem((index,), f"{name} is named twice; each objective may appear once")
        if len(value) < 2:
            allowed = ", ".join(known)
            raise Problem((), f"needs at least two objectives for a trade-off, got {len(value)}; allowed: {allowed}")
        return tuple(metric.objective if name == metric.name else Objective(name) for name in value)

    @field_validator("parameters", mode="before")
    @classmethod
    def _known_parameters(cls, value: Any) -> Any:
        check_names((), value, SHARED, required=("lr", "lr_scale", "epochs"))
        # A share left out means what quantisation means without a budget: every candidate layer.
        return {"share": 1.0, **value}

    @field_validator("methods", mode="before")
    @classmethod
    def _known_methods(cls, value: Any) -> Any:
        known = own_names()
        check_names((), value, known, kind="method")
        if not value:
            raise Problem((), f"needs at least one method, allowed: {', '.join(known)}")
        for method, own in value.items():
            check_own(method, own)
        return value


def _metric_of(info: ValidationInfo) -> Scored:
    """The metric that was read before; the default where that one was refused, which is what will be told."""
    metric: Scored = info.data.get("metric", Scored(name="mcc"))
    return metric
