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

from ttq_plugin.core import get_method, ternarize
from ttq_plugin.core.model.attach import default_rate
from ttq_plugin.core.model.course import Course, course_of
from ttq_plugin.core.model.matrices import Matrix, matrices, matrix_name, named_matrices, parameter_name, part_name
from ttq_plugin.core.model.parametrized import attached_tensors, course_members, detach, parametrization, states
from ttq_plugin.core.model.state import TernaryState
from ttq_plugin.errors import InputError
from ttq_plugin.methods import LSQ_QUANTIZER
from ttq_plugin.nni_adapter.health import Health, HealthMonitor, Look
from ttq_plugin.nni_adapter.links import TERNARY, AnyLink, Config
from ttq_plugin.nni_adapter.training.calibration import ternary_entry
from ttq_plugin.nni_adapter.training.evaluators import after_steps
from ttq_plugin.nni_adapter.training.groups import NewGroup, add_groups
from ttq_plugin.nni_adapter.training.recipes import groups_of, optimizers_of
from ttq_plugin.nni_adapter.training.undo import release
from ttq_plugin.nni_adapter.training.zeros import learn_length

RATES = {"lr_scale": "scales", "lr_threshold": "thresholds"}


@dataclass(frozen=True)
class PlainLink:
    """A link, see ``links.AnyLink``."""

    compressor: str
    config_list: Sequence[Config]
    options: Mapping[str, Any]


@dataclass(frozen=True)
class Attachment:
    """Layers that are made ternary in one way without NNI.

    Attributes:
        names: as ``ternarize`` takes them.
        method: a key of ``METHODS``.
        granularity: of NNI's config entry.
        options: of the method.
        rates: learning rates of scales and thresholds, as the quantizers take them.
    """

    names: tuple[str, ...]
    method: str
    granularity: str
    options: dict[str, Any]
    rates: dict[str, float | None]


def split(
    model: nn.Module, links: Sequence[AnyLink], defaults: Mapping[str, Any]
) -> tuple[list[AnyLink], list[Attachment], list[str]]:
    """Part what NNI wraps from what it cannot.

    Args:
        model: the model, not wrapped.
        links: from ``links.ordered``; of ternary ones, layers that entries name (``op_names``) are looked at.
        defaults: keywords of the quantizers where a link does not say otherwise.

    Returns:
        The links without these layers, those that are empty then left out; how the layers become ternary; and a
        sentence for each that stays in full precision, because NNI's LsqQuantizer has it.

    Raises:
        InputError: if a method whose layers share thresholds has layers of both kinds.
    """
    known = matrices(model)
    rest: list[AnyLink] = []
    attachments: list[Attachment] = []
    notes: list[str] = []
    for link in links:
        kept: list[Config] = []
        found: list[tuple[Config, list[str]]] = []
        for config in link.config_list:
            names = config.get("op_names") if link.compressor in (*TERNARY, LSQ_QUANTIZER) else None
            apart = [name for name in names or () if _needs_attaching(model, name, known)]
            if apart:
                found.append((config, apart))
                config = {**config, "op_names": [name for name in names or () if name not in apart]}
            if not apart or config["op_names"]:
                kept.append(config)
        if link.compressor == LSQ_QUANTIZER:
            apart = [name for _, names in found for name in names]
            notes += [f"{name}: stays in full precision, NNI's {LSQ_QUANTIZER} cannot wrap it." for name in apart]
            found = []
        made = [_attachment(link, config, names, {**defaults, **link.options}) for config, names in found]
        if made and kept and get_method(made[0].method).share_thresholds:
            raise InputError(
                f"{made[0].method} learns one set of thresholds for all its layers, but NNI cannot wrap "
                f"{made[0].names[0]!r}; take another method, or leave that layer out."
            )
        attachments += made
        if kept:
            rest.append(PlainLink(link.compressor, kept, link.options))
    return rest, attachments, notes


def _needs_attaching(model: nn.Module, name: object, known: Mapping[str, Matrix]) -> bool:
    """Whether a name stands for matrices that NNI cannot wrap, or not as one."""
    if not isinstance(name, str):
        return False
    found = named_matrices(model, name, known)
    return bool(found) and not (name in dict(model.named_modules(remove_duplicate=False)) and found[0].alone)


def _attachment(link: AnyLink, config: Config, names: Sequence[str], options: dict[str, Any]) -> Attachment:
    setting = config.get("target_settings", {}).get("weight", {})
    granularity = setting.get("granularity", config.get("granularity", "default"))
    method = options.pop("method", None) or TERNARY[link.compressor].method_name
    rates = {key: options.pop(key, None) for key in RATES}
    if rates["lr_threshold"] == "auto":
        rates["lr_threshold"] = default_rate(options.get("zeros") is not None)
    for key in ("on_health", "health_every"):
        options.pop(key, None)
    return Attachment(tuple(names), method, granularity, options, rates)


class AttachedLayers:
    """The matrices of a chain that NNI does not wrap, with what a compressor offers to look at.

    Args:
        model: the model, not wrapped; changed in place.
        evaluator: NNI's, initialised on this model.
        attachments: from ``split``.
        notes: likewise.

    Raises:
        InputError: for what ``ternarize`` refuses, or an optimiser that cannot take the new parameters; the caller puts
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
        self._states: dict[str, tuple[TernaryState, Callable[[], Tensor]]] = {}
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
            learned = states(parts)
            for index, state in enumerate(learned):
                self._states[part_name(name, index, len(learned))] = state, _latent(parts, index, len(learned))
            homes[parameter_name(path, key)] = parameter_name(path, f"parametrizations.{key}")
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

    def states(self) -> dict[str, TernaryState]:
        """What each matrix, or each part of one, learns."""
        return {name: state for name, (state, _) in self._states.items()}

    def codes(self) -> dict[str, Tensor]:
        """Each matrix's signs (int8), or each part's."""
        return {name: state.codes(latent()) for name, (state, latent) in self._states.items()}

    def looks(self) -> list[Look]:
        """What ``health`` is to look at."""
        found = ((name, state, latent()) for name, (state, latent) in self._states.items())
        return [Look(name, state, w, state.method.weights(w, state.params)) for name, state, w in found]

    def health(self) -> Health:
        """How the matrices are doing; see ``TernaryCompressor.health``."""
        return self._monitor.look()

    def calibration(self) -> dict[str, dict[str, dict[str, Any]]]:
        """An entry a matrix, or a part of one, as NNI's calibration config has them."""
        return {name: {"weight": ternary_entry(state, w(), None)} for name, (state, w) in self._states.items()}

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
            last: the compressor that trains for all; None where ``train`` does.

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
        found = (course_of(state) for state, _ in self._states.values())
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


def _latent(parts: ParametrizationList, index: int, count: int) -> Callable[[], Tensor]:
    return lambda: parts.original.detach().chunk(count)[index]


def _rename(evaluator: Any, names: Mapping[str, str]) -> None:
    """Let the recipes of the optimisers find the parameters under the names that they have now."""
    for recipe in optimizers_of(evaluator):
        for group in groups_of(recipe):
            group["params"] = [names.get(name, name) for name in group["params"]]
