"""Which layers of a chain NNI wraps, and how the others become ternary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from ttq_plugin.core import get_method
from ttq_plugin.core.model.matrices import Matrix, matrices, named_matrices
from ttq_plugin.errors import InputError
from ttq_plugin.methods import LSQ_QUANTIZER
from ttq_plugin.nni_adapter.links import TERNARY, AnyLink, Config, PlainLink

RATES = {"lr_scale": "scales", "lr_threshold": "thresholds"}


@dataclass(frozen=True)
class Attachment:
    """Layers that are made ternary in one way without NNI.

    Attributes:
        names: The names, as ``ternarize`` takes them.
        method: A key of ``METHODS``.
        granularity: The granularity of NNI's config entry.
        options: The options of the method.
        rates: Learning rates of scales and thresholds, as the quantizers take them.
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
        model: The model, not wrapped.
        links: What ``links.ordered`` returned; of ternary ones, the layers that entries name (``op_names``) are
            checked.
        defaults: Keywords of the quantizers where a link does not say otherwise.

    Returns:
        The links without these layers, those that are empty then left out; how the layers become ternary; and a
        sentence for each that stays in full precision, because NNI's LsqQuantizer has it.

    Raises:
        InputError: If a method whose layers share thresholds has layers of both kinds.
    """
    known = matrices(model)
    rest: list[AnyLink] = []
    attachments: list[Attachment] = []
    notes: list[str] = []
    for link in links:
        kept: list[Config] = []
        found: list[tuple[Config, list[str]]] = []
        for config in link.config_list:
            left = config.get("exclude_op_names", ())
            names = config.get("op_names") if link.compressor in (*TERNARY, LSQ_QUANTIZER) else None
            apart = [name for name in names or () if name not in left and _needs_attaching(model, name, known)]
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
                f"{made[0].names[0]!r}; use another method, or leave that layer out."
            )
        attachments += made
        if kept:
            rest.append(PlainLink(link.compressor, kept, link.options))
    return rest, attachments, notes


def _needs_attaching(model: nn.Module, name: object, known: Mapping[str, Matrix]) -> bool:
    """Whether a name refers to matrices that NNI cannot wrap, or cannot wrap as one."""
    if not isinstance(name, str):
        return False
    found = named_matrices(model, name, known)
    return bool(found) and not (name in dict(model.named_modules(remove_duplicate=False)) and found[0].alone)


def _attachment(link: AnyLink, config: Config, names: Sequence[str], options: dict[str, Any]) -> Attachment:
    setting = config.get("target_settings", {}).get("weight", {})
    granularity = setting.get("granularity", config.get("granularity", "default"))
    method = options.pop("method", None) or TERNARY[link.compressor].method_name
    rates = {key: options.pop(key, None) for key in RATES}
    for key in ("on_health", "health_every"):
        options.pop(key, None)
    return Attachment(tuple(names), method, granularity, options, rates)
