"""What a layer takes along of what follows it: one rule, by which the runtime and the C code fuse alike."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ttq_plugin.deploy.program.fusion import Activation, MaxPool, Norm, Nothing, Tail
from ttq_plugin.deploy.program.lower import trace
from ttq_plugin.deploy.runtime.forms import as_graph

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
    found = [tail.take(follower, False) for follower in followers]
    assert found[:taken] == [True] * taken and found[taken : taken + 1] in ([], [False])
    done = followers[:taken]
    assert tail.norm == next((each.what for each in done if isinstance(each, Norm)), None)
    assert tail.slope == next((each.slope for each in done if isinstance(each, Activation)), 1.0)
    assert tail.pool == (((2, 2), (2, 2)) if POOL in done else None)


def test_linear_layers_take_activations_alone():
    tail = Tail()
    assert not tail.take(Norm("a"), True) and not tail.take(POOL, True) and tail == Tail()
    assert tail.take(Nothing(), True) and tail.take(Activation(0.0), True) and tail == Tail(slope=0.0)


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


@pytest.mark.parametrize("name", NETS)
def test_the_runtime_and_the_c_code_fuse_alike(name):
    model, x = NETS[name]().eval(), torch.randn(2, 2, 12, 12)
    model(x)
    steps = [step.more for step in trace(model, x).steps if step.kind == "layer"]
    lowered = [(more["weight"], more["slope"], more["pool"], more["norm"] is not None) for more in steps]
    fused = []
    for layer, made in as_graph(model, x).fused:
        pool = None if made.tail.pool is None else dict(zip(("size", "stride"), made.tail.pool, strict=True))
        fused.append((f"{layer}.weight", made.tail.slope, pool, made.tail.norm is not None))
    assert lowered == fused and any(slope != 1 or pool for _, slope, pool, _ in fused)
