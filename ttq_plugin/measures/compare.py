"""Compares a model with its compressed version: what each layer costs in both."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from ttq_plugin.core.model.held import check_values
from ttq_plugin.core.model.matrices import layouts, matrix_name
from ttq_plugin.errors import InputError
from ttq_plugin.measures import mult_adds
from ttq_plugin.measures.energy import EnergyModel, code_bits, transfers
from ttq_plugin.measures.report import CompressionReport, LayerReport
from ttq_plugin.measures.selection import select_layers
from ttq_plugin.measures.storage import FLOAT_BITS, SCHEMES, weight_bits
from ttq_plugin.measures.ternary import Codes
from ttq_plugin.support.arguments import check_types

_PAPERS = EnergyModel()


def measure(
    full_precision: nn.Module,
    compressed: nn.Module,
    example_input: Any,
    layers: Iterable[str] | None = None,
    energy_model: EnergyModel = _PAPERS,
    widths: Mapping[str, int] | None = None,
) -> CompressionReport:
    """Measure sparsity, size, mult-adds and energy of a compressed model, compared with the full-precision model.

    Every parameter that is not a selected weight costs 32 bits whatever its dtype, as in the papers. Buffers, such as
    BatchNorm's running statistics, cost nothing. Neither model is changed.

    Args:
        full_precision: The model before compression.
        compressed: The compressed model, with the same parameter names and shapes. Its selected weights take at most
            one positive and one negative value per layer or output channel, or lie on the integer grid of `widths`.
        example_input: An input of the models, on their device: a tensor (batch, ...), a tuple of positional arguments
            or a dict of keyword arguments. Counts are per sample.
        layers: Names of the ternary and binary layers; None to detect them from the values.
        energy_model: Joules per operation; by default the papers'.
        widths: Bits (2 to 16) of the layers on an integer grid, such as int8 and int4, by name. They cost this many
            bits per weight and 32 per scale under every scheme, and their values are checked.

    Returns:
        The report. `.to_dict()` is flat JSON, `.layers` has a row for each layer, and `print` shows a table.

    Raises:
        InputError: If the models' parameters differ, a layer is unknown or not quantised, nothing is quantised, or the
            models do not take the input.

    Examples:
        >>> import torch
        >>> from ttq_plugin import bake, measure, ternarize
        >>> model = torch.nn.Sequential(torch.nn.Linear(64, 64))
        >>> ternary = bake(ternarize(torch.nn.Sequential(torch.nn.Linear(64, 64)), ["0"], method="twn"))
        >>> report = measure(model, ternary, torch.randn(1, 64))
        >>> report.cr_gain("dense2") > 0.9
        True
    """  # noqa: DOC502 - raised by what it calls
    check_types(measure, locals())
    check_values(full_precision)
    check_values(compressed)
    _check_twins(full_precision, compressed)
    selected = select_layers(full_precision, compressed, layers, widths)
    tally = mult_adds.tally(compressed, example_input)
    tallies = (tally, mult_adds.tally(full_precision, example_input))
    twins = dict(full_precision.named_modules(remove_duplicate=False))
    seen: set[nn.Parameter] = set()
    rows = []
    for name, module in compressed.named_modules():
        if module._parameters or name in tally.mult_adds:
            twin = twins.get(name, module)  # only a module without parameters can lack a twin
            rows += _rows(name, module, twin, selected, seen, tallies)
    return CompressionReport(tuple(rows), energy_model, tally.uncounted)


def _check_twins(full_precision: nn.Module, compressed: nn.Module) -> None:
    """Raise InputError unless both models have the same parameters, by name and shape."""
    before = {name: tuple(p.shape) for name, p in full_precision.named_parameters()}
    after = {name: tuple(p.shape) for name, p in compressed.named_parameters()}
    if before != after:
        different = sorted(n for n in before.keys() | after.keys() if before.get(n) != after.get(n))
        raise InputError(
            "`full_precision` and `compressed` must have the same parameters, got models that differ in "
            f"{', '.join(different[:4])}{' ...' if len(different) > 4 else ''}: bake or export the compressed model "
            "first."
        )


def _rows(
    name: str,
    module: nn.Module,
    twin: nn.Module,
    selected: dict[nn.Parameter, Codes],
    seen: set[nn.Parameter],
    tallies: tuple[mult_adds.Tally, mult_adds.Tally],
) -> list[LayerReport]:
    """The rows of one module: one a matrix if it has several, then its own; what is in `seen` costs nothing again."""
    own = {key: p for key, p in module._parameters.items() if p is not None}
    keys = [key for key in own if key in layouts(module) or own[key] in selected]
    rows = []
    counts = _pair(tally.mult_adds.get(name, 0) for tally in tallies)
    for key in keys:
        if key != "weight":
            matrix = matrix_name(name, key)
            inside = _pair(tally.parameters.get(matrix, 0) for tally in tallies)
            rows.append(_row(matrix, module, twin, [key], key, selected, seen, inside))
            counts = (counts[0] - inside[0], counts[1] - inside[1])
    rest = [key for key in own if key == "weight" or key not in keys]
    weight = "weight" if "weight" in keys else None
    if rest or not rows or any(counts):
        rows.append(_row(name, module, twin, rest, weight, selected, seen, counts))
    return rows


def _pair(numbers: Iterable[int]) -> tuple[int, int]:
    """The compressed model's number and its twin's."""
    compressed, full_precision = numbers
    return compressed, full_precision


def _row(
    name: str,
    module: nn.Module,
    twin: nn.Module,
    keys: list[str],
    matrix: str | None,
    selected: dict[nn.Parameter, Codes],
    seen: set[nn.Parameter],
    counts: tuple[int, int],
) -> LayerReport:
    """The row of a module's parameters `keys`, one of which is its `matrix`, or none."""
    weight = module._parameters[matrix] if matrix is not None else None
    weight_fp32 = twin._parameters[matrix] if matrix is not None else None
    codes = selected.get(weight) if weight is not None else None
    kind = "float" if codes is None else codes.kind
    if weight is None or weight in seen:
        n, used, used_fp32, codes = 0, 0, 0, None
    else:
        n, used, used_fp32 = weight.numel(), mult_adds.nonzeros(weight), mult_adds.nonzeros(weight_fp32)
    scales = 0 if codes is None else codes.scales
    bits = dict.fromkeys(SCHEMES, FLOAT_BITS * n) if codes is None else weight_bits(codes)
    parameters = {key: p for key in keys if (p := module._parameters[key]) is not None}
    others = {key: p for key, p in parameters.items() if p is not weight and p not in seen}
    seen.update(parameters.values())
    return LayerReport(
        name=name,
        type=type(module).__name__,
        kind=kind,
        weights=n,
        nonzeros=used,
        others=sum(p.numel() for p in others.values()),
        scales=scales,
        bits_coo34=bits["coo34"],
        bits_dense2=bits["dense2"],
        bits_base3=bits["base3"],
        bits_entropy=bits["entropy"],
        mult_adds=counts[0],
        mult_adds_fp32=counts[1],
        transfers=transfers(used, code_bits(kind), scales) + sum(mult_adds.nonzeros(p) for p in others.values()),
        transfers_fp32=transfers(used_fp32, 32) + sum(mult_adds.nonzeros(twin._parameters[key]) for key in others),
    )
