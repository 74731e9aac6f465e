"""What a layer takes along of what follows it: one rule, by which the runtime and the C code fuse alike."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.zoo import networks as zoo
from ttq_plugin.deploy.flat import Flat
from ttq_plugin.deploy.program.folding import folded
from ttq_plugin.deploy.program.fusion import Activation, MaxPool, Norm, Nothing, Tail, follower
from ttq_plugin.deploy.program.geometry import pair
from ttq_plugin.deploy.program.graphs import exported
from ttq_plugin.deploy.program.lower import trace
from ttq_plugin.deploy.program.operators import is_operator, of_module, read
from ttq_plugin.deploy.runtime.forms import as_graph
from ttq_plugin.errors import InputError

POOL = MaxPool((2, 2), (2, 2), True)


@pytest.mark.parametrize(
    ("followers", "taken"),
    [
        ([Norm("a"), Activation(0.0), POOL], 3),
        ([Norm("a"), POOL, Activation(0.1)], 3),
        ([Nothing(), Norm("a"), Nothing(), Activation(0.0), Nothing()], 5),
        ([Activation(0.0), Norm("a")], 1),
        ([POOL, Norm("a")], 1),
        ([Norm("a"), Norm("b")], 1),
        ([Activation(0.0), Activation(0.0)], 1),
        ([POOL, POOL], 1),
        ([MaxPool((2, 2), (2, 2), False)], 0),
        ([Activation(-0.1)], 0),
        ([Activation(1.5)], 0),
        ([None], 0),
    ],
)
def test_what_is_taken_along(followers, taken):
    tail = Tail()
    found = [tail.take(follower, 2) for follower in followers]
    assert found[:taken] == [True] * taken and found[taken : taken + 1] in ([], [False])
    done = followers[:taken]
    assert tail.norm == next((each.what for each in done if isinstance(each, Norm)), None)
    assert tail.slope == next((each.slope for each in done if isinstance(each, Activation)), 1.0)
    assert tail.pool == (((2, 2), (2, 2)) if POOL in done else None)


def test_linear_layers_take_activations_alone():
    tail = Tail()
    assert not tail.take(Norm("a"), 0) and not tail.take(POOL, 0) and tail == Tail()
    assert tail.take(Nothing(), 0) and tail.take(Activation(0.0), 0) and tail == Tail(slope=0.0)


class Branches(nn.Module):
    """A layer whose output two things see, functional forms, and a BatchNorm that stands alone."""

    def __init__(self):
        super().__init__()
        self.one = nn.Conv2d(2, 4, 3)
        self.two = nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        x = F.max_pool2d(F.leaky_relu(self.one(x), 0.2), 2)
        x = self.norm(F.relu(self.two(x) + x))
        return F.dropout(torch.relu(self.head(x.mean((2, 3)))), training=self.training)


NETS = {
    "blocks": lambda: nn.Sequential(
        *(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(4, 4, 3), nn.MaxPool2d(2, 1), nn.LeakyReLU(0.1), nn.Dropout(), nn.Flatten(), nn.Linear(16, 3)),
    ),
    "what stays": lambda: nn.Sequential(
        *(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1), nn.MaxPool2d(3, padding=1)),
        *(nn.Conv2d(4, 4, 1), nn.LeakyReLU(1.5), nn.Conv2d(4, 4, 1), nn.MaxPool2d(2, ceil_mode=True)),
    ),
    "signals": lambda: nn.Sequential(
        *(nn.Flatten(2), nn.Conv1d(2, 4, 3), nn.BatchNorm1d(4), nn.ReLU(), nn.MaxPool1d(3, 2)),
        *(nn.Conv1d(4, 2, 5, stride=2), nn.ReLU(), nn.Linear(33, 3), nn.ReLU()),
    ),
    "branches": Branches,
}


def alike(model, x):
    """What C code and the runtime make of each layer that both know, in order."""
    steps = [step.more for step in trace(model, x).steps if step.kind == "layer"]
    lowered = [(more["weight"], more["slope"], more["pool"], more["norm"] is not None) for more in steps]
    fused = []
    for layer, made in as_graph(model, x).fused:
        pool = None if made.tail.pool is None else dict(zip(("size", "stride"), made.tail.pool, strict=True))
        fused.append((f"{layer}.weight", made.tail.slope, pool, made.tail.norm is not None))
    known = {name for name, *_ in fused}
    return [row for row in lowered if row[0] in known], fused


@pytest.mark.parametrize("name", NETS)
def test_the_runtime_and_the_c_code_fuse_alike(name):
    model, x = NETS[name]().eval(), torch.randn(2, 2, 12, 12)
    model(x)
    lowered, fused = alike(model, x)
    assert lowered == fused and any(slope != 1 or pool for _, slope, pool, _ in fused)


@pytest.mark.usefixtures("shared")
@pytest.mark.parametrize("name", ["twoin", "mobilenetv2", "unet", "tcn", "effnet", "dictio"])
def test_they_fuse_networks_of_the_zoo_alike(name):
    lowered, fused = alike(zoo.network(name).eval(), zoo.samples(name, 2))
    assert lowered == fused and len(fused) > 1


MODULES = [
    *(nn.Conv1d(4, 6, 3, stride=2, padding=1), nn.Conv2d(4, 6, (3, 2), dilation=2, groups=2), nn.Linear(6, 3)),
    *(nn.BatchNorm1d(4), nn.BatchNorm2d(4, affine=False), nn.ReLU(), nn.LeakyReLU(0.3), nn.LeakyReLU(1.5)),
    *(
        nn.MaxPool1d(2),
        nn.MaxPool1d(3, 2, 1),
        nn.MaxPool2d((2, 1)),
        nn.MaxPool2d(2, 1),
        nn.MaxPool2d(2, ceil_mode=True),
    ),
    *(nn.Dropout(), nn.Dropout1d(), nn.Dropout2d(0.2), nn.Dropout3d(), nn.AlphaDropout()),
]


@pytest.mark.parametrize("module", MODULES, ids=repr)
def test_a_module_is_the_operator_that_torch_exports_it_as(module):
    """The tables of modules and the operators of exported graphs say the same, up to the name of a dropout."""
    dims = {nn.Conv1d: 1, nn.BatchNorm1d: 1, nn.MaxPool1d: 1, nn.Dropout1d: 1, nn.Dropout3d: 3}.get(type(module), 2)
    x = torch.randn(2, 4, *(7, 6, 5)[:dims])
    graph = exported(Flat(module.eval(), x), [x]).graph
    [node] = [node for node in graph.nodes if is_operator(node)]
    theirs, ours = read(node), of_module(module)
    assert ours is not None and theirs is not None and ours.module is module
    assert ours.idle == theirs.idle and (ours.kind == theirs.kind or ours.idle)
    one, other = follower(ours), follower(theirs)
    assert isinstance(one, Norm) == isinstance(other, Norm)
    assert one == other or isinstance(one, Norm)
    if "stride" in ours.given and one is None:
        for word in ("stride", "padding", "dilation"):
            assert pair(ours.given[word], dims) == pair(theirs.given[word], dims)
        assert ours.given["groups"] == theirs.given["groups"]


def test_what_is_more_than_an_operator_is_opaque():
    hooked = nn.ReLU()
    hooked.register_forward_hook(lambda module, args, out: out + 1)
    for module in (hooked.eval(), nn.ReLU(), nn.MaxPool2d(2, return_indices=True).eval(), nn.GRU(2, 2).eval()):
        assert of_module(module) is None


class Unusual(nn.Module):
    """Layers with what must not be taken along, or in a form that is seldom written."""

    def __init__(self, what):
        super().__init__()
        self.layer, self.what = nn.Conv1d(2, 4, 3), what

    def forward(self, x):
        return self.what(self.layer(x))


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (lambda x: F.dropout(x, 0.5, True), "uses dropout that stays on in evaluation mode"),
        (lambda x: F.max_pool2d(x, 2), "uses max_pool2d"),
    ],
)
def test_what_would_be_lost_in_c_is_refused(what, message):
    with pytest.raises(InputError, match=message):
        trace(Unusual(what).eval(), torch.randn(2, 2, 12))


def test_a_pooling_over_channels_is_none_of_a_signals_layer():
    model, x = Unusual(lambda x: F.max_pool2d(x, 2)).eval(), torch.randn(2, 2, 12)
    [(_, made)] = as_graph(model, x).fused
    assert made.tail == Tail()


def test_one_number_of_a_window_holds_for_rows_and_columns():
    """As in ``torch.conv2d(x, weight, None, [2])``, whose stride torch.export leaves as one number."""
    assert (pair(2, 2), pair([2], 2), pair((2, 3), 2)) == ((2, 2), (2, 2), (2, 3))
    assert (pair(2, 1), pair([2], 1, 0)) == ((1, 2), (0, 2))

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 2, 3, 3))

        def forward(self, x):
            return torch.conv2d(x, self.weight, None, [2], [1])

    [step] = trace(Net().eval(), torch.randn(2, 2, 8, 8)).steps
    assert step.more["stride"] == (2, 2) and step.more["padding"] == (1, 1)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_a_folded_norm_is_the_norm(affine, bias):
    torch.manual_seed(0)
    layer, norm = nn.Conv2d(3, 5, 2, bias=bias).double(), nn.BatchNorm2d(5, affine=affine).double()
    x = torch.randn(7, 3, 4, 4, dtype=torch.float64)
    norm(3 * layer(x) + 1)
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    norm.eval()
    gain, shift = folded(layer.bias, of_module(norm).given, 5)
    found = F.conv2d(x, layer.weight) * gain.view(-1, 1, 1) + shift.view(-1, 1, 1)
    torch.testing.assert_close(found, norm(layer(x)), rtol=1e-12, atol=1e-12)
    assert [t.tolist() for t in folded(None, None, 2)] == [[1, 1], [0, 0]]
