"""Chooses a method for each layer from traces and a budget."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from ttq_plugin.core.model.held import check_trainable, check_values
from ttq_plugin.curvature.batches import as_batches, checked
from ttq_plugin.curvature.budget import Budget, as_budget
from ttq_plugin.curvature.candidates import FULL_PRECISION, WIDTHS, Candidate
from ttq_plugin.curvature.hutchinson import Batches, Loss, layer_traces
from ttq_plugin.curvature.layers import candidate_layers
from ttq_plugin.curvature.plan import Link, build_chain
from ttq_plugin.curvature.probing.cost import trace_bar
from ttq_plugin.curvature.problem import Problem, Question, Rules, build_problem, build_program
from ttq_plugin.curvature.result import Option, Row, Selection
from ttq_plugin.curvature.solve import choose, total
from ttq_plugin.curvature.traces import LayerTrace, Traces
from ttq_plugin.errors import InputError
from ttq_plugin.measures.energy import EnergyModel
from ttq_plugin.support import inputs
from ttq_plugin.support.arguments import check_types
from ttq_plugin.support.progress import progress

_PAPERS = EnergyModel()


def generate_config(
    model: nn.Module,
    loss_fn: Loss | None,
    batches: Batches | None,
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
    """Choose a method for each layer so that the loss of accuracy predicted by curvature is smallest within a budget.

    Args:
        model: A float32 or float64 module; it is left as it was.
        loss_fn: Function of (output, y) that returns a scalar; None with `traces`.
        batches: Pairs (x, y) on the model's device; None with `traces`.
        budget: The smallest share of the weights to quantise, or a `Budget` of bits, energy or sensitivity.
        methods: Methods that a layer may be given besides full precision: `int8`, `int4`, or keys of `METHODS`.
        options: Keywords of a method's quantizer, by method, such as `{"pttq": {"t_min": 1.5}}`.
        exclude: Layers that stay in full precision and do not count towards the share.
        include: Layers that are quantised whatever their curvature.
        keep_first: Whether the model's first layer stays in full precision, like the layers in `exclude`.
        keep_last: Whether the last layer does, in the order of the model's modules.
        max_probes: Number of probes of the trace estimate; with `tol`, the largest number.
        tol: Relative standard error at which the probes stop early.
        joint: Hessian-vector products per probe: None for as many as cost at most eight training steps, True for one
            over all layers, False for one per layer; see `layer_traces`.
        seed: Random seed of the probes.
        probes: Another name for `max_probes`.
        traces: Traces from an earlier call for this model. Nothing is differentiated then, `loss_fn` and `batches` are
            ignored, and an energy budget needs an `example_input`.
        scheme: How ternary weights are stored: `coo34`, `dense2`, `base3` or `entropy`.
        energy_model: Joules per operation.
        example_input: An input (batch, ...) to count operations on. An energy budget uses the first batch by default.
        show: Whether to announce what the traces will cost, and to show a progress bar.

    Returns:
        The selection, with `.chain`, `.config_list`, `.table` and `.layers`.

    Raises:
        InputError: As in `layer_traces` and `select`. Whatever can be checked before the traces is checked first.

    Examples:
        >>> import torch
        >>> from ttq_plugin import generate_config
        >>> model = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4))
        >>> batch = torch.randn(64, 16), torch.randint(4, (64,))
        >>> chosen = generate_config(model, torch.nn.functional.cross_entropy, [batch], budget=0.5, max_probes=4)
        >>> chosen.layers, chosen.config_list[0]["op_names"], chosen.share >= 0.5
        (('0',), ['0'], True)
    """  # noqa: DOC502 - raised by what it calls
    check_types(generate_config, locals())
    check_trainable(model)
    rules = Rules(tuple(exclude), tuple(include), keep_first, keep_last)
    question = Question(as_budget(budget), rules, methods, options, scheme, energy_model, example_input)
    if traces is not None:
        return _answer(model, traces, question)
    if loss_fn is None or batches is None:
        raise InputError("loss_fn and batches must be given to estimate the traces, got None; or give the traces.")
    if question.budget.energy is not None and example_input is None:
        batches = as_batches(batches, keep=isinstance(batches, Iterator))
        question = replace(question, example_input=_first_input(batches, next(model.parameters()).device))
    sizes = {name: matrix.parameter.numel() for name, matrix in candidate_layers(model).items()}
    problem = build_problem(model, sizes, question)
    _check_within_reach(problem)
    with progress(shown=show) as bars:
        found = layer_traces(
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
    return _solve(problem, found)


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
    """Choose a method for each layer from known traces, without differentiating anything.

    Each layer gets one method, and the choice is solved exactly. It minimises the sum of
    Omega = Tr(H) / n * ||w - Q(w)||^2 (HAWQ-v2, Dong et al. 2020) within the budget; under a sensitivity budget it
    minimises bits. Among equal choices it takes the one with the fewest bits. A negative trace, which is found far from
    a minimum, counts as 0. A layer without a trace, because the loss does not depend on it or because it was not
    measured, stays in full precision and does not count towards the share.

    The output projections of attention are candidates only if `include` names them, because NNI cannot quantise them.

    Args:
        model: The model that the traces belong to; it is only read.
        traces: What `layer_traces` returned.
        budget: As in `generate_config`, like the arguments below.
        methods: Methods that a layer may be given besides full precision.
        options: Keywords of a method's quantizer, by method. A threshold that would leave a sign without weights is
            lowered unless they say `on_empty="error"`.
        exclude: Layers that stay in full precision.
        include: Layers that are quantised.
        keep_first: Whether the first layer stays in full precision.
        keep_last: Whether the last layer does.
        scheme: How ternary weights are stored.
        energy_model: Joules per operation.
        example_input: An input (batch, ...) to count operations on.

    Returns:
        The selection.

    Raises:
        InputError: If the budget is out of range or cannot be met, a layer or method is unknown, or the traces are of
            another model.
    """  # noqa: DOC502 - raised by what it calls
    check_types(select, locals())
    check_values(model)
    rules = Rules(tuple(exclude), tuple(include), keep_first, keep_last)
    question = Question(as_budget(budget), rules, methods, options, scheme, energy_model, example_input)
    return _answer(model, traces, question)


def _answer(model: nn.Module, traces: Traces | Iterable[LayerTrace], question: Question) -> Selection:
    """Find the best choice for known traces."""
    known = traces if isinstance(traces, Traces) else Traces(tuple(traces))
    return _solve(build_problem(model, {layer.name: layer.weights for layer in known}, question), known)


def _check_within_reach(problem: Problem) -> None:
    """Refuse a budget that no choice meets before time is spent on traces, by taking every sensitivity as 0."""
    build_program(problem, list(problem.layers), [[0.0] * len(row) for row in problem.layers.values()])


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
    """Notes on what the numbers alone do not show."""
    notes = [
        f"{row.layer}: its trace is negative, {row.trace:.3g} +- {row.standard_error:.1g} (the weights are not at a "
        f"minimum of the loss), so its sensitivity counts as 0."
        for row in rows
        if row.trace < 0
    ]
    if unsettled:
        notes.append(
            f"{', '.join(unsettled)}: the largest number of probes was reached before the trace was known "
            f"to within `tol`."
        )
    if unused:
        notes.append(f"{', '.join(unused)}: stays in full precision, because the loss does not depend on it.")
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
