"""Which layers are quantised: named by the caller, or found by the values of their weights."""

from collections.abc import Iterable, Mapping

import torch
from torch import nn

from ttq_plugin.errors import InputError
from ttq_plugin.measures.integer import BITS, integer_codes, levels
from ttq_plugin.measures.ternary import WEIGHTED, Codes, channel_dim, codes_of


def select_layers(
    full_precision: nn.Module,
    compressed: nn.Module,
    layers: Iterable[str] | None = None,
    widths: Mapping[str, int] | None = None,
) -> dict[nn.Parameter, Codes]:
    """The compressed weights and their codes; a weight shared by several modules appears once.

    Detection (`layers` None) takes a weight that is ternary or binary and differs from its twin; groups of one or two
    weights prove nothing (any two weights of opposite signs are ternary), so such layers have to be named. Integer
    grids are never detected.

    Args:
        full_precision: the model before.
        compressed: its twin, with the same parameters.
        layers: names of the ternary and binary modules (those in `widths` may be among them); None detects them.
        widths: name of module -> bits of the integer grid that its weight lies on.

    Returns:
        Parameter of `compressed` -> its codes.

    Raises:
        InputError: an unknown layer, one that cannot be quantised, one that is not, a width outside `BITS`, or no
            layer at all.
    """
    twins = dict(full_precision.named_modules(remove_duplicate=False))
    modules = dict(compressed.named_modules(remove_duplicate=False))
    integer = dict(_integer(modules, name, bits) for name, bits in (widths or {}).items())
    if layers is None:
        found = _detect(twins, modules, set(integer))
    else:
        found = dict(_ternary(modules, name) for name in layers if name not in (widths or {}))
    if not found and not integer:
        raise InputError(
            "measure needs at least one ternary or binary layer in `compressed`, got none"
            + (": quantise it, or export the compressed model first." if layers is None else ": name one in `layers`.")
        )
    return found | integer


def _detect(
    twins: dict[str, nn.Module], modules: dict[str, nn.Module], known: set[nn.Parameter]
) -> dict[nn.Parameter, Codes]:
    """Ternary and binary weights that are not `known` and differ from their twins."""
    found: dict[nn.Parameter, Codes] = {}
    for name, module in modules.items():
        weight = module._parameters.get("weight")
        if not isinstance(module, WEIGHTED) or weight is None or weight in found or weight in known:
            continue
        before = twins[name]._parameters["weight"] if name in twins else None
        if before is not None and torch.equal(before.detach().double().cpu(), weight.detach().double().cpu()):
            continue
        codes = codes_of(weight, channel_dim(module))
        if codes is not None and codes.smallest_group > 2:
            found[weight] = codes
    return found


def _ternary(modules: dict[str, nn.Module], name: str) -> tuple[nn.Parameter, Codes]:
    weight = _weight(modules, name, "layers")
    codes = codes_of(weight, channel_dim(modules[name]))
    if codes is None:
        raise InputError(
            f"Layer {name!r} must hold at most one positive and one negative value a layer or output channel, got "
            f"{len(torch.unique(weight.detach()))} distinct values: bake or export the compressed model first, "
            "or leave the layer out."
        )
    return weight, codes


def _integer(modules: dict[str, nn.Module], name: str, bits: int) -> tuple[nn.Parameter, Codes]:
    if isinstance(bits, bool) or not isinstance(bits, int) or bits not in BITS:
        raise InputError(
            f"`widths` must give each layer a whole number of bits from {BITS[0]} to {BITS[-1]}, got {bits!r} for "
            f"{name!r}: leave a layer that is ternary or full precision out."
        )
    weight = _weight(modules, name, "widths")
    codes = integer_codes(weight, bits, channel_dim(modules[name]))
    if codes is None:
        raise InputError(
            f"Layer {name!r} must hold multiples of one step, at most {levels(bits)} values, a layer or output channel "
            f"to be int{bits}, got {len(torch.unique(weight.detach()))} distinct values off such a grid: export the "
            "compressed model first, or give its true width."
        )
    return weight, codes


def _weight(modules: dict[str, nn.Module], name: str, option: str) -> nn.Parameter:
    """The weight of the layer that `option` names."""
    if name not in modules:
        known = ", ".join(n for n, m in modules.items() if isinstance(m, WEIGHTED))
        raise InputError(f"`{option}` must name layers of the model, got {name!r}; it has {known}.")
    module = modules[name]
    weight = module._parameters.get("weight")
    if not isinstance(module, WEIGHTED) or weight is None:
        raise InputError(
            f"`{option}` must name convolutions or linear layers with a weight, got {name!r}, "
            f"a {type(module).__name__}: leave it out."
        )
    return weight
