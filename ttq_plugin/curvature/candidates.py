"""The effect of each method on each layer: distance from the weight, bits, mult-adds and transfers."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ttq_plugin.core import METHODS, get_method
from ttq_plugin.core.model.copying import copied
from ttq_plugin.core.model.layers import channel_of, matrix_channel
from ttq_plugin.core.model.matrices import Matrix, matrices, part_name
from ttq_plugin.core.model.select import check_matrix
from ttq_plugin.core.zeros import Member, move_to_share
from ttq_plugin.errors import InputError
from ttq_plugin.measures.energy import CODE_BITS, EnergyModel, transfers
from ttq_plugin.measures.mult_adds import count, nonzeros
from ttq_plugin.measures.storage import FLOAT_BITS, integer, weight_bits
from ttq_plugin.measures.ternary import codes_of

FULL_PRECISION = "fp32"

WIDTHS = {"int8": 8, "int4": 4}
"""Methods that put a weight on an integer grid, by NNI's QATQuantizer, and their bits."""


@dataclass(frozen=True)
class Candidate:
    """One method for one layer.

    Attributes:
        method: `fp32`, a key of `WIDTHS`, or of `METHODS`.
        distance: ||w - Q(w)||^2, in units of the weight squared.
        bits: Number of bits of the stored weight, scales included.
        words: 32-bit words moved for the weight (pTTQ paper, eq. 8).
        mult_adds: Multiply-accumulates of the whole layer a sample; 0 where no example input was given.
    """

    method: str
    distance: float
    bits: float
    words: int
    mult_adds: int = 0


@dataclass(frozen=True)
class Catalogue:
    """Every candidate of every layer, and what the rest of the model costs.

    Attributes:
        layers: Layer -> its candidates, full precision first.
        bits: Number of bits of the parameters that no candidate changes.
        words: 32-bit words moved for them.
        mult_adds: A sample, of the modules that no candidate changes; None where no example input was given.
        notes: Notes on missing candidates and lowered thresholds.
    """

    layers: dict[str, tuple[Candidate, ...]]
    bits: int
    words: int
    mult_adds: int | None
    notes: tuple[str, ...]

    def total_bits(self, chosen: Iterable[Candidate]) -> float:
        """Bits of the whole stored model with one candidate a layer."""
        return self.bits + math.fsum(candidate.bits for candidate in chosen)

    def total_energy(self, chosen: Sequence[Candidate], model: EnergyModel) -> float | None:
        """EC_T of the whole model, joules per sample (pTTQ paper, eq. 6); None without mult-adds."""
        if self.mult_adds is None:
            return None
        mult_adds = self.mult_adds + sum(candidate.mult_adds for candidate in chosen)
        return model.total(mult_adds, self.words + sum(candidate.words for candidate in chosen))


def integer_weight(w: Tensor, bits: int) -> Tensor:
    """A weight on a symmetric integer grid: s round(w / s), s = max|w| / (2^(bits-1) - 1), half to even.

    As NNI's `QATQuantizer` quantises weights in its symmetric scheme (after Jacob et al. 2018).

    Args:
        w: Any shape, floating point.
        bits: Number of bits of a code, at least 2.

    Returns:
        At most 2^bits - 1 values, in w's shape and dtype.
    """
    most = 2 ** (bits - 1) - 1
    scale: Tensor = (w.abs().amax() / most).clamp_min(torch.finfo(torch.float32).eps)
    return scale * (w / scale).clamp(-most, most).round()


def read_methods(
    methods: Iterable[str], options: Mapping[str, Mapping[str, Any]] | None
) -> tuple[tuple[str, ...], dict[str, dict[str, Any]]]:
    """The methods to choose from, without full precision, and their options; duplicates count once.

    Args:
        methods: Names; `fp32` may be among them and changes nothing.
        options: Method -> keywords of its quantizer, `granularity` among them.

    Returns:
        The methods and the options, checked.

    Raises:
        InputError: For an unknown method, none at all, or options that do not belong to one of them.
    """
    known = (FULL_PRECISION, *WIDTHS, *METHODS)
    names = tuple(dict.fromkeys([methods] if isinstance(methods, str) else methods))
    if unknown := [name for name in names if name not in known]:
        raise InputError(f"`methods` must name some of {', '.join(known)}, got {unknown[0]!r}.")
    names = tuple(name for name in names if name != FULL_PRECISION)
    if not names:
        raise InputError(f"`methods` must name at least one that quantises, among {', '.join(known[1:])}; got none.")
    own = {name: dict(given) for name, given in (options or {}).items() if given}
    for name, given in own.items():
        if name not in names:
            raise InputError(f"`options` must belong to one of the methods {', '.join(names)}, got {name!r}.")
        if name in WIDTHS:
            raise InputError(f"{name} takes no options (one symmetric grid per layer), got {', '.join(given)}.")
        get_method(name).configure(**{k: v for k, v in given.items() if k != "granularity"})
        channel_of(nn.Linear(1, 1), given.get("granularity"))  # its message, before any layer
    return names, own


@torch.no_grad()
def catalogue(
    model: nn.Module,
    layers: Iterable[str],
    methods: Sequence[str],
    options: Mapping[str, Mapping[str, Any]],
    scheme: str,
    example_input: Any = None,
) -> Catalogue:
    """Try every method on every layer; the model is only read.

    Args:
        model: The model, in full precision.
        layers: Names of weight matrices.
        methods: The methods, as `read_methods` returns them.
        options: Method -> keywords of its quantizer.
        scheme: One of `storage.SCHEMES`, for ternary weights.
        example_input: (batch, ...); None leaves mult-adds out.

    Returns:
        The candidates; a layer that a method cannot quantise lacks it, and the notes say why.
    """
    known = matrices(model)
    chosen: dict[str, Matrix] = {}
    notes: list[str] = []
    for name in layers:
        try:
            check_matrix(known[name])
            chosen[name] = known[name]
        except InputError as error:
            notes.append(_note(name, "stays in full precision", error))
    counts = {} if example_input is None else _mult_adds(model, chosen, example_input)
    found = {name: [_full_precision(matrix, counts.get(name, 0))] for name, matrix in chosen.items()}
    rest = {p for p in model.parameters()} - {matrix.parameter for matrix in chosen.values()}
    rest_counts = counts.get("")
    twin = None if example_input is None else copied(model)
    for method in methods:
        for name, matrix in chosen.items():
            try:
                candidate, quantised, said = _try(matrix, method, options.get(method, {}), scheme)
            except InputError as error:
                notes.append(_note(name, f"{method} is not a candidate", error))
                continue
            # A matrix product counts each weight as often as the others.
            share = nonzeros(quantised) / max(nonzeros(matrix.parameter), 1)
            found[name].append(replace(candidate, mult_adds=round(counts.get(name, 0) * share)))
            notes += [_note(name, method, sentence) for sentence in said]
            if twin is not None:
                twin.get_parameter(matrix.paths[0]).copy_(quantised)
        if twin is not None and example_input is not None:
            alone = [name for name in chosen if chosen[name].alone]
            found = _counted(found, method, alone, count(twin, example_input))
    return Catalogue(
        {name: tuple(row) for name, row in found.items()},
        FLOAT_BITS * sum(p.numel() for p in rest),
        sum(nonzeros(p) for p in rest),
        rest_counts,
        tuple(notes),
    )


def _mult_adds(model: nn.Module, chosen: Mapping[str, Matrix], example_input: Any) -> dict[str, int]:
    """Mult-adds a sample of each matrix, with the bias if the layer has no other matrix; of all else under ``""``."""
    counts = count(model, example_input)
    total, found = sum(counts.values()), dict[str, int]()
    twin = copied(model)
    for name, matrix in chosen.items():
        if matrix.alone:
            found[name] = counts.get(name, 0)
            continue
        # What a layer of several matrices counts, or layers of one, is told apart by taking this one away.
        weight = twin.get_parameter(matrix.paths[0])
        kept = weight.clone()
        weight.zero_()
        found[name] = total - sum(count(twin, example_input).values())
        weight.copy_(kept)
    return {**found, "": total - sum(found.values())}


def _note(layer: str, what: str, why: object) -> str:
    return f"{layer}: {what}, {str(why).removeprefix(f'{layer}: ')}"


def _full_precision(matrix: Matrix, mult_adds: int) -> Candidate:
    weight = matrix.parameter
    return Candidate(FULL_PRECISION, 0.0, FLOAT_BITS * weight.numel(), nonzeros(weight), mult_adds)


def _try(matrix: Matrix, method: str, options: Mapping[str, Any], scheme: str) -> tuple[Candidate, Tensor, list[str]]:
    """The candidate, the quantised weight, and what was changed to make it possible."""
    name, w = matrix.name, matrix.parameter.detach()
    n, notes = w.numel(), list[str]()
    if method in WIDTHS:
        if not matrix.alone:
            raise InputError(f"{name}: NNI's quantizers of integers cannot wrap it.")
        width, scales = WIDTHS[method], 1
        quantised = integer_weight(w, width)
        bits: float = integer(n, width, scales)
    else:
        quantised, notes = _ternary(matrix, method, options)
        codes = codes_of(quantised, matrix.layout.channel, matrix.layout.parts)
        if codes is None:
            raise InputError(f"{name}: {method} leaves values that are not finite; exclude it.")
        width, scales, bits = CODE_BITS[codes.kind], codes.scales, weight_bits(codes)[scheme]
    if not bool(torch.isfinite(quantised).all()):
        raise InputError(f"{name}: weights must be finite, found NaN or infinity; repair or retrain the layer first.")
    distance = torch.sum((w.double() - quantised.double()) ** 2).item()
    return Candidate(method, distance, bits, transfers(nonzeros(quantised), width, scales)), quantised, notes


def _ternary(matrix: Matrix, method: str, options: Mapping[str, Any]) -> tuple[Tensor, list[str]]:
    """The weight as the method would use it; a threshold that empties a sign is lowered unless `options` say not."""
    own = {"on_empty": "clip", **options}
    channel = matrix_channel(matrix.name, matrix.layout, own.pop("granularity", None))
    ternarizer = get_method(method).configure(**own).configure(channel=channel)
    parts = matrix.layout.parts if channel is None else 1
    made, notes = [], list[str]()
    for index, part in enumerate(matrix.parameter.detach().chunk(parts)):
        where = part_name(matrix.name, index, parts)
        params, said = ternarizer.init(part, where)
        if ternarizer.zeros is not None:
            # The share is one of all layers; of this one alone it is the best guess.
            move_to_share([Member(where, ternarizer, params, part, part.add)], ternarizer.zeros)
            params, said = ternarizer.init(part, where, params["thresholds"])
        made.append(ternarizer.weights(part, params))
        notes += said
    return (made[0] if parts == 1 else torch.cat(made)), notes


def _counted(
    found: dict[str, list[Candidate]], method: str, alone: Sequence[str], counts: Mapping[str, int]
) -> dict[str, list[Candidate]]:
    """The candidates, those of `method` for layers of one matrix with what these really take, biases included."""
    return {
        name: [
            replace(candidate, mult_adds=counts.get(name, 0))
            if candidate.method == method and name in alone
            else candidate
            for candidate in row
        ]
        if name in alone
        else row
        for name, row in found.items()
    }
