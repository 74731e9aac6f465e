"""The built-in metrics, from outputs and targets, by scikit-learn; names are the keys of ``metrics.METRICS``.

Classes are read by ``readings.read_classes``: a logit above 0 says yes, the largest logit of several wins, and
positions of pictures or sequences count as samples.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ttq_plugin.errors import InputError
from ttq_plugin.tasks.scoring.readings import (
    BINARY,
    MULTICLASS,
    MULTILABEL,
    Reading,
    probabilities,
    read_classes,
    read_values,
)

Array = NDArray[Any]


def mcc(outputs: Any, targets: Any) -> float:
    """Matthews correlation coefficient, multi-class form (Gorodkin 2004), in [-1, 1]."""
    from sklearn.metrics import matthews_corrcoef

    reading = _exclusive("mcc", outputs, targets)
    return float(matthews_corrcoef(_true(reading), _said(reading)))


def accuracy(outputs: Any, targets: Any) -> float:
    """Share of the samples that are right; with several labels a sample, all of them must be."""
    from sklearn.metrics import accuracy_score

    reading = read_classes(outputs, targets)
    return float(accuracy_score(_true(reading), _said(reading)))


def balanced_accuracy(outputs: Any, targets: Any) -> float:
    """Mean recall over the classes that the targets have."""
    from sklearn.metrics import balanced_accuracy_score

    reading = _exclusive("balanced_accuracy", outputs, targets)
    with warnings.catch_warnings(action="ignore"):  # of classes that are predicted and not in the targets
        return float(balanced_accuracy_score(_true(reading), _said(reading)))


def macro_f1(outputs: Any, targets: Any) -> float:
    """Mean F1 over the classes that occur in targets or predictions, or over the labels."""
    from sklearn.metrics import f1_score

    reading = read_classes(outputs, targets)
    return float(f1_score(_true(reading), _said(reading), average="macro", zero_division=0.0))


def auroc(outputs: Any, targets: Any) -> float:
    """Area under the ROC curve; of several classes one against the rest, their mean; of several labels their mean."""
    from sklearn.metrics import roc_auc_score

    reading = _both_ways("auroc", read_classes(outputs, targets))
    if reading.kind == BINARY:
        return float(roc_auc_score(_true(reading), reading.scores.numpy()))
    return float(np.mean([roc_auc_score(t, s) for t, s in _one_against_rest(reading)]))


def average_precision(outputs: Any, targets: Any) -> float:
    """Area under the precision-recall curve, as the sum over thresholds; of several classes or labels their mean."""
    from sklearn.metrics import average_precision_score

    reading = _both_ways("average_precision", read_classes(outputs, targets))
    if reading.kind == BINARY:
        return float(average_precision_score(_true(reading), reading.scores.numpy()))
    return float(np.mean([average_precision_score(t, s) for t, s in _one_against_rest(reading)]))


def rmse(outputs: Any, targets: Any) -> float:
    """Root of the mean squared error; of several outputs the mean of their roots."""
    from sklearn.metrics import root_mean_squared_error

    predicted, truth = read_values(outputs, targets)
    return float(root_mean_squared_error(truth.numpy(), predicted.numpy()))


def mae(outputs: Any, targets: Any) -> float:
    """Mean absolute error, over samples and outputs."""
    from sklearn.metrics import mean_absolute_error

    predicted, truth = read_values(outputs, targets)
    return float(mean_absolute_error(truth.numpy(), predicted.numpy()))


def r2(outputs: Any, targets: Any) -> float:
    """Coefficient of determination, at most 1; of several outputs their mean."""
    from sklearn.metrics import r2_score

    predicted, truth = read_values(outputs, targets)
    return float(r2_score(truth.numpy(), predicted.numpy()))


def dice(outputs: Any, targets: Any) -> float:
    """Dice coefficient 2 TP / (2 TP + FP + FN) over all positions of the split; of several classes their mean."""
    from sklearn.metrics import f1_score

    return _overlap(f1_score, read_classes(outputs, targets))


def iou(outputs: Any, targets: Any) -> float:
    """Intersection over union TP / (TP + FP + FN) over all positions of the split; of several classes their mean."""
    from sklearn.metrics import jaccard_score

    return _overlap(jaccard_score, read_classes(outputs, targets))


def recalls(reading: Reading) -> dict[int, float]:
    """The recall of each class (of each label) that the targets have."""
    truth, said = _true(reading), _said(reading)
    if reading.kind == MULTILABEL:
        return {k: float(said[truth[:, k] == 1, k].mean()) for k in range(reading.classes) if truth[:, k].any()}
    return {k: float((said[truth == k] == k).mean()) for k in range(reading.classes) if (truth == k).any()}


def overlaps(name: str, reading: Reading) -> dict[int, float]:
    """The Dice coefficient or the IoU of each class that occurs."""
    from sklearn.metrics import f1_score, jaccard_score

    score = f1_score if name == "dice" else jaccard_score
    truth, said = _true(reading), _said(reading)
    if reading.kind == MULTILABEL:
        values = score(truth, said, average=None, zero_division=1.0)
        return {k: float(value) for k, value in enumerate(values)}
    labels = np.union1d(np.unique(truth), np.unique(said))
    return dict(zip(map(int, labels), map(float, score(truth, said, average=None, labels=labels)), strict=True))


def _overlap(score: Any, reading: Reading) -> float:
    average = "binary" if reading.kind == BINARY else "macro"
    return float(score(_true(reading), _said(reading), average=average, zero_division=1.0))


def _exclusive(name: str, outputs: Any, targets: Any) -> Reading:
    """Classes of which a sample has one."""
    reading = read_classes(outputs, targets)
    if reading.kind == MULTILABEL:
        raise InputError(f"{name} needs one class per sample, got several labels per sample; use macro_f1 or auroc.")
    return reading


def _both_ways(name: str, reading: Reading) -> Reading:
    """Every class (label) must be there, and something else too: a curve has two ends."""
    truth = _true(reading)
    if reading.kind == MULTILABEL:
        odd = [k for k in range(reading.classes) if truth[:, k].min() == truth[:, k].max()]
    else:
        present = np.unique(truth)
        odd = [k for k in range(reading.classes) if k not in present]
    if odd:
        raise InputError(
            f"{name} needs samples of every class in the split, got none (or nothing else) of class {odd[0]}; split "
            "the data so that each split has every class, or use macro_f1."
        )
    return reading


def _one_against_rest(reading: Reading) -> list[tuple[Array, Array]]:
    truth, scores = _true(reading), probabilities(reading).numpy()
    if reading.kind == MULTICLASS:
        return [((truth == k).astype(int), scores[:, k]) for k in range(reading.classes)]
    return [(truth[:, k], scores[:, k]) for k in range(reading.classes)]


def _true(reading: Reading) -> Array:
    return np.asarray(reading.truth.numpy())


def _said(reading: Reading) -> Array:
    return np.asarray(reading.predicted.numpy())
