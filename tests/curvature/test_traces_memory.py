"""Nothing outlives a call, and not joint, one layer's probe is in memory at a time."""

import gc
import weakref

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ttq_plugin.curvature import layer_traces
from ttq_plugin.curvature.probing import probes
from ttq_plugin.errors import InputError

from .nets import AttentionNet, ConvNet, example

CE = nn.CrossEntropyLoss()


class Node:
    """Lives as long as the graph node that it is hung on."""


@pytest.fixture
def collector_off():
    """With the garbage collector off, reference cycles would keep the graphs of all calls alive."""
    model, x, y = example(ConvNet)
    layer_traces(model, CE, (x, y), max_probes=2)  # the first use of a dispatch mode leaves cycles of torch's
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def counted(alive, loss):
    """The loss, with a mark on its graph; the marks of all living graphs are in `alive`."""

    def call(output, y):
        value = loss(output, y)
        node = Node()
        output.grad_fn.metadata["mark"] = node
        alive.add(node)
        return value

    return call


def tensors():
    return sum(isinstance(o, torch.Tensor) for o in gc.get_objects())


@pytest.mark.usefixtures("collector_off")
@pytest.mark.parametrize("make", [ConvNet, AttentionNet])
@pytest.mark.parametrize("joint", [None, True, False])
def test_nothing_outlives_a_call(make, joint):
    model, x, y = example(make)
    alive = weakref.WeakSet()
    layer_traces(model, counted(alive, CE), [(x, y), (x, y)], max_probes=2, joint=joint)
    before = tensors()
    for _ in range(100):
        layer_traces(model, counted(alive, CE), [(x, y), (x, y)], max_probes=2, joint=joint)
        assert not alive
    assert tensors() == before


@pytest.mark.usefixtures("collector_off")
def test_nothing_outlives_an_error():
    model, x, y = example(ConvNet)
    alive = weakref.WeakSet()
    bad = {
        "finite second derivatives": lambda o, y: (CE(o, y) - CE(o, y)).sqrt(),
        "must be finite": lambda o, y: CE(o, y) / 0,
        "scalar tensor": lambda o, y: o,
    }
    for _ in range(10):
        for message, loss in bad.items():
            with pytest.raises(InputError, match=message):
                layer_traces(model, counted(alive, loss), (x, y), max_probes=2)
    assert not alive


@pytest.mark.usefixtures("collector_off")
@pytest.mark.filterwarnings("ignore:Using backward")
def test_the_mark_shows_a_graph_that_stays():
    """Gradients in `.grad` that know their own graph are a cycle: what PyHessian's own class leaves."""
    model, x, y = example(ConvNet)
    alive = weakref.WeakSet()
    counted(alive, CE)(model(x), y).backward(create_graph=True)
    assert len(alive) == 1
    model.zero_grad(set_to_none=True)
    assert not alive


class Peak(TorchDispatchMode):
    """Most bytes of tensors made inside that were alive at one time."""

    def __init__(self):
        super().__init__()
        self.now = self.most = 0
        self.known = weakref.WeakSet()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        inside = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        out = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            storage = tensor.untyped_storage() if isinstance(tensor, torch.Tensor) else None
            if storage is not None and storage._cdata not in inside and storage not in self.known:
                self.known.add(storage)
                self.now += storage.nbytes()
                weakref.finalize(storage, self.release, storage.nbytes())
        self.most = max(self.most, self.now)
        return out

    def release(self, size):
        self.now -= size


def wide(layers, width=64):
    """As many wide layers as asked for, and one sample: weights are nearly all there is."""
    model = nn.Sequential(*(nn.Sequential(nn.Linear(width, width, bias=False), nn.Tanh()) for _ in range(layers)))
    return model, torch.ones(1, width), torch.zeros(1, width)


def peak(layers, joint):
    """Bytes that a probe adds to what its graph holds, in weights of one layer."""
    model, x, y = wide(layers)
    extra = []

    def probe(*args):
        with Peak() as mode:
            found = original(*args)
        extra.append(mode.most / (4 * 64 * 64))
        return found

    original = probes.Probes.sample
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probes.Probes, "sample", probe)
        layer_traces(model, nn.MSELoss(), (x, y), max_probes=2, joint=joint)
    return max(extra)


def test_a_probe_of_one_layer_at_a_time():
    """Joint, memory grows by at least probe and product a layer; not joint, it does not grow at all."""
    assert peak(16, joint=True) - peak(4, joint=True) > 0.9 * 2 * 12
    assert peak(16, joint=False) - peak(4, joint=False) < 1
    assert peak(16, joint=False) < 6


@pytest.mark.parametrize(("joint", "most"), [(True, 6), (False, 1)])
def test_probes_alive_at_once(monkeypatch, joint, most):
    """Counted where they are drawn; those of an earlier probe or layer are gone."""
    model, x, y = wide(6)
    alive, counts, original = weakref.WeakSet(), [], probes._signs

    def signs(*args):
        found = original(*args)
        alive.add(found)
        counts.append(len(alive))
        return found

    monkeypatch.setattr(probes, "_signs", signs)
    layer_traces(model, nn.MSELoss(), [(x, y), (x, y)], max_probes=3, joint=joint)
    assert len(counts) == 6 * 2 * 3 and max(counts) == most
