"""Metrics against scikit-learn in float64 and against values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import sklearn.metrics as sk
import torch

from ttq_plugin.errors import Diverged, InputError
from ttq_plugin.tasks.metrics import METRICS, Metric, get_metric
from ttq_plugin.tasks.scoring.readings import read_classes
from ttq_plugin.tasks.scoring.scores import lost_classes, parts, score_outputs

OF_CLASSES = ("mcc", "accuracy", "balanced_accuracy", "macro_f1", "auroc", "average_precision", "dice", "iou")


def value(name, outputs, targets):
    return score_outputs(outputs, targets, METRICS[name]).value


@pytest.fixture
def draw():
    return torch.Generator().manual_seed(0)


def of_predictions(truth, said, average):
    """What scikit-learn says of class predictions."""
    return {
        "mcc": sk.matthews_corrcoef(truth, said),
        "accuracy": sk.accuracy_score(truth, said),
        "balanced_accuracy": sk.balanced_accuracy_score(truth, said),
        "macro_f1": sk.f1_score(truth, said, average="macro"),
        "dice": sk.f1_score(truth, said, average=average),
        "iou": sk.jaccard_score(truth, said, average=average),
    }


@pytest.mark.parametrize("column", [False, True], ids=["(n,)", "(n, 1)"])
@pytest.mark.parametrize("target", [torch.int64, torch.float32, torch.bool])
def test_binary_with_one_logit(draw, column, target):
    logits, truth = torch.randn(80, generator=draw), torch.rand(80, generator=draw) < 0.3
    expected = of_predictions(truth.numpy(), logits.numpy() > 0, "binary") | {
        "auroc": sk.roc_auc_score(truth.numpy(), logits.double().numpy()),
        "average_precision": sk.average_precision_score(truth.numpy(), logits.double().numpy()),
    }
    outputs = logits[:, None] if column else logits
    assert set(expected) == set(OF_CLASSES)
    for shaped in (truth.to(target), truth.to(target)[:, None]) if column else (truth.to(target),):
        found = {name: value(name, outputs, shaped) for name in OF_CLASSES}
        assert found == pytest.approx(expected, abs=1e-12)


def test_by_hand_where_one_class_is_rare():
    truth = torch.tensor([0, 0, 0, 0, 1, 1])
    logits = torch.tensor([-1.0, -1.0, -1.0, 1.0, 1.0, -1.0])  # TN 3, FP 1, TP 1, FN 1
    assert value("accuracy", logits, truth) == pytest.approx(4 / 6)
    assert value("balanced_accuracy", logits, truth) == pytest.approx((3 / 4 + 1 / 2) / 2)
    assert value("dice", logits, truth) == pytest.approx(2 / 4)
    assert value("iou", logits, truth) == pytest.approx(1 / 3)
    assert value("mcc", logits, truth) == pytest.approx((3 * 1 - 1 * 1) / math.sqrt(2 * 2 * 4 * 4))
    assert value("macro_f1", logits, truth) == pytest.approx((2 * 3 / 8 + 2 * 1 / 4) / 2)
    # A logit of exactly 0 says no.
    assert value("accuracy", torch.zeros(4), torch.zeros(4)) == 1.0


def test_multi_class(draw):
    logits, truth = torch.randn(90, 4, generator=draw), torch.randint(4, (90,), generator=draw)
    shares = torch.softmax(logits.double(), 1).numpy()
    expected = of_predictions(truth.numpy(), logits.argmax(1).numpy(), "macro") | {
        "auroc": sk.roc_auc_score(truth.numpy(), shares, multi_class="ovr"),
        "average_precision": sk.average_precision_score(np.eye(4)[truth.numpy()], shares),
    }
    assert {name: value(name, logits, truth) for name in OF_CLASSES} == pytest.approx(expected, abs=1e-12)
    # Soft labels of which the largest is the class say the same.
    soft = torch.full((90, 4), 0.1).scatter(1, truth[:, None], 0.7)
    assert {name: value(name, logits, soft) for name in OF_CLASSES} == pytest.approx(expected, abs=1e-12)


def test_multi_label(draw):
    logits = torch.randn(70, 3, generator=draw)
    truth = (torch.rand(70, 3, generator=draw) < 0.4).float()
    said = (logits > 0).numpy()
    expected = {
        "accuracy": sk.accuracy_score(truth.numpy(), said),
        "macro_f1": sk.f1_score(truth.numpy(), said, average="macro"),
        "auroc": sk.roc_auc_score(truth.numpy(), logits.double().numpy(), average="macro"),
        "average_precision": sk.average_precision_score(truth.numpy(), logits.double().numpy(), average="macro"),
        "dice": sk.f1_score(truth.numpy(), said, average="macro"),
        "iou": sk.jaccard_score(truth.numpy(), said, average="macro"),
    }
    assert {name: value(name, logits, truth) for name in expected} == pytest.approx(expected, abs=1e-12)
    assert {name: value(name, logits, truth.long()) for name in expected} == pytest.approx(expected, abs=1e-12)
    recalls = sk.recall_score(truth.numpy(), said, average=None)
    assert parts(logits, truth, METRICS["macro_f1"]) == pytest.approx({f"recall_{k}": recalls[k] for k in range(3)})
    for name in ("mcc", "balanced_accuracy"):
        with pytest.raises(
            InputError, match=f"^The metric {name} does not fit: {name} needs one class per sample, got"
        ):
            value(name, logits, truth)


@pytest.mark.parametrize("classes", [3, 2, 1])
def test_segmentation(draw, classes):
    logits = torch.randn(5, classes, 6, 7, generator=draw)
    truth = torch.randint(max(2, classes), (5, 6, 7), generator=draw)
    flat = truth.flatten().numpy()
    said = (logits[:, 0] > 0 if classes == 1 else logits.argmax(1)).flatten().numpy()
    expected = of_predictions(flat, said, "binary" if classes == 1 else "macro")
    assert {name: value(name, logits, truth) for name in expected} == pytest.approx(expected, abs=1e-12)
    each = sk.jaccard_score(flat, said, average=None)
    assert parts(logits, truth, METRICS["iou"]) == pytest.approx({f"iou_{k}": v for k, v in enumerate(each)})


def test_binary_masks_with_a_channel(draw):
    logits, truth = torch.randn(4, 1, 5, 5, generator=draw), torch.rand(4, 1, 5, 5, generator=draw) < 0.2
    said = (logits > 0).flatten().numpy()
    for target in (truth, truth.float(), truth.long(), truth[:, 0].float()):
        assert value("dice", logits, target) == pytest.approx(sk.f1_score(truth.flatten().numpy(), said))
    with pytest.raises(InputError, match=r"may be masks or labels at positions.*give masks a channel, \(n, 1, height"):
        value("dice", logits[:, 0], truth[:, 0].float())


def test_an_empty_mask_that_is_found_empty_is_perfect():
    empty = torch.zeros(2, 1, 3, 3)
    assert value("dice", empty - 1, empty) == value("iou", empty - 1, empty) == 1.0
    assert value("dice", empty + 1, empty) == 0.0


@pytest.mark.parametrize("last", [True, False], ids=["classes last", "classes second"])
def test_tokens_that_are_left_out_count_nowhere(draw, last):
    logits = torch.randn(6, 9, 4, generator=draw)
    truth = torch.randint(4, (6, 9), generator=draw)
    truth[:, 7:] = -100
    kept = truth.flatten() != -100
    said = logits.argmax(2).flatten()[kept].numpy()
    expected = of_predictions(truth.flatten()[kept].numpy(), said, "macro")
    outputs = logits if last else logits.movedim(2, 1)
    assert {name: value(name, outputs, truth) for name in expected} == pytest.approx(expected, abs=1e-12)


def test_one_logit_a_position(draw):
    logits, truth = torch.randn(6, 9, 1, generator=draw), torch.randint(2, (6, 9), generator=draw)
    expected = sk.accuracy_score(truth.flatten().numpy(), (logits > 0).flatten().numpy())
    assert value("accuracy", logits, truth) == value("accuracy", logits.movedim(2, 1), truth) == expected


@pytest.mark.parametrize("shape", [(50,), (50, 1), (50, 3)])
def test_regression(draw, shape):
    said, truth = torch.randn(shape, generator=draw), torch.randn(shape, generator=draw)
    one, other = truth.double().numpy(), said.double().numpy()
    expected = {
        "rmse": sk.root_mean_squared_error(one, other),
        "mae": sk.mean_absolute_error(one, other),
        "r2": sk.r2_score(one, other),
    }
    assert {name: value(name, said, truth) for name in expected} == pytest.approx(expected, abs=1e-12)
    found = parts(said, truth, METRICS["mae"])
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-12)
    each = np.abs(one - other).reshape(50, -1).mean(0)
    columns = {f"mae_{k}": v for k, v in enumerate(each)} if shape == (50, 3) else {}
    assert {k: v for k, v in found.items() if k not in expected} == pytest.approx(columns)


def test_a_regressions_target_may_lack_the_outputs_single_dimension(draw):
    said, truth = torch.randn(20, 1, generator=draw), torch.randn(20, generator=draw)
    by_hand = (said[:, 0].double() - truth.double()).square().mean().sqrt().item()
    assert value("rmse", said, truth) == value("rmse", said[:, 0], truth[:, None]) == pytest.approx(by_hand)
    with pytest.raises(
        InputError, match=r"A regression needs a target for each output, got outputs of the shape \(20, 2\)"
    ):
        value("rmse", torch.zeros(20, 2), truth)
    with pytest.raises(InputError, match="A regression needs a target for each output"):
        value("rmse", torch.zeros(20, 2, 3), torch.zeros(20, 3, 2))


@pytest.mark.parametrize(
    "name, outputs, targets, message",
    [
        (
            "mcc",
            torch.zeros(4, 3),
            torch.tensor([1, 2, 3, 3]),
            "Labels must be class indices from 0 to 2, got 1 to 3; subtract 1",
        ),
        (
            "mcc",
            torch.zeros(4, 2),
            torch.tensor([-1, 1, -1, 1]),
            "from 0 to 1, got -1 to 1; map them to 0, 1 and so on",
        ),
        ("mcc", torch.zeros(4, 2), torch.tensor([0, 1, 2, 6]), "from 0 to 1, got 0 to 6; give the model 7 outputs"),
        (
            "mcc",
            torch.zeros(4),
            torch.tensor([-1, 1, -1, 1]),
            "With one logit per label, targets must be 0 and 1, got -1, 1; map -1 to 0",
        ),
        (
            "mcc",
            torch.zeros(4, 1),
            torch.tensor([0.5, 1.5, 0, 1]),
            "got 0, 0.5, 1, 1.5; map them so, or score a regression by rmse",
        ),
        (
            "mcc",
            torch.zeros(4, 2),
            torch.tensor([0.0, 1, 0, 1]),
            r"Class targets must be whole numbers \(int64\).*convert them with .long",
        ),
        (
            "mcc",
            torch.zeros(4, 2),
            torch.zeros(4, 3),
            r"needs class outputs .n, classes. with targets .n,.*got outputs of the shape .4, 2. and float32 targets",
        ),
        ("mcc", torch.zeros(4, 2), torch.zeros(3).long(), "Outputs and targets must have one row per sample"),
        ("mcc", torch.zeros(4, 2), {"a": torch.zeros(4)}, "needs targets that are one tensor, got dict"),
        (
            "mcc",
            (torch.zeros(4, 2), torch.zeros(4, 2)),
            torch.zeros(4).long(),
            "reads one output tensor, or the one called logits, but the model returns 2",
        ),
        (
            "auroc",
            torch.zeros(4, 3),
            torch.tensor([0, 1, 0, 1]),
            r"auroc needs samples of every class in the split, got none \(or nothing else\) of class 2",
        ),
        (
            "average_precision",
            torch.zeros(3, 2),
            torch.tensor([[0.0, 1], [1, 1], [1, 1]]),
            "of class 1; split the data so that",
        ),
        ("rmse", torch.zeros(4), [1, 2, 3, 4], "needs targets that are one tensor, got list"),
    ],
)
def test_what_does_not_fit_is_one_sentence(name, outputs, targets, message):
    with pytest.raises(InputError, match=f"^The metric {name} does not fit: .*{message}") as caught:
        value(name, outputs, targets)
    assert "\n" not in str(caught.value)


def test_outputs_with_logits_in_them():
    logits, truth = torch.eye(3), torch.arange(3)

    class Output:
        pass

    output = Output()
    output.logits = logits
    assert value("accuracy", {"hidden": torch.zeros(3), "logits": logits}, truth) == 1.0
    assert value("accuracy", output, truth) == 1.0 and value("accuracy", (logits,), truth) == 1.0


def test_outputs_that_are_no_numbers_are_a_diverged_model_not_a_score_of_zero():
    broken = torch.tensor([[0.0, math.nan], [1.0, 0.0]])
    with pytest.raises(Diverged, match="the model's outputs are NaN"):
        value("accuracy", broken, torch.tensor([0, 1]))
    with pytest.raises(Diverged, match="the model's outputs are infinite"):
        value("rmse", torch.tensor([0.0, math.inf]), torch.zeros(2))
    masked = torch.tensor([[0.0, -math.inf], [-math.inf, 1.0]])  # a mask is no accident
    assert value("accuracy", masked, torch.tensor([0, 1])) == 1.0


def worst(outputs, targets):
    return (outputs - targets).abs().max()


def test_an_own_metric_of_which_less_is_better():
    metric = Metric("worst_error", worst, higher=False, title="worst error")
    found = score_outputs(torch.tensor([1.0, 2.0]), torch.tensor([1.5, 4.0]), metric)
    assert found.value == 2.0 and isinstance(found.value, float) and found.parts == {}
    assert metric.better(1.0, 2.0) and not metric.better(2.0, 2.0) and not metric.builtin
    assert metric.label == "worst error" and metric.text(0.25) == "0.25" and metric.text(None) == ""
    assert METRICS["mcc"].better(0.9, 0.8) and METRICS["mcc"].text(0.51234) == "51.23 %"


def test_an_own_metric_takes_outputs_and_targets_of_any_nesting():
    metric = Metric("boxes", lambda out, y: (out["box"] - y[0]).abs().mean() + len(y[1]), higher=False)
    found = score_outputs({"box": torch.ones(2), "mask": torch.zeros(2)}, (torch.zeros(2), torch.zeros(2)), metric)
    assert found.value == 3.0


def failing(outputs, targets):
    return {}["missing"]


@pytest.mark.parametrize(
    "function, error, message",
    [
        (
            failing,
            InputError,
            r"The metric own failed: KeyError: 'missing' \(test_metrics.py, line \d+, in failing: return {}",
        ),
        (lambda o, t: "good", InputError, "The metric own must return a number, got str"),
        (lambda o, t: None, InputError, "must return a number, got NoneType"),
        (lambda o, t: True, InputError, "must return a number, got bool"),
        (lambda o, t: torch.zeros(3), InputError, "must return a number, got a Tensor of the shape \\(3,\\)"),
        (lambda o, t: math.nan, Diverged, "the metric own is nan"),
        (lambda o, t: torch.tensor(math.inf), Diverged, "the metric own is inf"),
    ],
)
def test_own_metrics_that_fail(function, error, message):
    with pytest.raises(error, match=message):
        score_outputs(torch.zeros(3), torch.zeros(3), Metric("own", function))


@pytest.mark.parametrize("name", ["macro f1", "", "f1-score", "2nd", 3, "größe!"])
def test_names_that_are_no_word(name):
    with pytest.raises(InputError, match="A metric's name must be one word of letters, digits and underscores"):
        Metric(name, worst)


@pytest.mark.parametrize(
    "name", ["test_mcc", "recall_3", "srqw", "mult_adds", "latency", "x_fp32", "loss", "task", "weights"]
)
def test_names_that_reports_use(name):
    with pytest.raises(InputError, match=f"cannot be called '{name}', which reports use for something else; rename it"):
        Metric(name, worst)


def test_metrics_by_name():
    assert get_metric("mcc") is METRICS["mcc"] and get_metric(METRICS["rmse"]).builtin
    with pytest.raises(InputError, match="The metric 'mcc' is built in; give one of your own another name"):
        get_metric(Metric("mcc", worst))
    with pytest.raises(InputError, match="metric must be one of mcc, accuracy, .*or a .*Metric, got 'f1'"):
        get_metric("f1")
    with pytest.raises(InputError, match="got <function worst"):
        get_metric(worst)
    with pytest.raises(InputError, match=r"The metric own needs a function \(outputs, targets\) -> float, got 3"):
        Metric("own", 3)


def test_a_class_that_only_full_precision_finds_is_lost():
    before = {"balanced_accuracy": 0.9, "recall_0": 1.0, "recall_1": 0.8, "recall_2": 0.0}
    assert lost_classes(before, {"recall_0": 0.99, "recall_1": 0.07, "recall_2": 0.0}, ("no", "yes")) == [
        "class yes is lost: its recall fell from 80.0 % in full precision to 7.0 %"
    ]
    assert lost_classes(before, {"recall_0": 0.99, "recall_1": 0.081}) == []
    assert lost_classes({"iou_3": 0.5}, {}) == ["class 3 is lost: its iou fell from 50.0 % in full precision to 0.0 %"]


def test_how_outputs_are_read():
    assert read_classes(torch.zeros(4), torch.zeros(4)).kind == "binary"
    assert read_classes(torch.zeros(4, 1), torch.zeros(4)).kind == "binary"
    assert read_classes(torch.zeros(4, 2), torch.zeros(4).long()).kind == "multi-class"
    assert read_classes(torch.zeros(4, 2), torch.zeros(4, 2)).kind == "multi-label"
    assert read_classes(torch.zeros(4, 2), torch.full((4, 2), 0.5)).kind == "multi-class"
