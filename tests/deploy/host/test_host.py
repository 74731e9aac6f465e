"""Integer networks in native kernels: the torch module's integers, for every layer, way to run it and processor."""

from __future__ import annotations

import ctypes
import itertools
import warnings
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from tests.deploy.integer.nets import NETS, inputs, network
from tests.deploy.nets import ternarise
from ttq_plugin import InputError, integerize
from ttq_plugin.deploy.host import module as hosts
from ttq_plugin.deploy.host.module import HostModule
from ttq_plugin.deploy.host.plan import Way
from ttq_plugin.deploy.integer.module import IntegerModule
from ttq_plugin.native.integer import KERNELS, Kernels

pytestmark = pytest.mark.skipif(KERNELS is None, reason="native kernels are switched off or were not built here")
LEVELS = range(4 if KERNELS is None else KERNELS.level + 1)
"""Kinds of processors that this one can stand for."""


def at_level(level: int) -> Kernels:
    assert KERNELS is not None
    made = object.__new__(Kernels)
    made.__dict__ |= vars(KERNELS) | {"level": level}
    return made


def integers_of(model: nn.Module, x: Tensor) -> IntegerModule:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of saturation, which is wanted
        return integerize(model, x)


def samples(module: IntegerModule, count: int) -> Tensor:
    """All int8 with equal chances, and a sample of each extreme."""
    generator = torch.Generator().manual_seed(2)
    q = torch.randint(-128, 128, (count, module.program.input.size), generator=generator, dtype=torch.int8)
    q[:1], q[1:2] = 127, -128
    return q


def hosts_of(module: IntegerModule, level: int, most: int = 14) -> Iterator[HostModule]:
    """The network with each way to run its layers, until every layer had all of its own."""
    q = samples(module, 2)
    for turn in range(most):
        longest = 0

        def choose(op: object, ways: list[Way], turn: int = turn) -> Way:
            nonlocal longest
            longest = max(longest, len(ways))
            return ways[turn % len(ways)]

        yield HostModule(module, at_level(level), q, choose)
        if turn + 1 >= longest:
            return


def same(module: IntegerModule, level: int, counts: tuple[int, ...] = (1, 7)) -> None:
    wanted = {count: module.integers(samples(module, count)) for count in counts}
    for host in hosts_of(module, level):
        for count, expected in wanted.items():
            assert torch.equal(host.integers(samples(module, count)), expected), (count, host.schedules)
        for schedule in host.schedules.values():  # a way that is wrong would have been left to torch
            assert all(timed.way is not None for timed in schedule.layers.values()), schedule


@pytest.mark.parametrize("level", sorted({LEVELS[0], LEVELS[-1]}))
def test_each_network_gives_the_same_integers(level):
    for name, zeros in itertools.product(NETS, (None, 0.7)):
        if name in ("average pools", "adaptive pools", "rounded up", "curves", "sums", "stacked"):
            continue  # no layer that the kernels run
        same(integers_of(network(name, zeros), inputs(12)), level)


SHAPES = {
    "one by one": (nn.Conv2d(6, 9, 1), (6, 5, 7)),
    "stride 2": (nn.Conv2d(5, 6, 3, stride=2, padding=1), (5, 9, 8)),
    "stride 3, dilated": (nn.Conv2d(3, 4, (2, 3), stride=(3, 2), padding=(0, 4), dilation=(2, 3)), (3, 12, 11)),
    "groups": (nn.Conv2d(8, 12, 3, padding=1, groups=4), (8, 4, 6)),
    "depthwise": (nn.Conv2d(7, 7, 5, padding=2, groups=7), (7, 8, 8)),
    "large kernel": (nn.Conv1d(4, 5, 40, padding=20), (4, 70)),
    "more padding than input": (nn.Conv2d(4, 4, 3, padding=2, dilation=2), (4, 2, 2)),
    "more than 16 bits": (nn.Conv1d(90, 6, 9, padding=4), (90, 12)),
    "many columns": (nn.Conv2d(2, 3, 3, padding=1), (2, 3, 150)),
    "one result": (nn.Conv2d(16, 40, 4), (16, 4, 4)),
    "one channel": (nn.Conv2d(1, 1, 3), (1, 5, 5)),
    "rows": (nn.Linear(33, 10), (6, 33)),
    "vector": (nn.Linear(200, 70), (200,)),
}
TAILS = {
    "": nn.Identity(),
    "leaky, pooled": nn.Sequential(nn.LeakyReLU(0.1), nn.MaxPool2d(2)),
    "bent, pooled over overlaps": nn.Sequential(nn.GELU(), nn.MaxPool2d(3, 2)),
    "clamped": nn.ReLU6(),
}


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", SHAPES)
def test_each_shape_gives_the_same_integers(name, level):
    """With zero points at both ends and in between, and with sums that saturate."""
    layer, shape = SHAPES[name]
    cases = [(0.0, "", 0), (0.4, "clamped", 9), (0.95, "leaky, pooled", -9), (None, "leaky, pooled", 0)]
    for seed, (zeros, tail, shift) in enumerate([*cases, (0.6, "bent, pooled over overlaps", 1)]):
        torch.manual_seed(seed)
        layer.reset_parameters()
        if zeros is not None:
            ternarise(layer.weight, zeros)
        few = "pooled" in tail and (
            not isinstance(layer, nn.Conv2d) or name in ("one result", "more padding than input")
        )
        model = nn.Sequential(layer, nn.Identity() if few else TAILS[tail]).eval()
        same(integers_of(model, torch.randn(20, *shape).abs() * 2 + shift if shift else torch.randn(20, *shape)), level)


def test_operations_without_kernels_run_in_torch_between_layers():
    module = integers_of(network("residual"), inputs(12))
    assert KERNELS is not None
    host = HostModule(module, KERNELS, samples(module, 4))
    assert {op.kind for op in host.program.ops} > {"layer"}
    x = inputs(5)
    assert torch.equal(host(x), module(x))


def test_large_batches_are_computed_in_parts_and_rooms_are_used_again(monkeypatch):
    module = integers_of(network("separable"), inputs(12))
    assert KERNELS is not None
    monkeypatch.setattr(hosts, "MOST", 8)
    host = HostModule(module, KERNELS, samples(module, 4))
    for _ in range(2):
        q = samples(module, 21)
        assert torch.equal(host.integers(q), module.integers(q))
    assert sorted(host.rooms) == [8] and len(host.rooms[8]) == 1


def test_inputs_are_rounded_as_by_torch():
    """Halves, both infinities, numbers beyond int32 and what is not a number."""
    module = integers_of(nn.Sequential(nn.Linear(9, 3)), torch.randn(40, 9))
    assert KERNELS is not None
    scale = module.program.given.scale
    halves = torch.arange(-60, 60, dtype=torch.float64).add(0.5).mul(scale).float()
    odd = torch.tensor([float("inf"), -float("inf"), float("nan"), 1e30, -1e30, 0.0, -0.0, 5e9 * scale, -1e-30])
    x = torch.cat([halves[:117], odd]).view(-1, 9)
    for level in LEVELS:
        host = HostModule(module, at_level(level), samples(module, 4))
        found, expected = host(x), module(x)
        assert torch.equal(found, expected)


def test_a_way_that_is_wrong_is_left_to_torch(monkeypatch):
    """Kernels that get the last integer wrong."""
    module = integers_of(network("rows"), inputs(12))
    kernels = at_level(0)
    right = kernels.layers

    def wrong(layers: ctypes.Array, count: int, batch: int, buffers: ctypes.Array, work: int, level: int) -> None:
        right(layers, count, batch, buffers, work, level)
        layer = layers[count - 1]
        last = ctypes.cast(buffers[layer.output], ctypes.POINTER(ctypes.c_int8))
        last[layer.output_offset] = last[layer.output_offset] ^ 1

    kernels.layers = wrong
    host = HostModule(module, kernels, samples(module, 4))
    q = samples(module, 4)
    assert torch.equal(host.integers(q), module.integers(q))
    assert all(timed.way is None for timed in host.schedules[4].layers.values())


def test_integers_of_another_type_or_number_are_refused_by_module_and_kernels():
    """Copied into int8 they would lose their fractions, and one number would stand for all."""
    assert KERNELS is not None
    x = torch.randn(8, 4)
    integer = integerize(nn.Linear(4, 2), x)
    for made in (integer, HostModule(integer, KERNELS, integer.quantised(x))):
        assert torch.equal(made.integers(integer.quantised(x)), integer.integers(integer.quantised(x)))
        for wrong in (x, x.long(), integer.quantised(x)[:, :1], integer.quantised(x)[0]):
            with pytest.raises(InputError, match=r"integers must be int8 of the shape \(batch, 4\), got"):
                made.integers(wrong)
