"""A space's description of the task's metric, so that a study can be read without importing the task."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, StrictBool, StrictStr, model_validator

from ttq_plugin.errors import InputError
from ttq_plugin.fronts import Objective
from ttq_plugin.search.space.objectives import Quantity, of_metric
from ttq_plugin.search.space.ranges import Problem, unknown
from ttq_plugin.tasks.metrics import METRICS, Metric


class Scored(BaseModel):
    """The metric that trials are scored by: a built-in one by its name alone, or what is to be known of another."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: StrictStr = Field(description="The metric's name, also as an objective and in MLflow.")
    higher: StrictBool = Field(default=True, description="Whether a higher value is better.")
    label: StrictStr = Field(default="", description="The metric's name in tables and pictures.")
    fraction: StrictBool = Field(default=False, description="Whether tables and pictures show it in percent.")
    low: FiniteFloat | None = Field(default=None, description="The smallest possible value.")
    high: FiniteFloat | None = Field(default=None, description="The largest possible value.")

    @model_validator(mode="before")
    @classmethod
    def _known(cls, value: Any) -> Any:
        """A built-in metric by its name alone; of one of the user's own, the direction must be said."""
        given = {"name": value} if isinstance(value, str) else value
        if not isinstance(given, dict) or not isinstance(given.get("name"), str):
            return given
        name = given["name"]
        if name in METRICS:
            known = entry(METRICS[name])
            if given.get("higher", known["higher"]) != known["higher"]:
                raise Problem(("higher",), f"must be {str(known['higher']).lower()} for the built-in metric {name}")
            return given | known
        if "higher" not in given:
            raise Problem(
                (), f"{unknown('metric', name, METRICS)}; for a metric of your own, add higher: true or false"
            )
        try:
            Metric(name, _elsewhere)  # only to check the name
        except InputError as error:
            raise Problem(("name",), str(error).removesuffix(".")) from None
        return given

    @property
    def quantity(self) -> dict[str, Quantity]:
        """The metric under its name, as what may be an objective or limited."""
        return of_metric(self._metric)

    @property
    def objective(self) -> Objective:
        """The metric as an objective."""
        return Objective(self.name, self.higher, self._metric.label, self.fraction)

    @property
    def _metric(self) -> Metric:
        ends = {key: value for key in ("low", "high") if (value := getattr(self, key)) is not None}
        if self.name in METRICS:
            return METRICS[self.name]
        return Metric(self.name, _elsewhere, self.higher, title=self.label, fraction=self.fraction, **ends)


def _elsewhere(outputs: Any, targets: Any) -> float:
    """Stands in for the function, which only the task has."""
    raise NotImplementedError


def entry(metric: Metric) -> dict[str, Any]:
    """A metric as a space file says it.

    Args:
        metric: The metric of a task.

    Returns:
        The value of the file's key `metric`, without infinite ends.
    """
    ends = {key: end for key in ("low", "high") if abs(end := getattr(metric, key)) < float("inf")}
    return {
        "name": metric.name, "higher": metric.higher, "label": metric.label, "fraction": metric.fraction, **ends
    }  # fmt: skip
