"""Which layers are quantised: named by the caller, or found by the values of their weights."""

from collections.abc import Iterable, Mapping

import torch
from torch import nn

from ttq_plugin.core.model.matrices import KINDS, Matrix, matrices, named_matrices
from ttq_plugin.errors import InputError
from ttq_plugin.measures.integer import BITS, integer_codes, levels
from ttq_plugin.measures.ternary import Codes, codes_of


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
        full_precision: The model before.
        compressed: Its twin, with the same parameters.
        layers: Names of the ternary and binary layers (those in `widths` may be among them), as `ternarize` takes
            them: one that refers to several matrices means all of them; None detects them.
        widths: Name of module -> bits of the integer grid that its weight lies on.

    Returns:
        Parameter of `compressed` -> its codes.

    Raises:
        InputError: An unknown layer, one that cannot be quantised, one that is not, a width outside `BITS`, or no
            layer at all.
    """
    known = matrices(compressed)
    integer: dict[nn.Parameter, Codes] = {}
    for name, bits in (widths or {}).items():
        integer |= dict(_integer(matrix, bits) for matrix in _named(compressed, known, name, "widths"))
    if layers is None:
        before = dict(full_precision.named_parameters(remove_duplicate=False))
        found = _detect(before, known, set(integer))
    else:
        names = [name for name in layers if name not in (widths or {})]
        chosen = [matrix for name in names for matrix in _named(compressed, known, name, "layers")]
        found = dict(_ternary(matrix) for matrix in chosen if matrix.parameter not in integer)
    if not found and not integer:
        raise InputError(
            "measure needs at least one ternary or binary layer in `compressed`, got none"
            + (": quantise it, or export the compressed model first." if layers is None else ": name one in `layers`.")
        )
    return found | integer


def _detect(
    before: dict[str, nn.Parameter], known: dict[str, Matrix], taken: set[nn.Parameter]
) -> dict[nn.Parameter, Codes]:
    """Ternary and binary weights that are not `taken` and differ from their twins."""
    found: dict[nn.Parameter, Codes] = {}
    for matrix in known.values():
        weight, twin = matrix.parameter, before.get(matrix.paths[0])
        if weight in taken:
            continue
        if twin is not None and torch.equal(twin.detach().double().cpu(), weight.detach().double().cpu()):
            continue
        codes = codes_of(weight, matrix.layout.channel, matrix.layout.parts)
        if codes is not None and codes.smallest_group > 2:
            found[weight] = codes
    return found


def _ternary(matrix: Matrix) -> tuple[nn.Parameter, Codes]:
    weight = matrix.parameter
    codes = codes_of(weight, matrix.layout.channel, matrix.layout.parts)
    if codes is None:
        raise InputError(
            f"Layer {matrix.name!r} must hold at most one positive and one negative value per layer or output channel, "
            f"got {len(torch.unique(weight.detach()))} distinct values: bake or export the compressed model first, "
            "or leave the layer out."
        )
    return weight, codes


def _integer(matrix: Matrix, bits: int) -> tuple[nn.Parameter, Codes]:
    if isinstance(bits, bool) or not isinstance(bits, int) or bits not in BITS:
        raise InputError(
            f"`widths` must give each layer a whole number of bits from {BITS[0]} to {BITS[-1]}, got {bits!r} for "
            f"{matrix.name!r}: leave a layer that is ternary or full precision out."
        )
    weight = matrix.parameter
    codes = integer_codes(weight, bits, matrix.layout.channel or 0)
    if codes is None:
        raise InputError(
            f"Layer {matrix.name!r} must hold multiples of one step, at most {levels(bits)} values, per layer or "
            f"output "
            f"channel to be int{bits}, got {len(torch.unique(weight.detach()))} distinct values off such a grid: "
            "export the compressed model first, or give its true width."
        )
    return weight, codes


def _named(model: nn.Module, known: dict[str, Matrix], name: str, option: str) -> list[Matrix]:
    """The matrices that a name in `option` refers to."""
    if found := named_matrices(model, name, known):
        return found
    module = dict(model.named_modules(remove_duplicate=False)).get(name)
    if module is None:
        raise InputError(f"`{option}` must name layers of the model, got {name!r}; it has {', '.join(known)}.")
    raise InputError(
        f"`{option}` must name {KINDS}, with weights of their own, got {name!r}, a {type(module).__name__}: leave it "
        "out."
    )
