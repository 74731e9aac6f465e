"""Splits, data, tasks and metrics made of the wrong things: one sentence before the training, or the right value."""

from __future__ import annotations

import math
import sys
from dataclasses import replace

import numpy as np
import pandas
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import Subset, TensorDataset

from tests.tasks.checks.test_check import PARTS, X, Y, check, net, read, refused, task, three
from ttq_plugin.errors import InputError
from ttq_plugin.support.frames import of_the_user
from ttq_plugin.tasks import get_task
from ttq_plugin.tasks.checks.check import load_data, make_model
from ttq_plugin.tasks.metrics import Metric
from ttq_plugin.tasks.scoring.scores import score_outputs
from ttq_plugin.tasks.task import Data, Split

NUMBERS = np.arange(12, dtype=np.float32).reshape(4, 3)
LABELS = np.array([0, 1, 0, 1])


def frozen(array):
    array = array.copy()
    array.setflags(write=False)
    return array


def itself():
    nest = []
    nest.append(nest)
    return nest


@pytest.mark.parametrize(
    "x",
    [
        NUMBERS.astype(">f4"),
        np.ascontiguousarray(NUMBERS[::-1])[::-1],
        np.asfortranarray(NUMBERS),
        frozen(NUMBERS),
        np.repeat(NUMBERS, 2, 1)[:, ::2],
        pandas.DataFrame(NUMBERS),
        np.ma.masked_array(NUMBERS, mask=False),
        NUMBERS.tolist(),
        [row.tolist() for row in NUMBERS],
    ],
)
def test_arrays_and_tables_of_any_layout_hold_the_same_numbers(x):
    split = Split(x, pandas.Series(LABELS.astype(">i8")))
    assert split.x.tolist() == NUMBERS.tolist() and split.y.dtype == torch.int64 and split.y.tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize(
    "x, told",
    [
        (NUMBERS.astype(object), "x of a Split: an array must hold numbers of a type that torch has, got object; conv"),
        (NUMBERS.astype(np.longdouble), "got float128; convert it"),
        (np.zeros(4, dtype="M8[s]"), r"got datetime64\[s\]; convert it"),
        (np.zeros(4, dtype=[("a", "f4")]), "convert it, as by .astype"),
        (pandas.DataFrame({"a": list("abcd")}), "an array must hold numbers"),
        (np.ma.masked_array(NUMBERS, mask=NUMBERS > 3), "a masked array must have no masked value, got some"),
        (X.to_sparse(), "x of a Split must hold dense tensors with values, got sparse_coo; convert it"),
        ((X, {"a": X.to("meta")}), r"dense tensors with values, got one without values \(meta\)"),
        (torch.quantize_per_tensor(X, 0.1, 0, torch.qint8), "got a quantised one"),
        (itself(), "x of a Split must be a nest of tensors, got one that holds itself"),
    ],
)
def test_what_is_no_array_of_numbers(x, told):
    with pytest.raises(InputError, match=told):
        Split(x, Y)


@pytest.mark.parametrize(
    "groups",
    ["abcd", 5, {0: 1}, {1, 2}, [[0], [0, 1]], [(0, "a")] * 4, torch.zeros(4, 1), [None] * 4, np.zeros(4, "M8[s]")],
)
def test_groups_of_the_wrong_kind(groups):
    with pytest.raises(InputError, match="^groups of a Split must be a list or array with a number or word for each"):
        Split(NUMBERS, LABELS, groups)


def test_groups_of_every_right_kind():
    for groups in ([1.0, 1, 2, 2], torch.tensor([1.0, 1, 2, 2], requires_grad=True), pandas.Series([1, 1, 2, 2])):
        split = Split(NUMBERS, LABELS, groups)
        assert split.group_ids.tolist() == [1, 1, 2, 2] and split.take([2]).group_ids.tolist() == [2]
    with pytest.raises(InputError, match="must name the group of every sample, got NaN"):
        Split(NUMBERS, LABELS, [1.0, math.nan, 2, 2])


def test_many_parts_are_told_in_a_short_message():
    with pytest.raises(InputError, match=r"got list \(0: int64 \(\), .*, 7: int64 \(\), and 82 more\)\.$") as caught:
        three(y=Y)
        Data(Split(X, list(Y)), Split(X, Y), Split(X, Y))
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize("workers", [-1, "2", 1.5, True, 10**6, None])
def test_workers_of_data(workers):
    with pytest.raises(InputError, match="^workers of Data must be a whole number from 0 to "):
        three(workers=workers)


@pytest.mark.parametrize("changes", [{"simulated": "no"}, {"overlap": 1}, {"collate": "pad"}])
def test_options_of_data(changes):
    (name,) = changes
    with pytest.raises(InputError, match=f"^{name} of Data must be (True or False|a function or None), got "):
        three(**changes)


@pytest.mark.parametrize(
    "shape", [4, "4", (4.0,), (-4,), (0,), (4, (4,)), (True,), None, (((4,),),), {4}, np.array([4]), (math.nan,)]
)
def test_a_shape_that_is_none(shape):
    with pytest.raises(InputError, match="^shape of a task must be a tuple of positive whole numbers"):
        task(shape=shape)


def test_a_shape_is_that_of_the_samples():
    assert task(shape=[np.int64(4)]).shape == (4,) and task(shape=torch.Size([2, 3])).shape == (2, 3)
    assert task(shape=[[4], (2, 3)]).shape == ((4,), (2, 3))
    check(shape=[4])
    assert refused(shape=(5,)) == (
        "The inputs must have the shape that the task tells, (5,), got (4,) a sample; correct it, or leave it out."
    )


@pytest.mark.parametrize(
    "classes, told",
    [
        ("abc", "classes of a task must be a tuple of names, got 'abc'"),
        ({0: "a"}, "must be a tuple of names, got dict"),
        (3, "must be a tuple of names, got 3"),
        ((1, 2, 3), "the name of a class must have 1 to 200 characters.*, got 1;"),
        (("a", "", "c"), "the name of a class must have 1"),
        (("a", "b\n", "c"), "none of them a control character"),
        (("a", "\ud800", "c"), "none of them a control character"),
        (("a", "b", "a"), "classes of a task must have different names, got 'a' twice"),
    ],
)
def test_classes_that_are_no_names(classes, told):
    with pytest.raises(InputError, match=told):
        task(classes=classes)


def test_each_class_has_a_name():
    assert task(classes=["a", "b", "c"]).classes == ("a", "b", "c")
    check(classes=["a", "b", "c"])
    for classes in (("a", "b"), tuple("abcd")):
        assert refused(classes=classes) == (
            f"classes of a task must name every class, got {len(classes)} names for 3 classes."
        )


@pytest.mark.parametrize(
    "changes, told",
    [
        ({"low": "a"}, "low must be a number, got 'a'"),
        ({"higher": "yes"}, "higher must be True or False, got 'yes'"),
        ({"fraction": "no"}, "fraction must be True or False"),
        ({"title": 3}, "title must be a string, got 3"),
        ({"title": "a\nb"}, "the title of a metric must have"),
        ({"low": 1, "high": 0}, "low of the metric own must be less than high, got 1 and 0"),
        ({"low": math.nan}, "low of the metric own must be less than high, got nan and inf"),
    ],
)
def test_a_metric_of_the_wrong_things(changes, told):
    with pytest.raises(InputError, match=told):
        Metric("own", lambda o, y: 0.5, **changes)


@pytest.mark.parametrize(
    "value, told",
    [
        (np.True_, "must return a number, got bool"),
        (50.0, "must lie between its low and high, 0 and 1, got 50; correct the function or the bounds"),
        (-1e-3, "must lie between its low and high"),
        (10**400, "must be a finite number, but for the untrained model the metric own is inf"),
    ],
)
def test_a_metric_that_returns_something_else(value, told):
    assert told in refused(metric=Metric("own", lambda o, y: value, low=0, high=1))
    check(metric=Metric("own", lambda o, y: np.float32(1) + 1e-7, low=0, high=1))


def test_a_metric_that_writes_into_the_outputs_changes_no_recall():
    own = Metric("own", lambda o, y: float(o.zero_().sum() + y.zero_().sum()))
    found = score_outputs(torch.eye(3), torch.tensor([0, 1, 1]), own)
    assert found.value == 0 and found.parts["recall_0"] == 1 and found.parts["recall_1"] == 0.5


def test_a_model_or_loss_that_writes_into_its_inputs_changes_no_sample():
    def loss(outputs, targets):
        return F.cross_entropy(outputs, targets.clone()) + 0 * targets.add_(1).sum()

    data = three()
    before = [split.digest() for split in (data.train, data.validation, data.test)]
    check(data, model=lambda: nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 3)), loss=loss)
    assert [split.digest() for split in (data.train, data.validation, data.test)] == before
    assert bool((X < 0).any()) and int(Y.max()) == 2


@pytest.mark.parametrize("name", ["validation", "test"])
@pytest.mark.parametrize("x, told", [(X[:, :3], "shapes cannot be mult"), (X.double(), "must have the model's dtype")])
def test_a_split_of_another_form_is_refused_before_the_training(name, x, told):
    place = ["train", "validation", "test"].index(name)
    message = refused(replace(three(), **{name: Split(x[PARTS[place]], Y[PARTS[place]])}))
    assert f"of the {name} split" in message and told in message


def test_a_model_that_is_always_the_same():
    one = net()
    shared = task(model=lambda: one)
    make_model(shared)
    with pytest.raises(InputError, match="^model of mine must return a new module at each call, got the same one"):
        make_model(shared)


def test_complex_outputs():
    class Complex(nn.Linear):
        def forward(self, x):
            return super().forward(x) + 0j

    assert "must be real numbers, got outputs of the shape (30, 3)" in refused(model=lambda: Complex(4, 3))


@pytest.mark.parametrize("dtype", [torch.uint16, torch.uint32, torch.uint64, torch.bool, torch.int16])
def test_labels_of_other_whole_numbers(dtype):
    name = str(dtype).removeprefix("torch.")
    assert f"Class labels must be int64, got {name} in the train split" in refused(three(y=Y.to(dtype)))


def test_a_dataset_that_cannot_be_read():
    whole = TensorDataset(X[:30], Y[:30])
    parts = [Subset(whole, places) for places in (range(10), range(10, 20), [20, 21, 99])]
    assert refused(Data(*parts)).startswith("The Dataset of the test split, asked for sample 2 of 3, failed: IndexErr")
    strange = read(lambda k: (X[k].numpy().astype(object), Y[k]))
    assert refused(strange).startswith("Sample 0 of a Dataset: an array must hold numbers of a type that torch has")
    swapped = read(lambda k: (X[k].numpy().astype(">f4"), Y[k]))
    assert "must make one batch of tensors, but torch cannot (given numpy array has byte order" in refused(swapped)


def test_code_that_ends_the_program_is_told(tmp_path, monkeypatch):
    def load(source, seed):
        sys.exit(0)

    with pytest.raises(InputError, match=r"^load of mine failed: SystemExit: 0 \(test_made.py, line"):
        load_data(replace(task(), load=load), None, 0)
    (tmp_path / "script_of_mine.py").write_text("import sys\nsys.exit()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(InputError, match=r"cannot be imported from .*SystemExit.*script_of_mine.py, line 2"):
        get_task("script_of_mine:TASK")
    with pytest.raises(KeyboardInterrupt), of_the_user("The user"):
        raise KeyboardInterrupt
