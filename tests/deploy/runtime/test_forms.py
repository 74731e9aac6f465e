"""A runtime that is never silently wrong: models that cannot be traced, or are traced wrong, and inputs of any form."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.deploy.runtime.test_runtime import built, close, ternary
from tests.zoo import networks as zoo
from ttq_plugin import InputError, TernaryRuntime
from ttq_plugin.deploy.runtime.agreement import difference, probes
from ttq_plugin.deploy.runtime.compiled import Choice
from ttq_plugin.deploy.runtime.fused import FusedLayer
from ttq_plugin.support.inputs import call, index, tensors


def agrees(runtime, model, inputs):
    with torch.inference_mode():
        return difference(runtime(inputs), call(model, inputs), 1e-5) is None


class OfTensors(nn.Module):
    """Tracing gives it something that is no tensor, and loses the branch."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 5)

    def forward(self, x):
        if torch.is_tensor(x):
            x = (x - x.mean()) / x.std()
        return F.relu(self.layer(x))


class InPlace(nn.Module):
    """Nothing uses what relu_ returns."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 5)

    def forward(self, x):
        x = self.layer(x)
        F.relu_(x)
        return x


class ReadsWeight(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.norm = nn.Linear(8, 8), nn.LayerNorm(8)

    def forward(self, x):
        if x.dtype != self.layer.weight.dtype or float(x[0, 0]) > 1e6:
            return x
        return self.norm(self.layer(x)) + F.linear(x, self.layer.weight, self.layer.bias)


class Holds(nn.Module):
    """Cannot be copied, and keeps what it saw."""

    def __init__(self):
        super().__init__()
        self.layer, self.lock, self.seen = nn.Linear(8, 5), threading.Lock(), None

    def forward(self, x):
        self.seen = self.layer(x)
        return self.seen * 2


class StillNorm(nn.BatchNorm1d):
    """Its running statistics stay what they are."""

    def __init__(self):
        super().__init__(6, momentum=0.0)
        self.num_batches_tracked = None
        nn.init.constant_(self.running_mean, 3)


StillNorm.__module__ = nn.BatchNorm1d.__module__  # one of torch's own, as far as a trace knows


def late(model):
    """One layer that stayed in training mode, and takes its batch's statistics."""
    model.eval()[2].train()
    return model


class Looks(nn.Module):
    """Chooses by the values of its batch."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(8, 5), nn.Linear(8, 5)

    def forward(self, x):
        return self.a(x) if x.mean() > 100 else self.b(x)


class Single(nn.Module):
    """Its copy is itself."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 5)

    def __deepcopy__(self, memo):
        return self

    def forward(self, x):
        return x if float(x.sum()) > 1e9 else self.layer(x)


@pytest.mark.parametrize(
    ("make", "form"),
    [
        (OfTensors, "layers"),
        (InPlace, "graph"),
        (ReadsWeight, "layers"),
        (Holds, "graph"),
        (Looks, "layers"),
        (lambda: nn.Linear(8, 5), "graph"),
        (lambda: late(nn.Sequential(nn.Unflatten(1, (1, 8)), nn.Conv1d(1, 6, 3), StillNorm())), "graph"),
        (Single, "layers"),
    ],
)
def test_what_a_trace_does_not_see(make, form):
    torch.manual_seed(0)
    model = make()
    if model.training or not any(m.training for m in model.modules()):
        model.eval()
    example = torch.randn(4, 8)
    seen = getattr(model, "seen", None)
    runtime = TernaryRuntime(model, example)
    assert runtime.form == form
    assert type(getattr(model, "seen", None)) in {type(seen), torch.Tensor}
    runtime.runs = dict.fromkeys(runtime.runs, "ours")
    for x in (example, 200 + 5 * torch.randn(4, 8), -torch.ones(4, 8) * torch.rand(4, 1)):
        assert agrees(runtime, model, x)
    assert not any(isinstance(m, FusedLayer) for m in model.modules())


class Hooked(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 5)
        self.layer.register_forward_hook(lambda module, args, out: out + 1)

    def forward(self, x):
        return self.layer(x)


def test_layers_with_hooks_keep_them():
    model = Hooked().eval()
    runtime = TernaryRuntime(model, torch.randn(4, 8))
    assert not runtime.fused and agrees(runtime, model, torch.randn(3, 8))


class Counts(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 5)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return self.layer(x) + self.calls


class Noisy(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 5)

    def forward(self, x):
        return self.layer(x) + torch.rand(())


class Particular(nn.Module):
    """Is another function where its layer is of another class."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 5)

    def forward(self, x):
        if float(x.sum()) > 1e9:
            return x
        return self.layer(x) + (0 if isinstance(self.layer, nn.Linear) else 1)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (Counts, "a call of the model changes its buffer calls"),
        (Noisy, "outputs differ from one call to the next"),
        (Particular, "a difference of .* on the example"),
    ],
)
def test_models_that_nothing_can_stand_for_run_in_torch_and_this_is_said(make, reason):
    model = make().eval()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.warns(UserWarning, match=f"runs the whole model in torch: .*{reason}") as warned:
        runtime = TernaryRuntime(model, torch.randn(4, 8))
    assert len([w for w in warned if "TernaryRuntime" in str(w.message)]) == 1
    assert runtime.form == "torch" and runtime.fallback and runtime.table == {4: []} and runtime.runs == {4: "torch"}
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    if make is Counts:
        assert close(runtime(torch.zeros(1, 8)), model(torch.zeros(1, 8)).detach() - 1)
    if make is Particular:
        assert agrees(runtime, model, torch.randn(3, 8))


@built
def test_kernels_that_disagree_are_not_used(monkeypatch):
    """A whole batch size goes to torch where the layers, each of them right, are wrong together."""
    model = ternary(nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval())
    right = FusedLayer.by_kernel
    wrong = lambda self, x, choice, *more: right(self, x, choice, *more) * 1.01  # noqa: E731
    monkeypatch.setattr(FusedLayer, "by_kernel", wrong)
    x = torch.randn(2, 4, 9, 9)
    runtime = TernaryRuntime(model, x)
    assert {row.choice.kind for row in runtime.table[2]} == {"torch"} and runtime.fallback is None

    def together(self, x, choice, padded=False, wanted=(0, 0)):
        return right(self, x, choice, padded, wanted) + (self.layer.out_channels == 4) * (len(x) == 2)

    monkeypatch.setattr(FusedLayer, "by_kernel", together)
    monkeypatch.setattr("ttq_plugin.deploy.runtime.tuning.difference", lambda *_: None)
    monkeypatch.setattr(
        FusedLayer, "by_torch", lambda self, x, real=FusedLayer.by_torch: (time.sleep(2e-3), real(self, x))[1]
    )
    with pytest.warns(UserWarning, match="runs the whole model in torch: a difference of .* in batches of 2"):
        runtime = TernaryRuntime(model, x)
    assert runtime.runs[2] != "ours" and runtime.whole[2] and agrees(runtime, model, x)


@built
def test_undefined_and_infinite_inputs_stay_what_they_are_in_torch():
    """Under the zero weights of sparse kernels too."""
    model = ternary(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU()).eval(), 0.9)
    x = torch.randn(2, 3, 9, 9)
    runtime = TernaryRuntime(model, x)
    for _, layer in runtime.fused:
        layer.choices = {2: Choice("sparse", 1)}
    runtime.runs[2], runtime._careful[2] = "ours", 1e-4
    assert agrees(runtime, model, x)
    for value in (float("nan"), float("inf")):
        x[1, 2, 4, 4] = value
        assert agrees(runtime, model, x)


def test_lengths_and_sizes_of_their_own():
    """Each new one is compared when it comes; sizes that a trace made constants go to torch."""

    class Sums(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv1d(2, 8, 3, padding=1)
            self.head = nn.Linear(8, 3)

        def forward(self, x, scale: float = 1.0):
            return self.head(F.relu(self.layer(x)).mean(-1)) * scale

    model = ternary(Sums().eval())
    runtime = TernaryRuntime(model, torch.randn(2, 2, 40))
    for length in (40, 7, 200, 1, 41):
        for batch in (1, 2, 6):
            x = torch.randn(batch, 2, length)
            assert agrees(runtime, model, x) and agrees(runtime, model, x)
    assert all(runtime._met.values()) and len(runtime._met) == 4 * 3
    with_number = TernaryRuntime(model, (torch.randn(2, 2, 40), 3.0))
    for scale in (3.0, 0.5):
        assert agrees(with_number, model, (torch.randn(2, 2, 40), scale))
    assert sorted(with_number._met.values()) == [False]  # three is part of the graph; the other runs in torch


def test_tokens_of_any_length_with_a_mask():
    """Hugging Face's own outputs, kept as they are; a dict is the keyword arguments."""
    model = (
        zoo.cases()
        .T.BertForSequenceClassification(
            zoo.cases().T.BertConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
        )
        .eval()
    )

    def batch(samples, length):
        mask = torch.ones(samples, length, dtype=torch.int64)
        mask[-1, length // 2 :] = 0
        return {"input_ids": torch.randint(0, 30522, (samples, length)), "attention_mask": mask}

    runtime = TernaryRuntime(model, batch(3, 16))
    assert runtime.form == "layers" and len(runtime.fused) >= 12
    for samples, length in ((3, 16), (1, 16), (4, 9), (2, 30)):
        x = batch(samples, length)
        assert type(runtime(x)) is type(model(**x)) and agrees(runtime, model, x)
    with pytest.raises(InputError, match="made for dict .*input_ids: int64 .batch, 16.* got dict .input_ids"):
        runtime({"input_ids": torch.zeros(1, 16, dtype=torch.int64)})
    with pytest.raises(InputError, match="which the model does not take"):
        runtime(batch(1, 600))


def test_a_model_whose_one_argument_is_a_dict():
    model = zoo.network("dictio").eval()
    with pytest.raises(InputError, match=r"a dict is the keyword arguments, .* needs the tuple \(dict,\)"):
        TernaryRuntime(model, {"x": torch.randn(2, 32)})


def test_a_batch_of_its_own_size_alone():
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 6)

        def forward(self, x):
            return self.layer(x.reshape(2, 3, 4))

    model = Fixed().eval()
    runtime = TernaryRuntime(model, torch.randn(2, 12), threads=2)
    assert agrees(runtime, model, torch.randn(2, 12)) and not runtime._apart
    with pytest.raises(RuntimeError, match="shape"):
        runtime(torch.randn(3, 12))


@pytest.mark.parametrize("name", ["twoin", "dictio", "dictout", "tcn"])
def test_threads_share_a_batch_of_any_form(name):
    model = zoo.network(name).eval()
    runtime = TernaryRuntime(model, zoo.samples(name, 4), threads=2)
    assert runtime._apart
    for batch in (1, 2, 7):
        assert agrees(runtime, model, zoo.samples(name, batch))


class Centred(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 5)

    def forward(self, x):
        return self.layer(x) - self.layer(x).mean(0)


@pytest.mark.parametrize("make", [Centred, Looks, OfTensors])
def test_batches_whose_samples_depend_on_each_other_stay_whole(make):
    model = make().eval()
    runtime = TernaryRuntime(model, torch.randn(6, 8), threads=2)
    assert not runtime._apart
    x = torch.cat([torch.full((3, 8), 250.0), torch.zeros(3, 8)])
    assert agrees(runtime, model, x) and agrees(runtime, model, x[:5])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.parametrize("torchs", [1, 2])
def test_threads_work_in_a_child_process(torchs):
    """Threads of the parent do not exist there, torch's neither; a lock that one of them held would stay locked."""
    torch.set_num_threads(torchs)
    torch.randn(600, 600) @ torch.randn(600, 600)
    model = zoo.network("shared").eval()
    runtime = TernaryRuntime(model, torch.randn(4, 32), threads=2)
    x = torch.randn(4, 32)
    expected = runtime(x)
    runtime._lock.acquire()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        child = os.fork()
    if child == 0:
        code = 2
        try:
            torch.randn(600, 600) @ torch.randn(600, 600)
            more = x.repeat(5, 1)
            good = torch.equal(runtime(x), expected) and close(runtime(more), model(more).detach())
            code = 0 if good else 1
        finally:
            os._exit(code)
    runtime._lock.release()
    for _ in range(600):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        time.sleep(0.1)
    else:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        pytest.fail("the child hangs")
    assert os.waitstatus_to_exitcode(status) == 0


def test_probes_are_like_the_example_and_differ_from_it():
    example = {"x": torch.randn(2, 6), "ids": torch.tensor([[3, 4, 5], [9, 9, 1]]), "on": True}
    found = dict(probes(example))
    assert len(found) == 4
    for words, inputs in found.items():
        assert inputs["on"] is True and sorted(inputs["ids"].flatten().tolist()) == [1, 3, 4, 5, 9, 9]
        assert torch.equal(inputs["x"], example["x"]) == (words == "the example")
    assert tensors(index(example, slice(1)))[0].shape == (1, 6)


@pytest.mark.parametrize(
    ("ours", "theirs", "found"),
    [
        (torch.ones(2), torch.ones(2), None),
        (torch.ones(2), torch.ones(2) + 1e-7, None),
        (torch.ones(2), torch.tensor([1.0, 1.1]), "a difference of 0.1 where outputs reach 1.1"),
        (torch.tensor([1.0, float("nan")]), torch.tensor([1.0, float("nan")]), None),
        (torch.tensor([1.0, 0.0]), torch.tensor([1.0, float("nan")]), "at other positions"),
        (torch.tensor([1.0, float("inf")]), torch.tensor([1.0, float("nan")]), "at other positions"),
        (torch.tensor([1.0, float("inf")]), torch.tensor([1.0, -float("inf")]), "at other positions"),
        (torch.tensor([1, 2]), torch.tensor([1, 3]), "1 of 2 whole numbers differ"),
        (torch.ones(2), torch.ones(3), r"\(2,\) of torch.float32 instead of \(3,\)"),
        (torch.ones(2), torch.ones(2).double(), "instead of"),
        ((torch.ones(2),), torch.ones(2), "a tuple instead of a Tensor"),
        ({"a": torch.ones(2)}, {"b": torch.ones(2)}, "outputs of another form"),
        ({"a": torch.ones(2), "b": 1}, {"a": torch.zeros(2), "b": 1}, "a difference of 1 .* in output a"),
        ((torch.ones(2), 1), (torch.ones(2), 2), "1 instead of 2 in output 1"),
        ((torch.ones(2), None), (torch.ones(2), None), None),
    ],
)
def test_differences_are_found(ours, theirs, found):
    said = difference(ours, theirs, 1e-6)
    if found is None:
        assert said is None
    else:
        assert said is not None and re.search(found, said)
