"""Samples in memory and from a Dataset: the same batches, order, scores and digest."""

from __future__ import annotations

import random
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import Dataset

from ttq_plugin.errors import InputError
from ttq_plugin.support import inputs
from ttq_plugin.tasks.full_precision import full_precision
from ttq_plugin.tasks.metrics import METRICS, Metric
from ttq_plugin.tasks.samples import Split, Stream
from ttq_plugin.tasks.scoring.scores import outputs_of, score
from ttq_plugin.tasks.task import Data, Recipe, Task
from ttq_plugin.tasks.training import train
from ttq_plugin.trial.prepared import prepare
from ttq_plugin.trial.run import Settings, run, score_on_test

X = torch.randn(130, 6, generator=torch.Generator().manual_seed(1))
Y = (X[:, 0] + X[:, 1] > 0).long()


class Rows(Dataset):
    """Samples one at a time; a function changes them on the way."""

    def __init__(self, x, y, groups=None, change=lambda x: x):
        self.x, self.y, self.groups, self.change = x, y, groups, change

    def __len__(self):
        return len(self.y)

    def __getitem__(self, place):
        pair = self.change(inputs.index(self.x, place)), self.y[place]
        return pair if self.groups is None else (*pair, self.groups[place])


def generator():
    return torch.Generator().manual_seed(5)


def equal(one, other):
    return all(torch.equal(a, b) for a, b in zip(inputs.tensors(one), inputs.tensors(other), strict=True))


NESTED = {
    "tensor": X,
    "tuple": (X, X + 1),
    "dict": {"signal": X, "age": X[:, :1]},
    "tuple of dict": ({"signal": X, "more": [X, X]},),
}


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("form", NESTED)
def test_both_give_the_same_batches_in_the_same_order(form, workers):
    split, stream = Split(NESTED[form], Y), Stream(Rows(NESTED[form], Y), workers=workers)
    assert len(split) == len(stream) == 130
    for make in (lambda: None, generator):
        ours, theirs = list(split.batches(32, make())), list(stream.batches(32, make()))
        assert [len(y) for _, y in ours] == [32, 32, 32, 32, 2] and len(theirs) == 5
        for (x, y), (a, b) in zip(ours, theirs, strict=True):
            assert equal(x, a) and torch.equal(y, b)
            assert type(a) is type(x)
    assert torch.equal(torch.cat([y for _, y in split.batches(32)]), Y)
    assert not torch.equal(torch.cat([y for _, y in split.batches(32, generator())]), Y)
    assert equal(split.head(3).x, stream.head(3).x) and len(stream.head(1000)) == 130
    assert torch.equal(split.targets(), stream.targets())


def net():
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 2))


@pytest.mark.parametrize("workers", [0, 1])
def test_both_train_the_same_model_dropout_and_all(workers):
    def trained(samples):
        torch.manual_seed(3)
        model = net()
        train(
            model,
            torch.optim.Adam(model.parameters(), 0.01),
            None,
            lambda batch, m: F.cross_entropy(m(batch[0]), batch[1]),
            samples,
            epochs=2,
            batch_size=32,
            seed=4,
        )
        return model.eval()

    split, stream = Split(X, Y), Stream(Rows(X, Y), workers=workers)
    one, other = trained(split), trained(stream)
    assert equal(list(one.parameters()), list(other.parameters()))
    assert score(one, split) == score(one, stream) and score(one, split).value > 0.5


def test_a_stream_moves_nobodys_random_numbers():
    state = torch.random.get_rng_state()
    stream = Stream(Rows(X, Y), workers=1)
    list(stream.batches(64, generator()))
    stream.digest()
    assert torch.equal(state, torch.random.get_rng_state())


# Sequences of unequal length.

LENGTHS = [3 + k % 5 for k in range(40)]
SEQUENCES = [torch.full((n,), float(n % 2)) + 0.01 * torch.arange(n) for n in LENGTHS]


class Unequal(Dataset):
    def __init__(self, places):
        self.places = list(places)

    def __len__(self):
        return len(self.places)

    def __getitem__(self, k):
        return SEQUENCES[self.places[k]], LENGTHS[self.places[k]] % 2


def padded(pairs):
    x = nn.utils.rnn.pad_sequence([x for x, _ in pairs], batch_first=True)
    lengths = torch.tensor([len(x) for x, _ in pairs])
    return {"x": x, "lengths": lengths}, torch.tensor([y for _, y in pairs])


class Mean(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden, self.head = nn.Linear(1, 8), nn.Linear(8, 2)

    def forward(self, x, lengths):
        mask = torch.arange(x.shape[1])[None] < lengths[:, None]
        return self.head((self.hidden(x[..., None]).relu() * mask[..., None]).sum(1) / lengths[:, None])


def unequal(source, seed):
    return Data(Unequal(range(20)), Unequal(range(20, 30)), Unequal(range(30, 40)), collate=padded, overlap=True)


SEQUENCE_TASK = Task("lengths", "odd or even", unequal, Mean, F.cross_entropy, Recipe(8, 0.1, 7), metric="accuracy")


def test_sequences_of_unequal_length_through_a_whole_compression(tmp_path):
    ready = prepare(SEQUENCE_TASK, cache=tmp_path, check_test=True)
    assert ready.score == 1.0 and [trace.name for trace in ready.traces] == ["hidden", "head"]
    widths = [x["x"].shape[1] for x, _ in ready.train.batches(7)]
    assert len(set(widths)) == 1 and widths[0] == 7
    outcome = run(ready, Settings("lengths", "ttq", epochs=2, share=1.0))
    [test] = score_on_test(SEQUENCE_TASK, [outcome.model], seed=0, fingerprint=ready.fingerprint)
    outputs, targets = outputs_of(outcome.model, unequal(None, 0).test)
    assert test.value == (outputs.argmax(1) == targets).double().mean().item()
    assert test.parts.keys() == {"balanced_accuracy", "recall_0", "recall_1"}


class Tagged(Unequal):
    def __getitem__(self, k):
        return SEQUENCES[self.places[k]], (SEQUENCES[self.places[k]] > 0.5).long()


def tags(pairs):
    pad = lambda parts, value: nn.utils.rnn.pad_sequence(parts, True, value)  # noqa: E731
    return pad([x for x, _ in pairs], 0.0), pad([y for _, y in pairs], -100)


def test_targets_are_what_the_collate_function_makes_of_them():
    stream = Stream(Tagged(range(8)), collate=tags)
    targets = stream.targets()
    assert targets.shape == (8, 7) and (targets[0] == -100).tolist() == [False] * 3 + [True] * 4
    # Batches of other lengths cannot be scored together, which is told.
    places = [k for k in range(40) if LENGTHS[k] == 3] * 8 + [1]
    uneven = Stream(Tagged(places), collate=tags)
    assert uneven.uneven and not stream.uneven and len(uneven.targets()) == 2
    token = nn.Sequential(nn.Unflatten(1, (-1, 1)), nn.Linear(1, 2))
    with pytest.raises(InputError, match="The outputs of different batches must have one shape.*pad to one length"):
        score(token, uneven)


# Groups.


@pytest.mark.parametrize("groups", [[f"p{k // 10}" for k in range(130)], torch.arange(130) // 10, np.arange(130) // 10])
def test_groups(groups):
    split, stream = Split(X, Y, groups=groups), Stream(Rows(X, Y, groups))
    assert split.group_ids.shape == (130,) and split.group_ids.tolist() == stream.group_ids.tolist()
    assert split.take(torch.tensor([0, 125])).group_ids.tolist() == [split.group_ids[0], split.group_ids[125]]
    assert split.head(2).group_ids.tolist() == split.group_ids[:2].tolist()
    assert split.to("cpu").group_ids.tolist() == split.group_ids.tolist()
    assert Split(X, Y).group_ids is None and Stream(Rows(X, Y)).group_ids is None
    x, y = next(iter(stream.batches(4)))
    assert torch.equal(x, X[:4]) and torch.equal(y, Y[:4]), "groups are no part of a batch"


# Digests.


def test_a_digest_is_the_datas():
    assert Split(X, Y).digest() == Split(X.clone(), Y.clone(), groups=Y).digest()
    for changed in (Split(X + 0.001, Y), Split(X, 1 - Y), Split(X.double(), Y), Split(X[:129], Y[:129])):
        assert changed.digest() != Split(X, Y).digest()
    assert Split({"a": X}, Y).digest() != Split({"b": X}, Y).digest()
    base = Stream(Rows(X, Y)).digest()
    assert base == Stream(Rows(X, Y), workers=2).digest()
    changed = X.clone()
    changed[77, 2] += 1e-6
    assert base != Stream(Rows(changed, Y)).digest() != Stream(Rows(X, 1 - Y)).digest()
    assert base != Stream(Rows(X.flip(0), Y.flip(0))).digest(), "the order of samples is part of the data"


def test_a_digest_does_not_follow_the_order_of_access():
    one, other = Stream(Rows(X, Y)), Stream(Rows(X, Y))
    list(one.batches(10, generator()))
    one.head(5)
    assert one.digest() == other.digest()


NOISE = {
    "torch": lambda x: x + torch.randn(6),
    "numpy": lambda x: x + torch.as_tensor(np.random.randn(6)).float(),
    "random": lambda x: x * random.random(),
}


@pytest.mark.parametrize("source", NOISE)
def test_random_augmentations_give_the_same_digest_and_scores_and_differ_in_training(source):
    def stream():
        return Stream(Rows(X, Y, change=NOISE[source]))

    before = random.random(), np.random.rand(), torch.rand(1)
    one = stream().digest()
    assert (random.random(), np.random.rand()) != before[:2]
    assert one == stream().digest() != Stream(Rows(X, Y)).digest()
    torch.manual_seed(0)
    model = net()
    assert score(model, stream()) == score(model, stream())
    first, second = (torch.cat([x for x, _ in s.batches(64)]) for s in [stream()] * 2)
    assert not torch.equal(first, second)


def test_training_with_random_augmentations_is_repeatable(tmp_path):
    def load(source, seed):
        noisy = [Rows(X[p], Y[p], change=NOISE["numpy"]) for p in (slice(0, 60), slice(60, 95), slice(95, 130))]
        return Data(*noisy)

    task = Task("noisy", "a task", load, net, F.cross_entropy, Recipe(epochs=2, lr=0.01))
    np.random.seed(11)
    one = full_precision(task, load(None, 0), seed=0, cache=tmp_path / "one")
    np.random.seed(12)
    other = full_precision(task, load(None, 0), seed=0, cache=tmp_path / "other")
    assert equal(list(one.model.parameters()), list(other.model.parameters())) and one.path.name == other.path.name


class Named(Rows):
    fingerprint = "recordings of May"
    reads = 0

    def __getitem__(self, place):
        type(self).reads += 1
        return super().__getitem__(place)


def test_a_datasets_own_fingerprint_spares_reading_it():
    assert Stream(Named(X, Y)).digest() == Stream(Named(X + 1, Y)).digest() and Named.reads == 0
    other = Named(X, Y)
    other.fingerprint = lambda: "recordings of June"
    assert Stream(other).digest() != Stream(Named(X, Y)).digest() and Named.reads == 0


def test_a_dataset_is_read_through_once():
    class Counted(Rows):
        reads = 0

        def __getitem__(self, place):
            Counted.reads += 1
            return super().__getitem__(place)

    stream = Stream(Counted(X, Y, Y))
    for _ in range(2):
        stream.digest(), stream.targets(), stream.group_ids, stream.broken(), stream.rows()
        stream = stream.to("cpu")
    assert Counted.reads == 130


# Numbers as people write them.


def test_arrays_and_lists_become_tensors():
    split = Split([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], [0, 1, 0])
    assert split.x.shape == (3, 2) and split.y.tolist() == [0, 1, 0] and split.y.dtype == torch.int64
    split = Split((np.zeros((3, 2), np.float32), [[1, 2], [3, 4], [5, 6]]), np.arange(3))
    assert [tuple(t.shape) for t in split.x] == [(3, 2), (3, 2)]
    assert [t.shape for t in Split([np.zeros(3), np.zeros((3, 2))], np.arange(3)).x] == [(3,), (3, 2)]


def test_a_balanced_loss_of_a_stream():
    task = Task("t", "a task", lambda s, k: None, net, F.cross_entropy, Recipe(1, 0.1), balanced=True)
    stream = Stream(Rows(X, Y))
    assert torch.equal(task.class_weights(stream), task.class_weights(Split(X, Y)))
    n, ones = 130, int(Y.sum())
    assert task.class_weights(stream).tolist() == pytest.approx([n / (2 * (n - ones)), n / (2 * ones)])


# What a stranger's data do.


def nested_targets(source, seed):
    y = {"side": Y, "sum": X.sum(1)}
    return Data(*(Split((X[p],), inputs.index(y, p)) for p in (slice(0, 65), slice(65, 100), slice(100, 130))))


class Heads(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.side, self.sum = nn.Linear(6, 16), nn.Linear(16, 2), nn.Linear(16, 1)

    def forward(self, x):
        hidden = self.body(x).relu()
        return {"side": self.side(hidden), "sum": self.sum(hidden)[:, 0]}


def both(outputs, targets):
    return F.cross_entropy(outputs["side"], targets["side"]) + F.mse_loss(outputs["sum"], targets["sum"])


def error(outputs, targets):
    return (outputs["sum"] - targets["sum"]).abs().mean()


def test_several_targets_with_an_own_loss_and_metric_and_a_sample_left_over(tmp_path):
    """65 samples in batches of 32 leave one over at the end, which BatchNorm cannot learn from."""
    model = lambda: nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), Heads())  # noqa: E731
    metric = Metric("sum_error", error, higher=False)
    task = Task("heads", "two", nested_targets, model, both, Recipe(3, 0.01), metric=metric)
    ready = prepare(task, cache=tmp_path, check_test=True)
    outcome = run(ready, Settings("heads", "pttq", epochs=2, share=1.0))
    assert set(outcome.layers) == {"0", "2.body", "2.side", "2.sum"}
    outputs, targets = outputs_of(outcome.model, ready.validation)
    assert outcome.metrics["sum_error"] == pytest.approx(error(outputs, targets).item())
    [test] = score_on_test(task, [outcome.model], seed=0, fingerprint=ready.fingerprint)
    assert test.value > 0 and test.parts == {}


def test_load_that_gives_other_data_after_the_training(tmp_path):
    calls = []

    def load(source, seed):
        calls.append(seed)  # as a file that changes: the first two calls, before the training, agree
        x = torch.randn(90, 6, generator=torch.Generator().manual_seed(len(calls) // 3))
        return Data(*(Split(part, (part[:, 0] > 0).long()) for part in x.split(30)))

    task = Task("other", "a task", load, net, F.cross_entropy, Recipe(1, 0.01))
    ready = prepare(task, cache=tmp_path, curvature=False)
    with pytest.raises(InputError, match="load of other must give the same data for the same arguments.*from its seed"):
        score_on_test(task, [ready.model], seed=0, fingerprint=ready.fingerprint)


class Slow(Rows):
    def __getitem__(self, place):
        if place == 50:
            raise OSError("recording 50 is damaged")  # here
        return super().__getitem__(place)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_dataset_that_raises_in_training_names_the_line(workers):
    model = net()
    with pytest.raises(
        InputError, match=r"^Training in epoch 1 of 1 failed: OSError: recording 50 is damaged \(test_s"
    ):
        train(
            model,
            torch.optim.Adam(model.parameters()),
            None,
            lambda batch, m: F.cross_entropy(m(batch[0]), batch[1]),
            Stream(Slow(X, Y), workers=workers),
            epochs=1,
            batch_size=32,
            seed=0,
        )
    with pytest.raises(
        InputError, match=r"^Scoring the model failed: OSError: recording 50 is damaged \(test_samples.py"
    ):
        score(model, Stream(Slow(X, Y), workers=workers))


def test_hugging_face_outputs(tmp_path):
    modeling = pytest.importorskip("transformers.modeling_outputs")

    class Classifier(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Linear(6, 16), nn.Linear(16, 2)

        def forward(self, input_ids, attention_mask=None):
            hidden = self.body(input_ids).relu()
            return modeling.SequenceClassifierOutput(logits=self.head(hidden), hidden_states=(hidden,))

    def load(source, seed):
        x = {"input_ids": X, "attention_mask": torch.ones(130, 6)}
        return Data(*(Split(inputs.index(x, p), Y[p]) for p in (slice(0, 65), slice(65, 100), slice(100, 130))))

    loss = lambda outputs, y: F.cross_entropy(outputs.logits, y)  # noqa: E731
    task = Task("hf", "a task", load, Classifier, loss, Recipe(5, 0.01), metric="auroc")
    ready = prepare(task, cache=tmp_path, check_test=True)
    assert ready.score > 0.8
    for settings in (
        Settings("hf", "pttq", epochs=1, share=1.0),
        Settings("hf", "pttq", epochs=1, share=1.0, loss="distillation"),
        Settings("hf", "pttq", epochs=1, share=1.0, precision="bfloat16"),
    ):
        outcome = run(ready, settings)
        outputs, targets = outputs_of(outcome.model, ready.validation)
        assert outcome.metrics["auroc"] == METRICS["auroc"].function(outputs.logits, targets) > 0.5
    whole = replace(task, metric=Metric("rows", lambda outputs, y: len(outputs.hidden_states[0])))
    assert prepare(whole, cache=tmp_path, curvature=False).score == 35


def test_worker_processes_read_ahead():
    class Waiting(Rows):
        def __getitem__(self, place):
            time.sleep(0.002)
            return super().__getitem__(place)

    stream = Stream(Waiting(X, Y), workers=2)
    assert torch.equal(torch.cat([y for _, y in stream.batches(16)]), Y)
