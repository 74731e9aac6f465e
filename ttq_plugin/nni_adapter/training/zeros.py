"""A prescribed share of zeros where NNI's evaluators train: over which layers, and how many steps it takes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from nni.compression.base.wrapper import ModuleWrapper
from torch import Tensor, nn

from ttq_plugin.core import Params, Ternarizer
from ttq_plugin.core.model.course import Course, begin
from ttq_plugin.core.model.layers import tensor_of
from ttq_plugin.core.model.state import TernaryState
from ttq_plugin.core.zeros import Member
from ttq_plugin.nni_adapter.layers.folding import folded, latent, norm_of
from ttq_plugin.nni_adapter.training.epochs import call_at_start


class Prescribed:
    """The part of a compressor that knows of a prescribed share of zeros; without one it does nothing."""

    method: Ternarizer
    notes: list[str]
    states: Callable[[], dict[str, TernaryState]]
    _module_wrappers: dict[str, ModuleWrapper]
    course: Course | None = None
    """How far the share has risen."""

    def members(self) -> list[Member]:
        """The selected layers as those over which zeros are counted."""
        found = ((name, state, self._module_wrappers[name]) for name, state in self.states().items())
        return [Member(n, s.method, s.params, latent(w).detach(), _pushing(w)) for n, s, w in found]

    def _begin_course(self, model: nn.Module, initial: Mapping[str, tuple[Ternarizer, Params]]) -> None:
        """Move initial thresholds to where the share begins, before NNI touches the model."""
        if self.method.zeros is not None:
            self.notes = []  # of the method's own numbers, which only make a beginning
            found = (
                (name, *values, tensor_of(model.get_submodule(name), "weight").detach())
                for name, values in initial.items()
            )
            begin(self.method, [Member(*entry, push=_nothing) for entry in found])

    def _attach_course(self) -> None:
        """Begin the course of the attached states; again, where a folded weight is another one than the layer's own."""
        if self.method.zeros is not None:
            if any(norm_of(wrapper) is not None for wrapper in self._module_wrappers.values()):
                self.notes = []
                begin(self.method, self.members())
            self.course = Course(list(self.states().values()))

    def prescribe(self, zeros: float) -> None:
        """Move the thresholds to another share, exactly; what the layers cannot have, they come as near to as they can.

        Args:
            zeros: The share.
        """
        if self.course is not None:
            self.course.target = zeros
            self.course.settle(self.members(), trained=False)

    def _settle(self, trained: bool = True) -> None:
        """Make the share exact."""
        if self.course is not None:
            for note in self.course.settle(self.members(), trained):
                self.notes.append(note)
                warnings.warn(note, stacklevel=2)


def _nothing(delta: Tensor) -> None:
    """Nothing is pushed before a training."""


def _pushing(wrapper: ModuleWrapper) -> Callable[[Tensor], object]:
    @torch.no_grad()
    def push(delta: Tensor) -> None:
        # A folded weight is the layer's own times a factor a channel, which is not 0 where there is something to push.
        factor, _ = folded(wrapper, torch.ones_like(wrapper.weight), None)
        wrapper.weight.data.add_(torch.where(delta == 0, delta, delta / factor))

    return push


def learn_length(courses: Iterable[Course | None], evaluator: Any) -> Callable[[], None]:
    """Let courses know how many steps the training has that is about to begin, where that can be known.

    Args:
        courses: The courses of a compressor that takes part, None where it has none.
        evaluator: NNI's, which has just bound the model.

    Returns:
        What is to be called when the training has ended.
    """
    known = [course for course in courses if course is not None]
    if not known:
        return lambda: None

    def tell(steps: Any) -> None:
        if isinstance(steps, int) and steps > 0:
            for course in known:
                course.last(steps)

    original = evaluator.train

    def train(max_steps: int | None = None, max_epochs: int | None = None) -> None:
        tell(max_steps)
        original(max_steps, max_epochs)

    evaluator.train = train
    forget = call_at_start(evaluator, tell)

    def undo() -> None:
        vars(evaluator).pop("train", None)
        forget()

    return undo
