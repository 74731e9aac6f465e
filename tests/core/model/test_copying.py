"""Models that hold what Python cannot copy are copied all the same, and what a training accepted is exported."""

from __future__ import annotations

import collections
import threading
from copy import deepcopy
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from ttq_plugin.core.model.attach import bake, parameter_groups, ternarize
from ttq_plugin.core.model.copying import copied

X = torch.randn(8, 16, generator=torch.Generator().manual_seed(0))


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(16, 12), nn.Linear(12, 4)
        self.norm = nn.BatchNorm1d(12)
        self.register_buffer("count", torch.zeros(1))
        self.tied = self.b

    def forward(self, x):
        return self.tied(self.norm(self.a(x).relu()))


@dataclass
class Output:
    hidden: Tensor
    owner: nn.Module


class Unreadable:
    """It says how to copy it, but that fails."""

    def __reduce_ex__(self, protocol):
        return Unreadable.__init__, (1, 2, 3)


def keeps(make):
    """A model whose forward pass keeps what ``make`` gives."""

    class Keeping(Plain):
        def forward(self, x):
            hidden = self.a(x).relu()
            self.kept = make(self, hidden)
            return self.tied(self.norm(hidden))

    return Keeping


def hooked(change):
    def made():
        model = Plain()
        change(model.b)
        return model

    return made


def generate():
    yield 1


HOLDING = {
    "an activation": keeps(lambda m, h: h),
    "a list of activations": keeps(lambda m, h: [h, {"deep": (h, h.relu())}]),
    "an output object": keeps(lambda m, h: Output(h, m)),
    "an ordered dict": keeps(lambda m, h: collections.OrderedDict(h=h)),
    "a lock": keeps(lambda m, h: threading.Lock()),
    "a lock in a dict": keeps(lambda m, h: {"lock": threading.RLock(), "n": [1]}),
    "a generator": keeps(lambda m, h: generate()),
    "an open file": keeps(lambda m, h: open(__file__)),  # noqa: SIM115 - that is the point
    "a bound method and a graph": keeps(lambda m, h: (m.b.forward, h)),
    "an object that cannot be rebuilt": keeps(lambda m, h: (Unreadable(), h, collections.deque([h.detach()]))),
    "weight_norm by a hook": hooked(nn.utils.weight_norm),
    "spectral_norm by a hook": hooked(nn.utils.spectral_norm),
    "torch's pruning": hooked(lambda layer: prune.l1_unstructured(layer, "weight", 0.5)),
    "a parametrization and a lock": hooked(
        lambda layer: (parametrizations.weight_norm(layer), setattr(layer, "lock", threading.Lock()))
    ),
}
pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning", "ignore:unclosed file:ResourceWarning")
EVERY = pytest.mark.parametrize("make", HOLDING.values(), ids=HOLDING.keys())


def made(make):
    torch.manual_seed(0)
    return make()


@EVERY
def test_a_copy_computes_the_same_and_is_its_own(make):
    model = made(make)
    model(X).sum().backward()
    with pytest.raises((RuntimeError, TypeError)):
        deepcopy(model)
    twin = copied(model)
    assert type(twin) is type(model) and list(twin.state_dict()) == list(model.state_dict())
    assert twin.tied is twin.b and twin.b is not model.b
    own = {id(p) for p in model.parameters()} | {id(b) for b in model.buffers()}
    assert not own & {id(x) for x in (*twin.parameters(), *twin.buffers())}
    expected = model.eval()(X)
    assert torch.equal(twin.eval()(X), expected)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert torch.equal(model(X), expected)
    twin.train()(X).sum().backward()


@EVERY
def test_what_ternarize_accepts_bake_can_write(make):
    model = ternarize(made(make), ["a"])
    optimizer = torch.optim.SGD(parameter_groups(model), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        model(X).square().sum().backward()
        optimizer.step()
    baked = bake(model)
    assert len(baked.a.weight.unique()) == 3 and torch.equal(baked.a.weight, model.a.weight)
    assert torch.equal(baked.eval()(X), model.eval()(X))
    assert list(baked.state_dict()) == list(made(make).state_dict())


def test_kept_tensors_and_objects():
    model = made(keeps(lambda m, h: Output(h, m.b)))
    model(X)
    twin = copied(model)
    assert twin.kept.owner is twin.b and torch.equal(twin.kept.hidden, model.kept.hidden)
    assert twin.kept.hidden.is_leaf and twin.kept.hidden is not model.kept.hidden
    model = made(keeps(lambda m, h: (threading.Lock(), m.b.forward, h)))
    model(X)
    twin = copied(model)
    assert twin.kept[0] is model.kept[0] and twin.kept[1].__self__ is twin.b


def test_hooks_and_recurrent_layers():
    class Recurrent(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.lock = nn.LSTM(16, 4), threading.Lock()
            self.lstm.register_forward_hook(self.watch)
            self.seen = []

        def watch(self, *_):
            self.seen.append(self)

        def forward(self, x):
            return self.lstm(x)[0]

    model = made(Recurrent)
    twin = copied(model)
    assert torch.equal(twin(X), model(X)) and twin.seen == [twin] and model.seen == [model]
    with torch.no_grad():
        twin.lstm.weight_hh_l0.add_(1)
    assert not torch.equal(twin(X), model(X))
    twin(X).sum().backward()
    assert twin.lstm.weight_hh_l0.grad is not None and model.lstm.weight_hh_l0.grad is None
