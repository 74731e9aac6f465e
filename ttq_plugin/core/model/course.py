"""The schedule of a prescribed share of zeros during a training: low at first, rising, exact at the end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ttq_plugin.core.model.state import TernaryState, check_shareable
from ttq_plugin.core.shares import divided
from ttq_plugin.core.ternarizer import Ternarizer
from ttq_plugin.core.zeros import Member, check_reachable, move_to_share, settle
from ttq_plugin.errors import InputError

START = 0.5
"""The share at which a schedule begins, unless it ends below this."""

RISING = 0.6
"""Fraction of the training's steps over which the share rises."""

EVERY, SHIFTS = 10, 100
"""Smallest number of steps between two shifts of the thresholds, and the number of shifts in a long training."""

STEPS = 1000
"""Number of steps that is assumed if the length of the training is unknown."""


def share_at(target: float, done: float) -> float:
    """The share of zeros after a fraction x of the training: ``1 - (1 - x)^3`` of the way from ``START``."""
    start = min(START, target)
    return start + (target - start) * (1 - (1 - min(1.0, done / RISING)) ** 3)


class Course:
    """How far the share of zeros of one call of ``ternarize`` has risen; all its states refer to it.

    The count of steps is a buffer of the first state, so that state dicts and checkpoints contain it.

    Args:
        states: The states of all layers of the call.
    """

    def __init__(self, states: Sequence[TernaryState]) -> None:
        method = states[0].method
        assert method.zeros is not None
        self.target, self.size, self.owner = method.zeros, len(states), states[0]
        self.owner.register_buffer("course", torch.tensor([0, method.zeros_steps or 0]))
        self._seen: tuple[int, int] | None = None
        self._step = self._length = 0
        for state in states:
            vars(state)["_course"] = self

    @property
    def _kept(self) -> Tensor:
        kept: Any = self.owner.course
        return kept  # type: ignore[no-any-return]

    def _read(self) -> tuple[int, int]:
        """The number of completed steps, and the training's length, which is 0 if it is not known yet."""
        kept = self._kept
        # An unchanged tensor need not be read again, for which a GPU would have to wait.
        if self._seen != (id(kept), kept._version):
            self._step, self._length = (int(value) for value in kept.tolist())
            self._seen = id(kept), kept._version
        return self._step, self._length

    def _write(self, step: int, length: int) -> None:
        kept = self._kept
        with torch.no_grad():
            if length != self._length:
                kept.copy_(torch.tensor([step, length]))
            else:
                kept[0] += step - self._step
        self._step, self._length, self._seen = step, length, (id(kept), kept._version)

    def last(self, steps: int) -> None:
        """Set how many steps the training has, unless this was set before.

        Args:
            steps: Number of steps of the optimiser, at least 1.
        """
        done, known = self._read()
        if not known:
            self._write(done, steps)

    @property
    def share(self) -> float:
        """The current share of zeros."""
        step, length = self._read()
        return share_at(self.target, step / (length or STEPS))

    def step(self, members: Callable[[], Sequence[Member]]) -> None:
        """Count a step of the optimiser, and shift the thresholds if a shift is due.

        Args:
            members: Function that returns the layers of the call.
        """
        done, length = self._read()
        self._write(done + 1, length)
        every = max(EVERY, (length or STEPS) // SHIFTS)
        if done % every == every - 1:
            move_to_share(members(), self.share)

    def settle(self, members: Sequence[Member], trained: bool = True) -> list[str]:
        """Make the share exact.

        Args:
            members: The layers of the call.
            trained: Whether a training, over which the share should have risen, has ended.

        Returns:
            Warnings: that the training ended before the share had risen, or that it can no longer be met.

        Raises:
            InputError: If some layers of the call are missing.
        """
        if len(members) != self.size:
            raise InputError(
                f"the share of zeros is counted over the {self.size} matrices of one call of ternarize, got "
                f"{len(members)} of them; pass the whole model."
            )
        if not all(bool(torch.isfinite(member.weight).all()) for member in members):
            return []
        (done, length), risen, notes = self._read(), self.share, []
        missed = settle(members, self.target)
        if trained and risen < self.target - 0.01:
            notes.append(
                f"zeros had risen only to {risen:.1%} when the training ended after {done} steps, and were then raised "
                f"to {self.target:.1%} in one step; set zeros_steps to the training's number of steps (it was "
                f"{length or STEPS})."
            )
        if missed:
            found = sum(member.zeros() for member in members) / sum(member.weight.numel() for member in members)
            notes.append(
                f"zeros is {found:.2%} instead of {self.target:.2%}, because no thresholds give the exact share."
            )
        return notes


def course_of(state: TernaryState) -> Course | None:
    """The schedule to which a state belongs, if a share of zeros was prescribed."""
    course: Course | None = vars(state).get("_course")
    return course


@torch.no_grad()
def begin(method: Ternarizer, members: Sequence[Member]) -> None:
    """Move the initial thresholds, and with them the scales, to the share of zeros at which the schedule begins.

    Args:
        method: The method, with ``zeros``.
        members: All layers; their params are changed in place.

    Raises:
        InputError: If the share cannot be met at the end.
    """
    assert method.zeros is not None
    if method.share_thresholds:
        check_shareable([member.params["thresholds"] for member in members])
        lowest = torch.stack([member.params["thresholds"] for member in members]).amin(dim=0)
        for member in members:
            member.params["thresholds"].copy_(lowest)
    check_reachable(members, method.zeros)
    if not method.share_thresholds:
        # The common shift that follows keeps these differences between layers, until training changes them.
        for member, share in zip(members, divided([m.weight.numel() for m in members], method.zeros), strict=True):
            move_to_share([member], share)
    move_to_share(members, share_at(method.zeros, 0.0))
    for member in members:
        params, _ = member.method.init(member.weight, member.name, member.params["thresholds"])
        member.params["scales"].copy_(params["scales"])
