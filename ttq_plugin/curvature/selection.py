"""From traces and a budget to a method for each layer."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ttq_plugin.curvature.batches import as_batches, checked
from ttq_plugin.curvature.budget import Budget, as_budget
from ttq_plugin.curvature.candidates import FULL_PRECISION, WIDTHS, Candidate
from ttq_plugin.curvature.hutchinson import Batches, Loss, layer_traces
from ttq_plugin.curvature.layers import candidate_layers
from ttq_plugin.curvature.plan import Link, build_chain
from ttq_plugin.curvature.probing.cost import trace_bar
from ttq_plugin.curvature.problem import Problem, Rules, build_problem, build_program
from ttq_plugin.curvature.result import Option, Row, Selection
from ttq_plugin.curvature.solve import choose, total
from ttq_plugin.curvature.traces import LayerTrace, Traces
from ttq_plugin.errors import InputError
from ttq_plugin.measures.energy import EnergyModel
from ttq_plugin.support import inputs
from ttq_plugin.support.progress import progress

_PAPERS = EnergyModel()


def generate_config(
    model: nn.Module,
    loss_fn: Loss,
    batches: Batches,
    budget: float | Budget = 0.9,
    *,
    methods: Sequence[str] = ("pttq",),
    options: Mapping[str, Mapping[str, Any]] | None = None,
    exclude: Sequence[str] = (),
    include: Sequence[str] = (),
    keep_first: bool = False,
    keep_last: bool = False,
    max_probes: int = 32,
    tol: float | None = None,
    joint: bool | None = None,
    seed: int = 0,
    probes: int | None = None,
    traces: Traces | Iterable[LayerTrace] | None = None,
    scheme: str = "base3",
    energy_model: EnergyModel = _PAPERS,
    example_input: Any = None,
    show: bool = True,
) -> Selection:
    """Choose a method for each layer: the least loss of accuracy, as curvature predicts it, within a budget.

    Args:
        model: a float32 or float64 module; comes back as it was.
        loss_fn: (output, y) -> scalar.
        batches: pairs (x, y) on the model's device.
        budget: share of the weights to quantise at least, or a `Budget` of bits, energy or sensitivity.
        methods: what a layer may get beside full precision: `int8`, `int4`, keys of `METHODS`.
        options: method -> keywords of its quantizer, such as `{"pttq": {"t_min": 1.5}}`.
        exclude: layers that stay in full precision, and do not count in the share.
        include: layers that are quantised, whatever their curvature.
        keep_first: the model's first layer stays in full precision, like one in `exclude`.
        keep_last: the same for the last one, in the order of the model's modules.
        max_probes: probes of the trace estimate; with `tol`, at most.
        tol: relative standard error at which the probes stop early.
        joint: Hessian-vector products a probe: None for as many as fit into eight training steps, True for one over
            all layers, False for one a layer; see `layer_traces`.
        seed: of the probes.
        probes: another name of `max_probes`.
        traces: of an earlier call for this model: nothing is differentiated, `loss_fn` and `batches` are not looked at
            (an energy budget takes an `example_input` then).
        scheme: how ternary weights are stored, one of `coo34`, `dense2`, `base3`, `entropy`.
        energy_model: joules an operation.
        example_input: (batch, ...), for energy; under an energy budget the first batch serves by default.
        show: whether to say what the traces will cost before they are estimated, and to show a progress bar.

    Returns:
        The selection, with `.chain`, `.config_list`, `.table`, `.layers`.

    Raises:
        InputError: as in `layer_traces` and `select`; what can be known before the traces is said before.

    Examples:
        >>> import torch
        >>> from ttq_plugin import generate_config
        >>> model = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4))
        >>> batch = torch.randn(64, 16), torch.randint(4, (64,))
        >>> chosen = generate_config(model, torch.nn.functional.cross_entropy, [batch], budget=0.5, max_probes=4)
        >>> chosen.layers, chosen.config_list[0]["op_names"], chosen.share >= 0.5
        (('0',), ['0'], True)
    """  # noqa: DOC502 - raised by what it calls
    wish = as_budget(budget)
    if traces is None:
        sizes = {name: matrix.parameter.numel() for name, matrix in candidate_layers(model).items()}
        if wish.energy is not None and example_input is None:
            batches = as_batches(batches, keep=isinstance(batches, Iterator))
            example_input = _first_input(batches, next(model.parameters()).device)
    else:
        traces = _kept(traces)
        sizes = {layer.name: layer.weights for layer in traces}
    problem = build_problem(
        model,
        sizes,
        wish,
        Rules(tuple(exclude), tuple(include), keep_first, keep_last),
        methods=methods,
        options=options,
        scheme=scheme,
        energy_model=energy_model,
        example_input=example_input,
    )
    if traces is None:
        # Nothing is sensitive yet: only whether any choice at all meets the budget.
        build_program(problem, list(problem.layers), [[0.0] * len(row) for row in problem.layers.values()])
        with progress(shown=show) as bars:
            traces = layer_traces(
                model,
                loss_fn,
                batches,
                max_probes=max_probes,
                probes=probes,
                tol=tol,
                joint=joint,
                seed=seed,
                on_probe=trace_bar(bars),
            )
    return _solve(problem, traces)


def select(
    model: nn.Module,
    traces: Traces | Iterable[LayerTrace],
    budget: float | Budget = 0.9,
    *,
    methods: Sequence[str] = ("pttq",),
    options: Mapping[str, Mapping[str, Any]] | None = None,
    exclude: Sequence[str] = (),
    include: Sequence[str] = (),
    keep_first: bool = False,
    keep_last: bool = False,
    scheme: str = "base3",
    energy_model: EnergyModel = _PAPERS,
    example_input: Any = None,
) -> Selection:
    """Choose a method for each layer from traces that are known; differentiates nothing.

    One candidate a layer, solved exactly: the sum of Omega = Tr(H) / n * ||w - Q(w)||^2 (HAWQ-v2, Dong et al.
    2020) is least within the budget (under a sensitivity budget: bits are least); among equals, the fewest
    bits. A negative trace, far from a minimum, counts as 0 there. A layer without a trace, on which the loss does not
    depend or which was not measured, stays in full precision and does not count in the share.

    Attention's output projections are candidates only if `include` names them: NNI cannot quantise them.

    Args:
        model: the one that the traces are of; only read.
        traces: of `layer_traces`.
        budget: as in `generate_config`, like the rest.
        methods: what a layer may get beside full precision.
        options: method -> keywords of its quantizer; a threshold that empties a sign is lowered unless they say
            `on_empty="error"`.
        exclude: layers that stay in full precision.
        include: layers that are quantised.
        keep_first: the first layer stays in full precision.
        keep_last: the last layer does.
        scheme: how ternary weights are stored.
        energy_model: joules an operation.
        example_input: (batch, ...), for energy.

    Returns:
        The selection.

    Raises:
        InputError: a budget out of its range or that cannot be met, an unknown layer or method, or traces of another
            model.
    """  # noqa: DOC502 - raised by what it calls
    traces = _kept(traces)
    problem = build_problem(
        model,
        {layer.name: layer.weights for layer in traces},
        as_budget(budget),
        Rules(tuple(exclude), tuple(include), keep_first, keep_last),
        methods=methods,
        options=options,
        scheme=scheme,
        energy_model=energy_model,
        example_input=example_input,
    )
    return _solve(problem, traces)


def _kept(traces: Traces | Iterable[LayerTrace]) -> Traces:
    return traces if isinstance(traces, Traces) else Traces(tuple(traces))


def _solve(problem: Problem, traces: Traces) -> Selection:
    """The best choice among the layers that have a trace."""
    layers = [layer for layer in traces if layer.name in problem.layers]
    names = [layer.name for layer in layers]
    unused = [name for name in problem.layers if name not in names]
    if lost := sorted(set(unused) & set(problem.include)) or ([] if layers else unused):
        raise InputError(
            f"A layer to quantise must have a trace, {lost[0]!r} has none: the loss does not depend on it."
        )
    options = [[_option(layer, candidate) for candidate in problem.layers[layer.name]] for layer in layers]
    omegas = [[max(option.sensitivity, 0.0) for option in row] for row in options]
    bits = [[option.bits for option in row] for row in options]
    program = build_program(problem, names, omegas)
    costs, ties = (bits, omegas) if problem.budget.kind == "sensitivity" else (omegas, bits)
    choice = choose(costs, program.sizes, program.limit, ties, program.fits)
    picked = [row[pick] for row, pick in zip(options, choice.picks, strict=True)]
    rows = [
        Row(x.name, x.type, x.weights, x.trace, x.standard_error, x.trace_per_weight, option.method, tuple(row))
        for x, row, option in zip(layers, options, picked, strict=True)
    ]
    rows.sort(key=lambda row: row.trace_per_weight)
    methods = {row.layer: row.method for row in rows if row.selected}
    return Selection(
        rows=tuple(rows),
        budget=problem.budget,
        methods={layer.name: methods.get(layer.name, FULL_PRECISION) for layer in traces},
        chain=_chain(methods, problem.options),
        sensitivity=total(omegas, choice.picks),
        sensitivity_error=math.fsum(option.standard_error for option in picked),
        gap=choice.gap,
        bits=problem.bits(names, choice.picks),
        bits_fp32=int(problem.bits()),
        energy=problem.energy(names, choice.picks),
        energy_fp32=problem.energy(),
        scheme=problem.scheme,
        traces=traces.layers,
        notes=(*problem.notes, *problem.catalogue.notes, *_notes(rows, unused, traces.unsettled)),
    )


def _option(layer: LayerTrace, candidate: Candidate) -> Option:
    """HAWQ-v2's sensitivity (Dong et al. 2020): Omega = Tr(H) / n * ||w - Q(w)||^2, signed."""
    return Option(
        method=candidate.method,
        sensitivity=layer.trace_per_weight * candidate.distance,
        standard_error=layer.standard_error / layer.weights * candidate.distance,
        distance=candidate.distance,
        bits=candidate.bits,
    )


def _chain(methods: Mapping[str, str], options: Mapping[str, Mapping[str, Any]]) -> tuple[Link, ...]:
    groups: dict[str, list[str]] = {}
    for layer, method in methods.items():
        groups.setdefault(method, []).append(layer)
    widths = {bits: groups.get(method, []) for method, bits in WIDTHS.items()}
    return build_chain(widths, {m: layers for m, layers in groups.items() if m not in WIDTHS}, options)


def _notes(rows: Sequence[Row], unused: Sequence[str], unsettled: Sequence[str]) -> list[str]:
    """What the numbers alone would not tell."""
    notes = [
        f"{row.layer}: its trace is negative, {row.trace:.3g} +- {row.standard_error:.1g} (no minimum), "
        "so its sensitivity counts as 0."
        for row in rows
        if row.trace < 0
    ]
    if unsettled:
        notes.append(f"{', '.join(unsettled)}: the probes ran out before the trace was known to `tol`.")
    if unused:
        notes.append(f"{', '.join(unused)}: no trace, the loss does not depend on it; stays in full precision.")
    if not any(row.selected for row in rows):
        notes.append("The budget is met in full precision: nothing is quantised.")
    return notes


def _first_input(batches: Batches, device: torch.device) -> Any:
    """One sample of the first batch, (1, ...)."""
    # A shuffling loader draws its order from the global generator.
    with torch.random.fork_rng(devices=[]):
        first = next(iter(batches), None)
    if first is None:
        raise InputError("`batches` must hold at least one pair (x, y), got none: pass a list or a loader with data.")
    return inputs.index(checked(first, 0, device)[0], slice(1))
