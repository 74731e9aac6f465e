"""An integer network whose calibration was chosen by its score on validation data."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

from torch import nn

from ttq_plugin.deploy.integer.module import IntegerModule, integerize
from ttq_plugin.deploy.integer.ranges import CALIBRATIONS
from ttq_plugin.tasks.metrics import Metric
from ttq_plugin.tasks.samples import Samples
from ttq_plugin.tasks.scoring.scores import Score, score


@dataclass(frozen=True)
class Calibrated:
    """An integer network with its score.

    Attributes:
        module: The network.
        calibration: How its ranges were found.
        score: Score of the integer network on the validation split.
        notes: What was warned of.
    """

    module: IntegerModule
    calibration: str
    score: Score
    notes: tuple[str, ...]


def calibrate(
    model: nn.Module, inputs: Any, validation: Samples, metric: Metric, *, ternary: bool = True
) -> Calibrated:
    """Make an integer network with each calibration and keep the one that scores best on validation data.

    Args:
        model: The compressed network.
        inputs: Calibration inputs, training samples as a rule.
        validation: What decides.
        metric: The task's.
        ternary: Whether ternary weights stay ternary, as in ``integerize``.

    Returns:
        The best; the first of ``CALIBRATIONS`` where they are equal.

    Raises:
        InputError: If there is no sample, or the model uses an operation that has no integer form.
    """  # noqa: DOC502 - raised by integerize
    found = []
    for calibration in CALIBRATIONS:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            module = integerize(model, inputs, calibration=calibration, ternary=ternary)
        notes = tuple(str(each.message) for each in caught if "saturate" in str(each.message))
        found.append(Calibrated(module, calibration, score(module, validation, metric), notes))
    sign = 1 if metric.higher else -1
    return max(found, key=lambda each: sign * each.score.value)
