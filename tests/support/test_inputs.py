"""Nestings of tensors: one way to call a model, and every tensor reached in every kind of nesting."""

from __future__ import annotations

from collections import OrderedDict, UserDict, namedtuple
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from ttq_plugin.errors import InputError
from ttq_plugin.support import inputs

Point = namedtuple("Point", "x y")


@dataclass
class Answer:
    logits: Tensor
    hidden: tuple[Tensor, ...]
    note: str = "kept"


def nestings(a, b):
    """One of each kind that holds the tensors a and b, in this order."""
    return [
        (a, b),
        [a, b],
        {"a": a, "b": b},
        OrderedDict(a=a, b=b),
        UserDict(a=a, b=b),
        Point(a, b),
        Answer(a, (b,)),
        {"deep": [{"a": (a, None)}, 3], "b": b, "text": "x"},
    ]


def test_a_tuple_is_positional_a_mapping_keywords_and_all_else_the_one_argument():
    def model(*positional, **named):
        return positional, named

    one = torch.ones(1)
    assert inputs.call(model, one) == ((one,), {})
    assert inputs.call(model, (one, 2)) == ((one, 2), {})
    assert inputs.call(model, {"x": one}) == ((), {"x": one})
    assert inputs.call(model, UserDict(x=one)) == ((), {"x": one})
    assert inputs.call(model, ({"x": one},)) == (({"x": one},), {})
    assert inputs.call(model, [one, one]) == (([one, one],), {})
    point = Point(one, one)
    assert inputs.call(model, point) == ((point,), {})


@pytest.mark.parametrize("place", range(8))
def test_every_kind_of_nesting_is_walked_and_rebuilt(place):
    a, b = torch.arange(3.0), torch.arange(6).reshape(3, 2)
    tree = nestings(a, b)[place]
    found = inputs.tensors(tree)
    assert found[0] is a and found[1] is b and len(found) == 2
    assert inputs.first_tensor(tree) is a and inputs.batch_size(tree) == inputs.length(tree) == 3
    doubled = inputs.map_tensors(lambda t: 2 * t, tree)
    assert type(doubled) is type(tree)
    assert torch.equal(inputs.tensors(doubled)[0], 2 * a) and torch.equal(inputs.tensors(doubled)[1], 2 * b)
    assert inputs.tensors(tree)[0] is a, "the nesting itself is left alone"
    part = inputs.tensors(inputs.index(tree, [2, 0]))
    assert part[0].tolist() == [2, 0] and part[1].tolist() == [[4, 5], [0, 1]]
    whole = inputs.tensors(inputs.join([inputs.index(tree, slice(0, 1)), inputs.index(tree, slice(1, 3))]))
    assert torch.equal(whole[0], a) and torch.equal(whole[1], b)
    assert all(t.device.type == "meta" for t in inputs.tensors(inputs.to_device(tree, "meta")))


def test_leaves_that_are_no_tensors_stay():
    tree = {"a": torch.ones(2), "flag": True, "none": None, "answer": Answer(torch.ones(2), (), "said")}
    half = inputs.index(tree, slice(1))
    assert half["flag"] is True and half["none"] is None and half["answer"].note == "said"
    assert inputs.map_tensors(torch.neg, "text") == "text"


def test_a_model_output_of_transformers_stays_one():
    from transformers.modeling_outputs import SequenceClassifierOutput

    output = SequenceClassifierOutput(logits=torch.ones(4, 2), hidden_states=(torch.ones(4, 3),))
    half = inputs.index(output, slice(2))
    assert type(half) is SequenceClassifierOutput and half.logits.shape == (2, 2) and half["logits"] is half.logits
    assert [path for path, _ in inputs.named_tensors(output)] == [("logits",), ("hidden_states", "0")]


def test_paths_name_keys_fields_and_places():
    x = torch.ones(1)
    tree = {"heads": [x, Point(x, x)], "answer": Answer(x, (x,))}
    paths = [".".join(path) for path, _ in inputs.named_tensors(tree)]
    assert paths == ["heads.0", "heads.1.x", "heads.1.y", "answer.logits", "answer.hidden.0"]
    assert [path for path, _ in inputs.named_tensors(x)] == [()]
    mixed = {"x": x, "rest": [3, None, {}]}
    assert [(path[-1], leaf) for path, leaf in inputs.leaves(mixed)] == [("x", x), ("0", 3), ("1", None), ("2", {})]


def test_tensors_without_dimensions_belong_to_all_samples():
    tree = (torch.tensor(7), torch.ones(5, 2))
    assert inputs.length(tree) == 5
    scalar, rows = inputs.index(tree, slice(2))
    assert scalar is tree[0] and rows.shape == (2, 2)
    with pytest.raises(InputError, match="only tensors"):
        inputs.join([tree, tree])


def test_samples_must_be_as_many_everywhere():
    with pytest.raises(InputError, match="the same number of samples, got 3 and, in mask, 2"):
        inputs.length({"x": torch.ones(3), "mask": torch.ones(2)})
    with pytest.raises(InputError, match="must hold at least one tensor .* got dict without any"):
        inputs.length({"x": 3})


def test_kinds_in_words():
    assert inputs.kind(torch.ones(2, 3)) == "float32 (2, 3)"
    assert inputs.kind([torch.ones(2, 2), torch.ones(3)], 2) == "list (0: float32 (batch, 2), 1: float32 (3))"
    assert inputs.kind({"x": torch.ones(2, dtype=torch.int64)}) == "dict (x: int64 (2))"
    assert inputs.kind(None) == "NoneType"
