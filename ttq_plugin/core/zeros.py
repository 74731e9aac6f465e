"""A prescribed share of zeros: all thresholds of a call move together until the right number of weights is zero.

Each weight has a height ``r = max(w - D_max, -w - D_min) / unit``, how far it lies beyond its layer's thresholds (the
unit is a standard deviation, for TTQ ``max|w|``). Growing every distance by ``d`` units makes exactly the weights with
``r <= d`` zero, so the d that a share asks for is one order statistic of all heights. What differs between layers and
signs stays as it was: how the share was divided among the layers at first (``shares``), and what thresholds that learn
have found out since. A sign never loses its largest weight: a
threshold stops before it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ttq_plugin.core.contract import Params
from ttq_plugin.core.rules import SMALLEST, Shift
from ttq_plugin.core.statistics import Statistics
from ttq_plugin.core.ternarizer import Ternarizer
from ttq_plugin.errors import InputError
from ttq_plugin.support.arguments import exact, no_less, no_more

SAMPLE = 1 << 16
"""Number of evenly spread weights that are ranked if the share need not be exact; the error is about 0.1 points."""

MARGIN = 1e-4
"""Distance from a threshold, in units, to which equal weights, or weights within rounding of each other, are moved."""

_STRIDES = (1, 2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97)
_INFINITY = float("inf")
_ATTEMPTS = 8


@dataclass(frozen=True)
class Member:
    """One of the layers over which a share of zeros is counted.

    Attributes:
        name: The layer's name, for messages.
        method: Its method, with its granularity.
        params: Its scales and thresholds; the thresholds are changed in place.
        weight: Its latent weight, as the ternary step sees it.
        push: Adds a tensor to the latent weight, in place.
    """

    name: str
    method: Ternarizer
    params: Params
    weight: Tensor
    push: Callable[[Tensor], object]

    def zeros(self) -> int:
        """How many of its weights are zero."""
        return self.weight.numel() - int(torch.count_nonzero(self.method.codes(self.weight, self.params)))


@dataclass
class _Heights:
    """A member's weights as seen from its thresholds; the first of two is the negative side.

    Attributes:
        member: The layer that they belong to.
        shift: How the numbers of its rule move.
        s: Its statistics.
        distances: (D_min, D_max), unfolded, shape (2, *group).
        unit: One unit, of the group's shape.
        sides: How far each weight lies beyond the threshold of either side, in units.
        low: The least shift of each side, shape (2, *group).
        cap: The shift at which each side would lose its last weight, likewise.
        stride: Every ``stride``-th weight is ranked; without channels, ``sides`` holds no others.
    """

    member: Member
    shift: Shift
    s: Statistics
    distances: Tensor
    unit: Tensor
    sides: tuple[Tensor, Tensor]
    low: Tensor
    cap: Tensor
    stride: int = 1

    def flat(self) -> Tensor:
        """One height a weight: minus infinity where no shift keeps it, infinity where none makes it zero."""
        rows = [
            x.masked_fill(x <= low, -_INFINITY).masked_fill_(x >= cap, _INFINITY)
            for x, low, cap in zip(self.sides, self.low, self.cap, strict=True)
        ]
        return torch.maximum(*rows).flatten()[:: self.stride]

    def open(self) -> Tensor:
        """The same where only the one largest weight of each side of each group is kept at any price."""
        kept = torch.zeros_like(self.s.w, dtype=torch.bool)
        for x in self.sides:
            kept |= self._largest(x)
        rows = [x.masked_fill(x <= low, -_INFINITY) for x, low in zip(self.sides, self.low, strict=True)]
        return torch.maximum(*rows).masked_fill_(kept, _INFINITY).flatten()

    def _largest(self, x: Tensor) -> Tensor:
        """A mask of one largest value a group."""
        dims = self.s.dims
        channel = None if dims is None else next(d for d in range(x.dim()) if d not in dims)
        rows = x.reshape(1, -1) if channel is None else x.movedim(channel, 0).flatten(1)
        mask = torch.zeros_like(rows, dtype=torch.bool).scatter_(1, rows.argmax(dim=1, keepdim=True), True)
        return (
            mask.reshape(x.shape) if channel is None else mask.reshape(x.movedim(channel, 0).shape).movedim(0, channel)
        )

    def stop(self) -> Tensor:
        """The largest shift of each side that keeps its largest weight: half way to the next one, (2, *group)."""
        dims = self.s.dims
        rows = []
        for x, low, cap in zip(self.sides, self.low, self.cap, strict=True):
            below = x.masked_fill(x >= cap, -_INFINITY)
            second = below.amax() if dims is None else below.amax(dim=dims, keepdim=True)
            rows.append((torch.maximum(second, low) + cap) / 2)
        stops = torch.stack(rows)
        # One parameter for both sides stops where the side with the lesser peak stops.
        return stops if len(self.member.method.rule.names) > 1 else stops.amax(dim=0).expand_as(stops)

    def near_stop(self) -> Tensor:
        """The same without a look at each weight: a thousandth of a unit before the largest."""
        return torch.maximum(self.cap - 1e-3, (self.low + self.cap) / 2)


def _heights(member: Member, stride: int = 1) -> _Heights:
    method, shift = member.method, member.method.rule.shift
    assert shift is not None  # Ternarizer refuses zeros without it
    s = method.latent(member.weight.detach())
    distances = s.stack(shift.distances(s, s.values(member.params["thresholds"])))
    unit = s.stack((shift.unit(s),))[0]
    w = s.w.flatten()[::stride] if s.dims is None and stride > 1 else s.w
    sides = (-w).sub_(distances[0]).div_(unit), (w - distances[1]).div_(unit)
    low = (s.stack(shift.lowest(s)) - distances) / unit
    cap = (s.stack(s.peaks) - distances) / unit
    if len(method.rule.names) == 1:  # one parameter for both sides: the first side to lose all its weights stops both
        low, cap = low.amax(dim=0).expand_as(low), cap.amin(dim=0).expand_as(cap)
    return _Heights(member, shift, s, distances, unit, sides, low, cap, 1 if s.dims is None else stride)


def _all_heights(members: Sequence[Member], stride: int = 1) -> list[_Heights]:
    found = [_heights(member, stride) for member in members]
    if members[0].method.share_thresholds:
        low = torch.stack([heights.low for heights in found]).amax(dim=0)
        cap = torch.stack([heights.cap for heights in found]).amin(dim=0)
        for heights in found:
            heights.low, heights.cap = low, cap
    return found


def _move(found: Sequence[_Heights], d: Tensor, stops: Sequence[Tensor]) -> None:
    """Increase every distance by ``d`` units, as far as its side allows."""
    if found[0].member.method.share_thresholds:
        stops = [torch.stack(list(stops)).amax(dim=0)] * len(found)
    moved: set[int] = set()
    for heights, stop in zip(found, stops, strict=True):
        if id(heights.member.params["thresholds"]) not in moved:  # those that layers share move once
            moved.add(id(heights.member.params["thresholds"]))
            _add(heights, torch.minimum(torch.maximum(d.to(heights.low), heights.low), stop))


def _add(heights: _Heights, shifted: Tensor) -> None:
    thresholds = heights.member.params["thresholds"]
    rates = [torch.as_tensor(rate).to(shifted).expand_as(heights.unit) for rate in heights.shift.per_unit(heights.s)]
    moved = thresholds.detach() + torch.stack(rates) * shifted[: len(thresholds)]
    if heights.member.method.learn_thresholds:
        moved.clamp_(min=SMALLEST)
    # By .data: a graph that is yet to go backward may hold the tensor.
    thresholds.data.copy_(moved)


@torch.no_grad()
def move_to_share(members: Sequence[Member], share: float) -> None:
    """Move all thresholds so that about this share of the weights is zero; costs one pass over a sample of them.

    Args:
        members: The layers over which it is counted.
        share: The share, in (0, 1); the layers come as close as they can.
    """
    total = sum(member.weight.numel() for member in members)
    stride = next((n for n in _STRIDES if n * SAMPLE >= total), _STRIDES[-1])
    found = _all_heights(members, stride)
    r = torch.cat([heights.flat().to(members[0].weight.device) for heights in found])
    d = r.kthvalue(min(max(round(share * r.numel()), 1), r.numel())).values
    _move(found, d, [heights.near_stop() for heights in found])


@torch.no_grad()
def check_reachable(members: Sequence[Member], share: float) -> None:
    """Check that these layers can have this share of zeros.

    Args:
        members: The layers over which it is counted, with any thresholds.
        share: The share, in (0, 1).

    Raises:
        InputError: If they cannot, because each sign keeps its largest weight, or because of the weights' mean.
    """
    found = _all_heights(members)
    n = sum(member.weight.numel() for member in members)
    count, kept = round(share * n), sum(2 * heights.unit.numel() for heights in found)
    signs = "each sign of each layer" if members[0].method.channel is None else "each sign of each channel"
    if members[0].method.share_thresholds:
        signs = f"the thresholds are the same in all layers, and {signs}"
        kept = sum(int((heights.flat() == _INFINITY).sum()) for heights in found)
    if count > n - kept:
        tight = max(found, key=lambda heights: heights.unit.numel() / heights.member.weight.numel())
        raise InputError(
            f"zeros must be at most {no_more((n - kept) / n)} here, because {signs} keeps one weight, got "
            f"{exact(share)}; the layer that limits it most is {tight.member.name!r}: lower zeros, or leave that layer "
            "out."
        )
    least = sum(int((heights.flat() == -_INFINITY).sum()) for heights in found)
    if count < least:
        tight = max(found, key=lambda heights: float((heights.flat() == -_INFINITY).float().mean()))
        raise InputError(
            f"zeros must be at least {no_less(least / n)} here, got {exact(share)}: the mean of the weights of "
            f"{tight.member.name!r} or its equal weights allow no smaller share; raise zeros, or use attq."
        )


@torch.no_grad()
def settle(members: Sequence[Member], share: float) -> int:
    """Move all thresholds so that exactly this share of the weights is zero, to the nearest weight.

    Where equal weights, or rounding, keep thresholds from it, the weights next to a threshold are pushed away from it
    by ``MARGIN`` units at most twice over, the first ones of the equal to zero's side. Where one threshold serves
    several sides, the largest weight of the weaker ones is pushed beyond it.

    Args:
        members: The layers over which it is counted.
        share: The share, in (0, 1).

    Returns:
        By how many weights it was missed: 0 unless the layers cannot have it.
    """
    asked = round(share * sum(member.weight.numel() for member in members))
    missed = 0
    for attempt in range(_ATTEMPTS):
        found = _all_heights(members)
        r = torch.cat([heights.flat().to(members[0].weight.device) for heights in found])
        count = asked
        if count > (movable := int((r < _INFINITY).sum())):
            # Thresholds for several sides stop at the least of their peaks: that weight is pushed out of their way.
            opened = torch.cat([heights.open().to(members[0].weight.device) for heights in found])
            count = min(asked, int((opened < _INFINITY).sum()))  # the rest keeps a sign alive
            if count > movable:
                _part(found, _lowest(opened, count), _between(opened, count, 3 * MARGIN))
                continue
        within = max(count, int((r == -_INFINITY).sum()))
        _move(found, _between(r, within, 1.0), [heights.stop() for heights in found])
        zeros = sum(member.zeros() for member in members)
        missed = zeros - asked
        if zeros == count or attempt == _ATTEMPTS - 1:
            break
        _part(_all_heights(members), _lowest(r, within), r.new_zeros(()))
    return missed


def _between(r: Tensor, count: int, beyond: float) -> Tensor:
    """A shift between the ``count`` lowest heights and the rest, or ``beyond`` them where the rest must not move."""
    below = r.kthvalue(count).values if count > 0 else r.new_tensor(-_INFINITY)
    above = r.kthvalue(count + 1).values if count < r.numel() else r.new_tensor(_INFINITY)
    if below == -_INFINITY:
        return above - 1 if above < _INFINITY else r.new_tensor(0.0)
    return (below + above) / 2 if above < _INFINITY else below + beyond


def _lowest(r: Tensor, count: int) -> Tensor:
    """A mask of the ``count`` lowest heights, of equal ones the first."""
    order = torch.argsort(r, stable=True)
    mask = torch.zeros_like(r, dtype=torch.bool)
    mask[order[:count]] = True
    return mask


def _part(found: Sequence[_Heights], zero: Tensor, d: Tensor) -> None:
    """Push the weights on the wrong side of thresholds that are to grow by ``d`` units, or too near, to their side."""
    masks = torch.split(zero, [heights.member.weight.numel() for heights in found])
    for heights, mask in zip(found, masks, strict=True):
        member, w = heights.member, heights.s.w
        down, up = heights.sides
        low, high = heights.distances + torch.maximum(d.to(heights.low), heights.low) * heights.unit
        margin = MARGIN * heights.unit
        kept = torch.where(up >= down, torch.maximum(w, high + margin), torch.minimum(w, -low - margin))
        inside = torch.minimum(torch.maximum(w, margin - low), high - margin)
        wanted = torch.where(mask.to(w.device).reshape(w.shape), inside, kept)
        divisor = heights.s.divided_by
        delta = (wanted - w) if divisor is None else (wanted - w) * divisor
        member.push(delta.reshape(member.weight.shape).to(member.weight.dtype))
