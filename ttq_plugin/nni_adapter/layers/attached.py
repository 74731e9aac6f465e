"""In a chain, the matrices that NNI cannot wrap: ternary by ``ternarize``, trained by the same evaluator."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

from ttq_plugin.core import ternarize
from ttq_plugin.core.model.course import Course, course_of
from ttq_plugin.core.model.matrices import matrix_name, parameter_name, part_name
from ttq_plugin.core.model.parametrized import attached_tensors, course_members, detach, parametrization, states
from ttq_plugin.core.model.state import TernaryState
from ttq_plugin.nni_adapter.health import Health, HealthMonitor, Look, frozen
from ttq_plugin.nni_adapter.layers.split import RATES, Attachment
from ttq_plugin.nni_adapter.training.calibration import ternary_entry
from ttq_plugin.nni_adapter.training.evaluators import after_steps
from ttq_plugin.nni_adapter.training.groups import NewGroup, add_groups, untrained
from ttq_plugin.nni_adapter.training.recipes import groups_of, optimizers_of
from ttq_plugin.nni_adapter.training.undo import release
from ttq_plugin.nni_adapter.training.zeros import learn_length


@dataclass(frozen=True)
class _Learned:
    """A matrix, or a part of one that a tensor stacks with others.

    Attributes:
        state: What it learns.
        parts: torch's parametrization list.
        place: Name of that list in the model.
        index: The part's.
        count: Number of parts.
    """

    state: TernaryState
    parts: ParametrizationList
    place: str
    index: int = 0
    count: int = 1

    def latent(self) -> Tensor:
        weight: Tensor = self.parts.original.detach().chunk(self.count)[self.index]
        return weight

    def look(self, name: str, evaluator: Any) -> Look:
        weight, method = self.latent(), self.state.method
        idle = frozen(self.parts.original) or untrained(evaluator, self.place)
        return Look(name, self.state, weight, method.weights(weight, self.state.params), idle)


class AttachedLayers:
    """The matrices of a chain that NNI does not wrap, with what a compressor offers to look at.

    Args:
        model: The model, not wrapped; changed in place.
        evaluator: NNI's, initialised on this model.
        attachments: What ``split`` returned.
        notes: List to which notes are added.

    Raises:
        InputError: For what ``ternarize`` refuses, or an optimiser that cannot take the new parameters; the caller puts
            the model back.
    """

    def __init__(
        self, model: nn.Module, evaluator: Any, attachments: Sequence[Attachment], notes: Sequence[str] = ()
    ) -> None:
        self.model, self.evaluator = model, evaluator
        self.notes = list(notes)
        self.steps = 0
        self._forget_length: Callable[[], None] = _nothing
        self.names: tuple[str, ...] = ()
        self._learned: dict[str, _Learned] = {}
        for attachment in attachments:
            self._add(attachment)
        self._monitor = HealthMonitor(self, None, 1)

    def _add(self, attachment: Attachment) -> None:
        before = {(path, key) for path, _, key in attached_tensors(self.model)}
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            ternarize(
                self.model,
                attachment.names,
                attachment.method,
                granularity=attachment.granularity,
                **attachment.options,
            )
        self.notes += [str(warning.message) for warning in said]
        new = [row for row in attached_tensors(self.model) if row[::2] not in before]
        homes = {}
        for path, module, key in new:
            name, parts = matrix_name(path, key), parametrization(module, key)
            self.names += (name,)
            place = homes[parameter_name(path, key)] = parameter_name(path, f"parametrizations.{key}")
            learned = states(parts)
            for index, state in enumerate(learned):
                part = _Learned(state, parts, place, index, len(learned))
                self._learned[part_name(name, index, len(learned))] = part
        _rename(self.evaluator, {plain: f"{place}.original" for plain, place in homes.items()})
        present = [name for name, _ in self.model.named_parameters()]
        groups = []
        for rate, member in RATES.items():
            members = ("scales",) if member == "scales" else ("thresholds", "alpha")
            names = {
                name: place
                for place in homes.values()
                for name in present
                if name.startswith(f"{place}.") and name.rpartition(".")[2] in members
            }
            value = attachment.rates[rate]
            own = {"weight_decay": 0.0, "ternary_attached": True} | ({} if value is None else {"lr": value})
            groups.append(NewGroup(names, own))
        add_groups(self.evaluator, self.model, groups, {})
        idle = (
            (matrix_name(path, key), untrained(self.evaluator, homes[parameter_name(path, key)]))
            for path, _, key in new
        )
        self.notes += [f"{name}: {why}" for name, why in idle if why]

    def states(self) -> dict[str, TernaryState]:
        """What each matrix, or each part of one, learns."""
        return {name: part.state for name, part in self._learned.items()}

    def codes(self) -> dict[str, Tensor]:
        """Each matrix's signs (int8), or each part's."""
        return {name: part.state.codes(part.latent()) for name, part in self._learned.items()}

    def looks(self) -> list[Look]:
        """What ``health`` is to look at."""
        return [part.look(name, self.evaluator) for name, part in self._learned.items()]

    def health(self) -> Health:
        """How the matrices are doing; see ``TernaryCompressor.health``."""
        return self._monitor.look()

    def calibration(self) -> dict[str, dict[str, dict[str, Any]]]:
        """An entry a matrix, or a part of one, as NNI's calibration config has them."""
        return {
            name: {"weight": ternary_entry(part.state, part.latent(), None)} for name, part in self._learned.items()
        }

    def train(self, max_steps: int | None, max_epochs: int | None) -> None:
        """Train the model where NNI wraps none of its layers, so that no compressor of its does."""
        self.evaluator.bind_model(self.model, {})
        try:
            self._follow()
            self.evaluator.train(max_steps, max_epochs)
        except BaseException:
            release(self.evaluator)
            raise
        self.evaluator.unbind_model()

    @contextmanager
    def following(self, last: Any) -> Iterator[None]:
        """Let prescribed shares of zeros rise in a training, and be exact at its end.

        Args:
            last: The compressor that trains for all; None where ``train`` does.

        Yields:
            Nothing.
        """
        if last is not None and self._courses():
            prepare = last._fuse_preprocess

            def preprocess(evaluator: Any) -> None:
                prepare(evaluator)
                self._follow()

            last._fuse_preprocess = preprocess
        try:
            yield
        finally:
            self._forget_length()
            getattr(last, "__dict__", {}).pop("_fuse_preprocess", None)
        for course in self._courses():
            self.notes += course.settle(course_members(self.model, course))

    def prescribe(self, zeros: float) -> None:
        """See ``Prescribed.prescribe``."""
        for course in self._courses():
            course.target = zeros
            course.settle(course_members(self.model, course), trained=False)

    def _follow(self) -> None:
        after_steps(self.evaluator, lambda index: self._count if index == 0 else _nothing)
        self._forget_length = learn_length(self._courses(), self.evaluator)

    def _courses(self) -> list[Course]:
        found = (course_of(part.state) for part in self._learned.values())
        return list({id(course): course for course in found if course is not None}.values())

    def _count(self) -> None:
        self.steps += 1
        for course in self._courses():
            course.step(partial(course_members, self.model, course))


def plain(model: nn.Module) -> nn.Module:
    """A copy of a model as it is exported, its attached matrices made plain; others are left as they are."""
    if attached_tensors(model):
        detach(model)
    return model


def _nothing() -> None:
    """Nothing follows the steps of the other optimisers."""


def _rename(evaluator: Any, names: Mapping[str, str]) -> None:
    """Let the recipes of the optimisers find the parameters under the names that they have now."""
    for recipe in optimizers_of(evaluator):
        for group in groups_of(recipe):
            group["params"] = [names.get(name, name) for name in group["params"]]
