"""The links of a chain: which compressor each layer gets, checked before the model is touched."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Protocol

from nni.compression.base.config import select_modules_by_config
from nni.compression.quantization import LsqQuantizer, QATQuantizer
from nni.compression.utils import Evaluator
from torch import nn

from ttq_plugin.core.model.layers import check_layers
from ttq_plugin.core.model.matrices import layouts
from ttq_plugin.errors import InputError
from ttq_plugin.methods import LSQ_QUANTIZER, QAT_QUANTIZER
from ttq_plugin.nni_adapter.config import modern, weight_config
from ttq_plugin.nni_adapter.layers.names import resolve
from ttq_plugin.nni_adapter.quantizers import QUANTIZERS, TernaryQuantizer
from ttq_plugin.nni_adapter.training.evaluators import mark_steps
from ttq_plugin.support.arguments import shown

Config = dict[str, Any]
TERNARY: dict[str, type[TernaryQuantizer]] = {quantizer.__name__: quantizer for quantizer in QUANTIZERS.values()}
"""This plugin's quantizers, by the name that a link gives."""


class AnyLink(Protocol):
    """One compressor of a chain and the layers it gets."""

    @property
    def compressor(self) -> str:
        """``QATQuantizer``, ``LsqQuantizer`` (NNI's, for integer weights) or a name in ``TERNARY``."""

    @property
    def config_list(self) -> Sequence[Config]:
        """NNI 3.0's config entries; weights only, which is also the default."""

    @property
    def options(self) -> Mapping[str, Any]:
        """Keywords of the compressor."""


@dataclass(frozen=True)
class PlainLink:
    """A link, see ``AnyLink``."""

    compressor: str
    config_list: Sequence[Config]
    options: Mapping[str, Any]


class MarkedSteps:
    """Wraps NNI's quantizers, whose optimiser step becomes one that torch's schedulers do not warn about."""

    def _fuse_preprocess(self, evaluator: Evaluator) -> None:
        super()._fuse_preprocess(evaluator)  # type: ignore[misc]
        mark_steps(evaluator)


class IntegerQuantizer(MarkedSteps, QATQuantizer):
    """NNI's QATQuantizer."""


class LearnedStepQuantizer(MarkedSteps, LsqQuantizer):
    """NNI's LsqQuantizer (Esser et al. 2020); steps start at 0.01 and learn at the rate of the layer's bias."""

    current_step = 0

    def register_trigger(self, evaluator: Evaluator) -> None:
        """NNI's, and a count of the optimiser's steps, as its QATQuantizer keeps one."""
        super().register_trigger(evaluator)
        evaluator.patch_optimizer_step(before_step_tasks=[], after_step_tasks=[self._count])

    def _count(self) -> None:
        self.current_step += 1


WholeQuantizer = IntegerQuantizer | LearnedStepQuantizer
AnyQuantizer = TernaryQuantizer | WholeQuantizer

INTEGERS: dict[str, type[WholeQuantizer]] = {QAT_QUANTIZER: IntegerQuantizer, LSQ_QUANTIZER: LearnedStepQuantizer}
"""NNI's quantizers, by the name that a link gives."""


def ordered(links: Sequence[AnyLink]) -> list[AnyLink]:
    """The links with the integer ones first, else in the order given.

    Args:
        links: The links, at least one.

    Returns:
        The same links.

    Raises:
        InputError: If there is none, or one does not have the form of a link.
    """
    if not isinstance(links, Sequence) or not links:
        raise InputError(f"a chain needs a list of at least one link, got {links!r}.")
    for link in links:
        name, entries = getattr(link, "compressor", link), getattr(link, "config_list", None)
        if name not in (*INTEGERS, *TERNARY):
            raise InputError(
                f"a link's compressor must be one of {', '.join((*INTEGERS, *TERNARY))}, got {shown(name)}."
            )
        if not isinstance(entries, (list, tuple)) or not entries or not all(isinstance(e, dict) for e in entries):
            raise InputError(f"the config_list of {name} must be a list of NNI's config entries, got {entries!r}.")
    return sorted(links, key=lambda link: link.compressor not in INTEGERS)


def check_links(model: nn.Module, links: Sequence[AnyLink]) -> None:
    """Check that each link's entries select layers of this model that it can have, and no layer is selected twice.

    Args:
        model: The model, not wrapped.
        links: What ``ordered`` returned.

    Raises:
        InputError: If they do not.
    """
    owners: dict[int, str] = {}
    for link in links:
        with naming(link, links):
            configs = deepcopy(list(link.config_list))
            if link.compressor in INTEGERS:
                _check_options(link)
                for config in configs:
                    _check_integer(model, config)
                configs = [resolve(model, config) for config in configs]
            else:
                configs = weight_config(model, configs)
        here: dict[int, str] = {}
        for config in configs:
            for name, module in select_modules_by_config(model, config)[0].items():
                if id(module) in owners or (link.compressor in INTEGERS and id(module) in here):
                    raise InputError(
                        f"the layer {name!r} is in {owners.get(id(module), link.compressor)} and again in "
                        f"{link.compressor}; a layer can be in one link only and, for integers, in one entry only."
                    )
                here[id(module)] = link.compressor
        owners |= here


def build(
    model: nn.Module, links: Sequence[AnyLink], evaluator: Evaluator | None, options: Mapping[str, Any]
) -> list[AnyQuantizer]:
    """Wrap the model with each link's quantizer; the last trains for all.

    Args:
        model: The model, not wrapped; if a link fails it may be left wrapped by those before it.
        links: Checked by ``check_links``.
        evaluator: NNI's, or None to see whether they can be built.
        options: Keywords of this plugin's quantizers where a link does not say otherwise.

    Returns:
        The quantizers, one a link.
    """
    quantizers: list[AnyQuantizer] = []
    # Before anything is wrapped: NNI's wrappers are modules too, which a pattern may match.
    resolved = [[resolve(model, config) for config in link.config_list] for link in links]
    for link, configs in zip(links, resolved, strict=True):
        cls: type[AnyQuantizer] = {**INTEGERS, **TERNARY}[link.compressor]
        keywords = dict(link.options) if link.compressor in INTEGERS else {**options, **link.options}
        with naming(link, links):
            if quantizers:
                quantizer = cls.from_compressor(quantizers[-1], configs, **keywords)
            else:
                quantizer = cls(model, configs, evaluator, **keywords)
        quantizers.append(quantizer)
    return quantizers


def modern_links(model: nn.Module, links: Sequence[AnyLink]) -> list[AnyLink]:
    """Links whose entries are in NNI 3.0's format, each with its target said: NNI would take inputs and biases too.

    Args:
        model: The model, not wrapped.
        links: Any; not changed.

    Returns:
        Copies.
    """
    made: list[AnyLink] = []
    for link in links:
        with naming(link, links):
            configs = [{"target_names": ["weight"], **config} for config in modern(model, link.config_list)]
        made.append(PlainLink(link.compressor, configs, link.options))
    return made


@contextmanager
def naming(link: AnyLink, links: Sequence[AnyLink]) -> Iterator[None]:
    """Add the link's name to its errors if there are several links."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{link.compressor}: {error}" if len(links) > 1 else str(error)) from None


def _check_options(link: AnyLink) -> None:
    if link.compressor == LSQ_QUANTIZER and link.options:
        raise InputError(f"{LSQ_QUANTIZER} takes no option, got {min(link.options)!r}.")
    if unknown := sorted(set(link.options) - {"quant_start_step"}):
        raise InputError(f"{QAT_QUANTIZER} takes the option quant_start_step, got {unknown[0]!r}.")


def _check_integer(model: nn.Module, config: Config) -> None:
    """An entry that NNI would take, but whose weights would not be integers with one scale a layer or channel."""
    targets, settings = config["target_names"], config.get("target_settings", {})
    if targets != ["weight"] or not isinstance(settings, dict) or set(settings) - {"weight"}:
        raise InputError(
            f'a chain quantises weights, target_names must be ["weight"], got {targets!r} with settings for '
            f"{', '.join(settings) or 'none'}; let a QATQuantizer of your own join the chain for inputs and outputs."
        )
    if "fuse_names" in config:
        raise InputError("fuse_names is for ternary weights only; leave it out of integer ones.")
    weight_config(model, [config])
    setting = {**config, **settings.get("weight", {})}
    for dtype in (config.get("quant_dtype"), setting.get("quant_dtype")):
        if not re.fullmatch(r"int([2-9]|1[0-6])", str(dtype)):
            raise InputError(f"quant_dtype must be int2 to int16, such as int8, got {dtype!r}.")
    if setting.get("quant_scheme", "symmetric") != "symmetric":
        raise InputError(f"quant_scheme must be symmetric for weights, got {setting['quant_scheme']!r}.")
    modules = select_modules_by_config(model, resolve(model, config))[0]
    check_layers(model, modules)
    granularity = setting.get("granularity", "default")
    if granularity not in ("default", "out_channel"):
        raise InputError(f"granularity must be default or out_channel for weights, got {granularity!r}.")
    # NNI takes dimension 0 for the output channels of every layer.
    if granularity == "out_channel" and (found := sorted(n for n, m in modules.items() if _lies_transposed(m))):
        raise InputError(
            "granularity must be default for embeddings and transposed convolutions, whose output channels lie in "
            f"dimension 1, got out_channel for {found[0]!r}."
        )


def _lies_transposed(module: nn.Module) -> bool:
    return layouts(module)["weight"].channel != 0
