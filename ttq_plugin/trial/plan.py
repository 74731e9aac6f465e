"""Plans the method of each layer: from a compression's settings to links of NNI quantizers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ttq_plugin.curvature import select
from ttq_plugin.curvature.budget import Budget
from ttq_plugin.curvature.plan import Link
from ttq_plugin.curvature.result import Selection
from ttq_plugin.errors import InputError
from ttq_plugin.methods import LSQ, LSQ_QUANTIZER, MIXED
from ttq_plugin.trial.budget import limited, zeros_for
from ttq_plugin.trial.prepared import Prepared
from ttq_plugin.trial.settings import Settings

ConfigList = list[dict[str, Any]]

LSQ_GRID = {"quant_dtype": "int2", "quant_scheme": "symmetric"}
"""What NNI calls the codes -1, 0 and 1."""

PER_LAYER = ("pttq", "ttq", "int4", "int8")
"""Methods that a layer may get under ``mixed`` with a budget of bits."""


@dataclass(frozen=True)
class Plan:
    """The method of each layer.

    Attributes:
        links: Quantizers with the layers of each, in the order in which a chain applies them.
        zeros: Share of zeros that the training is to end with; None where thresholds decide it.
        notes: Notes on the layers that are left out.
    """

    links: Sequence[Link]
    zeros: float | None = None
    notes: list[str] = field(default_factory=list)


def plan_of(
    prepared: Prepared, settings: Settings, config_list: ConfigList | None, chain: Sequence[Link] | None
) -> Plan:
    """Determine the method of each layer.

    Args:
        prepared: The task, its model and its Hessian traces.
        settings: The method and its numbers.
        config_list: NNI's configuration list, to choose the layers; None to leave the choice to curvature.
        chain: A quantizer for each layer, for the method ``mixed``.

    Returns:
        The plan.

    Raises:
        InputError: If the layers' methods are given twice or not at all, or a budget cannot be met.
    """  # noqa: DOC502 - raised by what it calls
    _check_one_source(settings, config_list, chain)
    if chain is not None:
        return Plan(chain)
    if settings.bits is not None:
        return _mixed_within_bits(prepared, settings.bits)
    entries, notes = (config_list, []) if config_list else _least_sensitive(prepared, settings)
    if settings.method == LSQ:
        return Plan([Link(LSQ_QUANTIZER, tuple(entry | LSQ_GRID for entry in entries), {})], notes=notes)
    options = _options(prepared, settings, entries)
    link = Link("PTTQQuantizer", tuple(entries), {"method": settings.method, **options})
    return Plan([link], options.get("zeros"), notes)


def _check_one_source(settings: Settings, config_list: ConfigList | None, chain: Sequence[Link] | None) -> None:
    """The layers' methods come from a chain, from a budget of bits, or from one method for all of them."""
    mixed = settings.method == MIXED
    if mixed and not config_list and (chain is not None or settings.bits is not None):
        return
    if not mixed and chain is None:
        return
    raise InputError(
        f"the method {MIXED!r}, and no other, goes with a chain and without a config list, got the method "
        f"{settings.method!r} with {'a' if chain is not None else 'no'} chain and "
        f"{'a' if config_list else 'no'} config list."
    )


def _mixed_within_bits(prepared: Prepared, share: float) -> Plan:
    """The methods that curvature predicts to lose least, in at most this share of the full-precision model's bits."""
    full_precision = 32 * sum(parameter.numel() for parameter in prepared.model.parameters())
    selection = select(prepared.model, prepared.traces, Budget(bits=share * full_precision), methods=PER_LAYER)
    return Plan(selection.chain, notes=_left_out(selection))


def _least_sensitive(prepared: Prepared, settings: Settings) -> tuple[ConfigList, list[str]]:
    """The layers with the lowest estimated sensitivity that hold the settings' share of the weights; notes."""
    method = "twn" if settings.method == LSQ else settings.method  # curvature knows no grid so coarse
    selection = select(
        prepared.model, prepared.traces, settings.share, methods=(method,), options={method: settings.options()}
    )
    entries = selection.config_list
    if settings.granularity:
        entries = [entry | {"granularity": settings.granularity} for entry in entries]
    return entries, _left_out(selection)


def _options(prepared: Prepared, settings: Settings, entries: ConfigList) -> dict[str, Any]:
    """The quantizer's keywords, with the share of zeros that a budget needs, and the steps over which it is reached."""
    options = settings.options()
    if limited(settings) is not None:
        options["zeros"] = zeros_for(prepared, settings, entries)
    if "zeros" in options:
        steps_per_epoch = -(-len(prepared.train) // prepared.task.recipe.batch_size)
        options["zeros_steps"] = settings.epochs * steps_per_epoch
    return options


def _left_out(selection: Selection) -> list[str]:
    """The notes on layers that were not candidates; the quantizers repeat the other ones."""
    return [note for note in selection.notes if "stays in full precision" in note]
