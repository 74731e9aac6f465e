"""Mistakes in a task are told before anything is trained, each in one sentence that says what to change."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from ttq_plugin.errors import InputError
from ttq_plugin.tasks.checks.check import TaskWarning, check_task, load_data, make_model
from ttq_plugin.tasks.metrics import Metric
from ttq_plugin.tasks.task import Data, Recipe, Split, Task

X = torch.randn(90, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(90) % 3
PARTS = [slice(0, 30), slice(30, 60), slice(60, 90)]


def three(x=X, y=Y, **options):
    return Data(*(Split(x[part], y[part]) for part in PARTS), **options)


def net():
    return nn.Linear(4, 3)


def task(data=None, **changes):
    given = {"model": net, "loss": F.cross_entropy, "recipe": Recipe(epochs=1, lr=0.1)} | changes
    return Task("mine", "a task", lambda source, seed: three() if data is None else data, **given)


def check(data=None, **changes):
    """All of what is looked at before training."""
    asked = task(data, **changes)
    with torch.random.fork_rng(devices=[]):
        check_task(asked, load_data(asked, None, 0), make_model(asked))


def refused(data=None, **changes):
    with pytest.raises(InputError) as caught:
        check(data, **changes)
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".") and not message.endswith("..")
    return message


def test_a_good_task_passes_and_leaves_model_and_random_numbers_as_they_were():
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state, numpy = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    with warnings.catch_warnings(action="error"):
        check_task(task(), three(), model.eval())
    assert not model.training and all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert torch.equal(state, torch.random.get_rng_state()) and (np.random.get_state()[1] == numpy).all()
    assert all(weight.grad is None for weight in model.parameters())


# Labels and outputs.


def test_labels_from_one():
    assert refused(three(y=Y + 1)) == (
        "The train split: Labels must be class indices from 0 to 2, got 1 to 3; subtract 1 from them."
    )


def test_labels_of_minus_one_and_one():
    two = three(y=2 * (Y % 2) - 1)
    assert "from 0 to 1, got -1 to 1; map them to 0, 1 and so on" in refused(two, model=lambda: nn.Linear(4, 2))
    one = three(y=(2 * (Y % 2) - 1).float())
    loss = lambda o, y: F.soft_margin_loss(o[:, 0], y)  # noqa: E731
    message = refused(one, model=lambda: nn.Linear(4, 1), loss=loss)
    assert message.endswith("With one logit per label, targets must be 0 and 1, got -1, 1; map -1 to 0.")


def test_too_few_outputs_also_where_the_class_is_rare_and_late():
    y = Y.clone()
    y[59] = 5
    assert refused(three(y=y)) == (
        "The validation split: Labels must be class indices from 0 to 2, got 0 to 5; give the model 6 outputs."
    )


def test_labels_of_eight_bits():
    message = refused(three(y=Y.to(torch.uint8)))
    assert message == "Class labels must be int64, got uint8 in the train split; convert them by y.long()."


def test_labels_that_are_no_numbers():
    words = np.array(["cat", "dog", "cow"])[Y]
    asked = replace(task(), load=lambda source, seed: three(y=words))
    with pytest.raises(InputError, match=r"^y of a Split: an array must hold numbers of a type .*, got <U3; convert"):
        load_data(asked, None, 0)


def test_targets_of_a_nesting_need_an_own_metric():
    nested = Data(*(Split(X[part], {"a": Y[part], "b": Y[part]}) for part in PARTS))
    loss = lambda o, y: F.cross_entropy(o, y["a"])  # noqa: E731
    assert "needs y to be one tensor, got dict (a: int64 (30), b: int64 (30)) in the train split" in refused(
        nested, loss=loss
    )
    own = Metric("right", lambda o, y: (o.argmax(1) == y["b"]).double().mean())
    check(nested, loss=loss, metric=own)


def test_outputs_without_a_batch_dimension():
    class Whole(nn.Linear):
        def forward(self, x):
            return super().forward(x).sum(0)

    message = refused(model=lambda: Whole(4, 3))
    assert "The model must return one row per sample, got outputs float32 (3) for 30 samples" in message
    message = refused(three(y=Y.float()), model=lambda: Whole(4, 1), loss=lambda o, y: o.mean(), metric="rmse")
    assert "The model must return one row per sample" in message


def test_regression_targets_of_another_shape():
    message = refused(three(y=X), model=net, loss=lambda o, y: o.mean(), metric="rmse")
    assert message.startswith("The train split: A regression needs a target for each output, got outputs of the shape")


def test_regression_scored_as_classes():
    message = refused(three(y=X[:, 0] * 3), model=lambda: nn.Linear(4, 1), loss=lambda o, y: F.mse_loss(o[:, 0], y))
    assert (
        "With one logit per label, targets must be 0 and 1, got" in message and "score a regression by rmse" in message
    )


def test_targets_that_are_not_finite():
    y = X[:, :1].clone()
    y[40] = math.nan
    message = refused(three(y=y), model=lambda: nn.Linear(4, 1), loss=F.mse_loss, metric="mae")
    assert message == (
        "The targets of the validation split must be finite, got NaN or infinity in 1 of 30 samples (first: row 10); "
        "leave those samples out."
    )


# Inputs.


def test_inputs_of_float64():
    message = refused(three(x=X.double()))
    assert message == "The inputs must have the model's dtype float32, got float64; convert them, as by x.float()."


def test_inputs_that_are_not_finite():
    x = X.clone()
    x[65, 2], x[70] = math.inf, math.nan
    assert refused(three(x=x)) == (
        "The inputs of the test split must be finite, got NaN or infinity in 2 of 30 samples (first: row 5); replace "
        "or leave them out."
    )
    nested = Data(*(Split({"signal": x[part]}, Y[part]) for part in PARTS))
    assert "The inputs (signal) of the test split" in refused(nested)


def test_an_empty_split():
    data = Data(Split(X[:30], Y[:30]), Split(X[:0], Y[:0]), Split(X[60:], Y[60:]))
    assert refused(data) == "The validation split must hold at least one sample, got none."
    data = Data(TensorDataset(X[:30], Y[:30]), TensorDataset(X[:0], Y[:0]), TensorDataset(X[60:], Y[60:]))
    assert refused(data) == "The validation split must hold at least one sample, got an empty Dataset."


def test_unequal_lengths():
    assert not_made(Split(X[:30], Y[:29])) == (
        "x and y of the train split must have equally many samples, got 30 and 29."
    )
    assert "x of the train split: all inputs must hold the same number of samples, got 30 and, in 1, 20" in not_made(
        Split((X[:30], X[:20]), Y[:30])
    )
    assert "groups of the train split must name one group per sample, got 2 for 30" in not_made(
        Split(X[:30], Y[:30], groups=[1, 2])
    )


def not_made(wrong):
    """A test split is looked at later than the others."""
    good = Split(X[:30], Y[:30]), Split(X[30:60], Y[30:60])
    with pytest.raises(InputError) as caught:
        Data(wrong, *good)
    assert refused(Data(*good, wrong)) == str(caught.value).replace("train split", "test split")
    return str(caught.value)


def test_what_is_no_tensor():
    message = not_made(Split(X[:30], "labels"))
    assert message == "y of the train split must be a tensor (samples, ...) or a nest of such, got str."


# Classes.


def test_a_balanced_loss_with_a_class_missing():
    y = Y.clone()
    y[PARTS[0]] = Y[PARTS[0]] % 2
    message = refused(three(y=y), balanced=True, classes=("normal", "early", "late"))
    assert message == (
        "A balanced loss needs every class in the training split, got none of class late of 3; give the model fewer "
        "outputs, or leave balanced out."
    )
    message = refused(three(y=Y.float()[:, None]), model=lambda: nn.Linear(4, 1), loss=lambda o, y, weight: o.mean(),
                      balanced=True, metric="rmse")  # fmt: skip
    assert "A balanced loss needs targets that are class indices (int64), got float32 (30, 1)" in message
    message = refused(balanced=True, loss=nn.CrossEntropyLoss())
    assert "The loss of mine" in message and "unexpected keyword argument 'weight'" in message


def test_balanced_weights_count_positions_and_leave_out_what_is_left_out():
    y = torch.tensor([[0, 0, 1], [0, -100, -100]])
    weights = task(balanced=True).class_weights(Split(torch.zeros(2, 3), y))
    assert weights.tolist() == pytest.approx([4 / (2 * 3), 4 / (2 * 1)])


def test_a_class_in_validation_alone():
    y = Y % 2
    y[PARTS[1]] = Y[PARTS[1]]
    assert refused(three(y=y)).startswith(
        "Every class must be in the training split, got class 2 in the validation split alone; split the data by class"
    )


def test_one_class_only():
    y = Y.clone()
    y[PARTS[2]] = 1
    assert refused(three(y=y)) == (
        "The test split must have at least two classes, got class 1 alone; split the data by class too."
    )


def test_a_curve_needs_every_class_also_in_the_test_split():
    y = Y.clone()
    y[PARTS[2]] = Y[PARTS[2]] % 2
    with pytest.warns(TaskWarning, match="The test split has no sample of class 2: nothing is known about it"):
        message = refused(three(y=y), metric="auroc")
    assert "The test split: The metric auroc does not fit: auroc needs samples of every class in the split" in message
    with pytest.warns(TaskWarning, match="no sample of class 2"):
        check(three(y=y), metric="macro_f1")


def test_many_pictures_are_read_some_at_a_time():
    """3000 masks as outputs would need 3000 x 21 x 64 x 64 numbers of 8 bytes."""
    y = (torch.arange(3000) % 21)[:, None, None].expand(3000, 64, 64)
    x = torch.randn(3000, 1, 8, 8)
    model = lambda: nn.Sequential(nn.Upsample(scale_factor=8), nn.Conv2d(1, 21, 1))  # noqa: E731
    data = Data(Split(x[:2940], y[:2940]), Split(x[2940:2970], y[2940:2970]), Split(x[2970:], y[2970:]))
    check(data, model=model, metric="iou")


# Splits.


def test_splits_that_share_samples():
    data = Data(Split(X[:30], Y[:30]), Split(X[25:55], Y[25:55]), Split(X[60:], Y[60:]))
    assert refused(data) == (
        "The splits train and validation must hold different samples, but 5 of validation's 30 are in train too "
        "(first: row 25 there, 0 here); separate them, or pass Data(..., overlap=True) if equal samples are no mistake."
    )
    check(replace(data, overlap=True))
    same = Split(X[:30], Y[:30])
    assert "got the same object for both" in refused(Data(same, Split(X[30:60], Y[30:60]), same))


def test_subsets_of_a_dataset_that_share_samples():
    whole = TensorDataset(X, Y)
    subsets = [torch.utils.data.Subset(whole, places) for places in (range(30), range(20, 50), range(60, 90))]
    assert "but 10 of validation's 30 are in train too (first: row 20 there, 0 here)" in refused(Data(*subsets))


def test_groups_in_two_splits():
    names = np.array([f"person {k // 12}" for k in range(90)])
    data = Data(*(Split(X[part], Y[part], groups=names[part]) for part in PARTS))
    assert refused(data) == (
        "A group must be in one split only, but 1 are in train and validation (first: 'person 2'); split by group, as "
        "ttq_plugin.tasks.splits.stratified_groups does, or leave the groups out."
    )
    check(Data(*(Split(X[part], Y[part], groups=np.full(30, k)) for k, part in enumerate(PARTS))))


class Endless(IterableDataset):
    def __iter__(self):
        return iter([(X[0], Y[0])])


@pytest.mark.parametrize(
    "split, message",
    [
        (DataLoader(TensorDataset(X, Y)), r"a Split or a Dataset, got a DataLoader; give its dataset, and its"),
        (Endless(), "or a map-style Dataset with __len__ and __getitem__, got Endless"),
        (X, "or a Dataset, got Tensor; wrap it"),
        ((X, Y), "got tuple; wrap it"),
        (None, "got NoneType"),
    ],
)
def test_what_is_no_split(split, message):
    asked = replace(task(), load=lambda source, seed: Data(split, Split(X, Y), Split(X, Y)))
    with pytest.raises(InputError, match=f"^The train split must be .*{message}"):
        load_data(asked, None, 0)


# The user's code.


def test_a_load_that_fails_or_gives_something_else():
    def load(source, seed):
        return open(source / "signals.npy")  # here

    with pytest.raises(
        InputError, match=r"^load of mine failed: TypeError: .* \(test_check.py, line \d+, .*# here\)\.$"
    ):
        load_data(replace(task(), load=load), None, 0)
    with pytest.raises(InputError, match=r"load of mine must return .*Data\(train, validation, test\), got tuple\.$"):
        load_data(replace(task(), load=lambda source, seed: (X, Y, X)), None, 0)


def test_a_model_that_fails_or_is_none():
    message = refused(model=lambda: nn.Linear(5, 3))
    assert message.startswith("The model of mine, given inputs float32 (30, 4), failed: RuntimeError: mat1 and mat2")
    assert "Traceback" not in message

    class Net(nn.Linear):
        def forward(self, x):
            hidden = super().forward(x)
            return hidden.view(7, -1)  # here

    message = refused(model=lambda: Net(4, 3))
    assert "(test_check.py, line" in message and "forward: return hidden.view(7, -1)  # here)." in message
    assert refused(model=lambda: 3) == "model of mine must return a torch.nn.Module, got int."
    assert "model of mine failed: ZeroDivisionError" in refused(model=lambda: nn.Linear(4, 3 // 0))
    assert "got one with lazy layers; call it once" in refused(model=lambda: nn.LazyLinear(3))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"model": net()}, "model of a task must be a function that makes the untrained model, got a Linear itself"),
        (
            {"loss": nn.CrossEntropyLoss},
            "loss of a task must be a function .*, got the class CrossEntropyLoss; give an inst",
        ),
        ({"loss": "cross_entropy"}, "loss of a task must be a function, got str"),
        ({"load": None}, "load of a task must be a function, got NoneType"),
        ({"metric": "f1"}, "metric must be one of mcc"),
        ({"description": None}, "description of a task must be a string, got None"),
        ({"recipe": {"epochs": 3}}, "recipe of a task must be a Recipe, got dict"),
        ({"balanced": "yes"}, "balanced of a task must be True or False, got 'yes'"),
    ],
)
def test_a_task_of_the_wrong_things(changes, message):
    with pytest.raises(InputError, match=message):
        replace(task(), **changes)


@pytest.mark.parametrize(
    "changes", [{"epochs": 0}, {"batch_size": 0}, {"batch_size": 2.5}, {"lr": 0}, {"lr": math.inf}]
)
def test_a_recipe_that_cannot_work(changes):
    (name,) = changes
    with pytest.raises(InputError, match=f"^{name} of a recipe must be (a )?positive"):
        Recipe(**{"epochs": 1, "lr": 0.1} | changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lr": "a"}, "lr must be a number, got 'a'"),
        ({"lr": True}, "lr must be a number, got True"),
        ({"dropout": "x"}, "dropout must be a number or None, got 'x'"),
        ({"weight_decay": "x"}, "weight_decay must be a number, got 'x'"),
        ({"weight_decay": -1}, "weight_decay of a recipe must be at least 0 and finite, got -1"),
        ({"warmup": -3}, "warmup of a recipe must be at least 0 and finite, got -3"),
        ({"optimizer": ["adamw"]}, r"optimizer must be one of .*, got \['adamw'\]"),
    ],
)
def test_a_recipe_of_other_types(changes, message):
    with pytest.raises(InputError, match=message):
        Recipe(**{"epochs": 1, "lr": 0.1} | changes)


def raising(outputs, targets):
    return {}["nothing"]  # here


@pytest.mark.parametrize(
    "loss, message",
    [
        (
            raising,
            "The loss of mine, given outputs float32 (30, 3) and targets int64 (30), failed: KeyError: 'nothing'",
        ),
        (
            lambda o, y: F.cross_entropy(o, y, reduction="none"),
            "The loss must be one number, got shape (30,); average it",
        ),
        (lambda o, y: 0.5, "The loss must be one number, got float"),
        (lambda o, y: nn.CrossEntropyLoss(), "The loss must be one number, got CrossEntropyLoss"),
        (
            lambda o, y: (o.argmax(1) != y).float().mean(),
            "The loss must depend on the model's weights, got one without a",
        ),
        (lambda o, y: torch.zeros((), requires_grad=True), "got one that uses none of them"),
        (lambda o, y: o.mean() * math.nan, "The loss of the untrained model must be finite, got nan; check the loss"),
        (lambda o, y: o.mean() + 0j, "The loss must be a floating-point number, got torch.complex64"),
    ],
)
def test_losses(loss, message):
    found = refused(loss=loss, recipe=Recipe(epochs=1, lr=0.1, batch_size=32))
    assert message in found
    if loss is raising:
        assert "in raising: return" in found and "# here" in found


@pytest.mark.parametrize("columns", [(True, False), (False, True)], ids=["outputs (n, 1)", "targets (n, 1)"])
def test_outputs_that_are_broadcast_against_their_targets(columns):
    """The mean over all pairs: torch warns at most, and the model learns the mean of the targets."""
    wide, tall = columns
    y = X.sum(1, keepdim=True) if tall else X.sum(1)
    model = lambda: nn.Sequential(nn.Linear(4, 1), *([] if wide else [nn.Flatten(0)]))  # noqa: E731
    for loss in (F.mse_loss, lambda o, y: (o - y).abs().mean()):
        message = refused(three(y=y), model=model, loss=loss, metric="rmse")
        assert message.startswith("The loss compares every output with every target, since outputs (30")
    right = lambda o, y: F.mse_loss(o.reshape(-1), y.reshape(-1))  # noqa: E731
    check(three(y=y), model=model, loss=right, metric="rmse")
    constant = torch.full_like(y, 3.0)
    check(three(y=constant, overlap=True), model=model, loss=right, metric="rmse")


class Broken(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.sum()

    @staticmethod
    def backward(ctx, gradient):
        raise RuntimeError("no way back")


def test_losses_whose_gradient_cannot_be_had():
    message = refused(loss=lambda o, y: Broken.apply(o))
    assert message.endswith("must have a gradient, but has none (no way back).")


def test_targets_of_other_types():
    check(three(y=X[:, :1].double()), model=lambda: nn.Linear(4, 1), loss=F.mse_loss, metric="rmse")
    message = refused(three(y=Y[:, None] % 2), model=lambda: nn.Linear(4, 1), loss=F.binary_cross_entropy_with_logits)
    assert "The loss of mine, given outputs float32 (30, 1) and targets int64 (30, 1), failed: RuntimeError" in message


def test_batch_norm_that_sees_one_sample_a_batch():
    model = lambda: nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))  # noqa: E731
    message = refused(model=model, recipe=Recipe(epochs=1, lr=0.1, batch_size=1))
    assert "while it trains on 1 samples, failed: ValueError: Expected more than 1 value per channel" in message


# The metric.


def failing(outputs, targets):
    raise RuntimeError("no idea")  # here


@pytest.mark.parametrize(
    "function, message",
    [
        (failing, "The metric own failed: RuntimeError: no idea (test_check.py, line"),
        (
            lambda o, y: math.nan,
            "The metric must be a finite number, but for the untrained model the metric own is nan",
        ),
        (lambda o, y: "fine", "The metric own must return a number, got str."),
    ],
)
def test_own_metrics(function, message):
    assert message in refused(metric=Metric("own", function))


def test_a_metric_that_does_not_fit():
    labels = (X > 0).float()
    model = lambda: nn.Linear(4, 4)  # noqa: E731
    message = refused(three(y=labels), model=model, loss=F.binary_cross_entropy_with_logits, metric="mcc")
    assert "The metric mcc does not fit: mcc needs one class per sample, got several labels per sample" in message
    check(three(y=labels), model=model, loss=F.binary_cross_entropy_with_logits, metric="macro_f1")


class Two(nn.Linear):
    def forward(self, x):
        return super().forward(x), x


def test_a_model_with_two_outputs_needs_an_own_metric():
    loss = lambda o, y: F.cross_entropy(o[0], y)  # noqa: E731
    message = refused(model=lambda: Two(4, 3), loss=loss)
    assert "reads one output tensor, or the one called logits, but the model returns 2" in message
    check(model=lambda: Two(4, 3), loss=loss, metric=Metric("own", lambda o, y: (o[0].argmax(1) == y).double().mean()))


# Datasets.


class Reading(Dataset):
    def __init__(self, part, item):
        self.places, self.item = range(90)[part], item

    def __len__(self):
        return len(self.places)

    def __getitem__(self, place):
        return self.item(self.places[place])


def read(item, **options):
    return Data(*(Reading(part, item) for part in PARTS), **options)


def damaged(place):
    if place == 70:
        raise OSError("recording 70 is damaged")  # here
    return X[place], Y[place]


def test_datasets():
    check(read(lambda k: (X[k], Y[k])))
    check(read(lambda k: (X[k], int(Y[k]), f"person {k // 30}")))
    message = refused(read(damaged))
    assert message.startswith(
        "The Dataset of the test split, asked for sample 10 of 30, failed: OSError: recording 70 is damaged (test_ch"
    )
    assert refused(read(lambda k: X[k])) == (
        "A Dataset must yield (x, y) or (x, y, group), got Tensor; return a tuple."
    )
    broken = lambda k: (X[k] * (math.nan if k in (31, 35) else 1), Y[k])  # noqa: E731
    assert (
        "of the validation split must be finite, got NaN or infinity in 2 of 30 samples (first: sample 1)"
        in refused(read(broken))
    )
    assert "must tell the group of every sample or of none, got 1 groups for 30" in refused(
        read(lambda k: (X[k], Y[k], 0) if k == 2 else (X[k], Y[k]))
    )


def test_samples_that_make_no_batch():
    message = refused(read(lambda k: (X[k, : 1 + k % 3], Y[k])))
    assert "Samples of a Dataset must make one batch of tensors, but torch cannot" in message and "collate=" in message
    message = refused(read(lambda k: (X[k], Y[k]), collate=lambda pairs: {"x": 1}))
    assert "The collate function must return a pair (x, y), got dict" in message
    message = refused(read(lambda k: (X[k], Y[k]), collate=lambda pairs: pairs[0].nothing))
    assert "The Dataset of the train split failed: AttributeError" in message and "(test_check.py, line" in message


def test_a_metric_of_a_dataset_in_the_order_of_its_classes():
    """The first validation samples all have one class; the metric needs both."""
    sorted_ = lambda k: (X[k], int(k % 30 >= 15))  # noqa: E731
    check(read(sorted_), model=lambda: nn.Linear(4, 2), metric="auroc")
