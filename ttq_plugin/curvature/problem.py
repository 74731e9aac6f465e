"""The choice as an optimisation problem: the possible methods of each layer, their costs, and the limits."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from ttq_plugin.core.model.matrices import matrices
from ttq_plugin.curvature.budget import Budget
from ttq_plugin.curvature.candidates import FULL_PRECISION, Candidate, Catalogue, catalogue, read_methods
from ttq_plugin.curvature.layers import expanded, passed_over
from ttq_plugin.curvature.solve import ROUNDING, Numbers, Picks, smallest, total
from ttq_plugin.errors import InputError
from ttq_plugin.measures.energy import EnergyModel
from ttq_plugin.measures.storage import SCHEMES


@dataclass(frozen=True)
class Rules:
    """Which layers a user keeps or quantises whatever the curvature; see `generate_config`."""

    exclude: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    keep_first: bool = False
    keep_last: bool = False


@dataclass(frozen=True)
class Question:
    """What a user asks for, except the curvature.

    Attributes:
        budget: The limit.
        rules: Which layers are kept or quantised whatever the curvature.
        methods: Names of the methods that a layer may be given, as the user wrote them.
        options: Keywords of a method's quantizer, by method.
        scheme: How ternary weights are stored.
        energy_model: Joules per operation.
        example_input: An input of the model, (batch, ...), to count operations on; None if energy is not wanted.
    """

    budget: Budget
    rules: Rules = Rules()
    methods: Iterable[str] = ("pttq",)
    options: Mapping[str, Mapping[str, Any]] | None = None
    scheme: str = "base3"
    energy_model: EnergyModel = EnergyModel()
    example_input: Any = None

    def check(self) -> None:
        """Refuse questions that no model could answer.

        Raises:
            InputError: For an unknown scheme, or an energy budget without an example input.
        """
        if self.scheme not in SCHEMES:
            raise InputError(f"`scheme` must be one of {', '.join(SCHEMES)}, got {self.scheme!r}.")
        if self.budget.energy is not None and self.example_input is None:
            raise InputError("An energy budget needs an `example_input` (batch, ...) to count operations on, got none.")


@dataclass(frozen=True)
class Problem:
    """Everything about the choice that needs no curvature.

    Attributes:
        layers: Candidates of each layer; full precision is not among them if `include` names the layer.
        weights: Layer -> number of weights.
        catalogue: All candidates, and what the rest of the model costs.
        budget: The limit.
        include: Layers that must be quantised.
        options: Method -> keywords of its quantizer.
        scheme: How ternary weights are stored.
        energy_model: Joules per operation.
        notes: Notes on layers that are not candidates.
    """

    layers: dict[str, tuple[Candidate, ...]]
    weights: Mapping[str, int]
    catalogue: Catalogue
    budget: Budget
    include: tuple[str, ...]
    options: dict[str, dict[str, Any]]
    scheme: str
    energy_model: EnergyModel
    notes: tuple[str, ...] = ()

    def bits(self, layers: Sequence[str] = (), picks: Picks = ()) -> float:
        """Bits of the whole stored model; layers that are not named stay in full precision."""
        return self.catalogue.total_bits(self._chosen(layers, picks))

    def energy(self, layers: Sequence[str] = (), picks: Picks = ()) -> float | None:
        """Joules per sample of the whole model, likewise; None without an example input."""
        return self.catalogue.total_energy(self._chosen(layers, picks), self.energy_model)

    def _chosen(self, layers: Sequence[str], picks: Picks) -> list[Candidate]:
        picked = {name: self.layers[name][pick] for name, pick in zip(layers, picks, strict=True)}
        return [picked.get(name, row[0]) for name, row in self.catalogue.layers.items()]


def build_problem(model: nn.Module, layers: Mapping[str, int], question: Question) -> Problem:
    """Check the question and try every method on every layer.

    Args:
        model: The model in full precision; it is only read.
        layers: Number of weights of each layer with a trace, by name.
        question: What the user asks for.

    Returns:
        The problem, with at least one layer that can be quantised.

    Raises:
        InputError: For a question that cannot be asked of this model.
    """
    question.check()
    names, own = read_methods(question.methods, question.options)
    _check_layers(model, layers)
    rules = _in_matrices(model, question.rules)
    kept = kept_layers(model, layers, rules)
    free = [name for name in layers if name not in kept]
    if not free:
        raise InputError("At least one candidate layer is needed, got none: exclude fewer, or include one.")
    known = catalogue(model, free, names, own, question.scheme, question.example_input)
    # A layer that nothing can quantise is no candidate.
    rows = {name: row for name, row in known.layers.items() if len(row) > 1}
    if lost := [name for name in rules.include if name not in rows] or ([] if rows else free):
        reasons = " ".join(note for note in known.notes if note.startswith(f"{lost[0]}:"))
        raise InputError(f"A layer that can be quantised is needed, {lost[0]!r} cannot be: {reasons}")
    offered = {name: row[1:] if name in rules.include else row for name, row in rows.items()}
    notes = tuple(
        f"{name}: stays in full precision, like all of nn.MultiheadAttention that `include` does not name."
        for name in layers
        if name in kept and name not in rules.exclude and matrices(model)[name].of_attention
    )
    notes += tuple(f"{name}: stays in full precision, {why}." for name, why in passed_over(model) if name not in layers)
    return Problem(
        layers=offered,
        weights=dict(layers),
        catalogue=known,
        budget=question.budget,
        include=rules.include,
        options=own,
        scheme=question.scheme,
        energy_model=question.energy_model,
        notes=notes,
    )


def _in_matrices(model: nn.Module, rules: Rules) -> Rules:
    """The rules with the names of matrices for those of the modules that hold them."""
    known = matrices(model)
    return replace(
        rules,
        exclude=tuple(expanded(model, known, rules.exclude)),
        include=tuple(expanded(model, known, rules.include)),
    )


def _check_layers(model: nn.Module, layers: Mapping[str, int]) -> None:
    """Raise InputError unless the model has these layers, with as many weights."""
    known = matrices(model)
    for name, n in layers.items():
        has = f"{known[name].parameter.numel()} there" if name in known else "no such layer"
        if has != f"{n} there":
            raise InputError(f"`traces` must be of this model, got {n} weights in {name!r}; the model has {has}.")


def kept_layers(model: nn.Module, layers: Iterable[str], rules: Rules) -> set[str]:
    """Layers that stay in full precision by the rules; also without any weights of interest, to check the names early.

    Args:
        model: The model.
        layers: Names of those that could be quantised.
        rules: What the user wants.

    Returns:
        Names, those of attention's projections among them that `include` does not name.

    Raises:
        InputError: For rules that name other layers or contradict each other.
    """
    rules = _in_matrices(model, rules)
    layers = list(layers)
    for option, names in (("exclude", rules.exclude), ("include", rules.include)):
        if unknown := [name for name in names if name not in layers]:
            raise InputError(
                f"`{option}` must name candidate layers, got {unknown[0]!r}; they are {', '.join(layers)}."
            )
    known = matrices(model)
    rows = list(_layers_in_order(model).values())
    kept = dict.fromkeys(rules.exclude, "exclude")
    kept |= dict.fromkeys(rows[0], "keep_first") if rules.keep_first else {}
    kept |= dict.fromkeys(rows[-1], "keep_last") if rules.keep_last else {}
    for name in rules.include:
        if name in kept:
            raise InputError(f"A layer can be in `{kept[name]}` or in `include`, got {name!r} in both: drop one.")
    return {*kept, *(name for name in layers if known[name].of_attention and name not in rules.include)}


def _layers_in_order(model: nn.Module) -> dict[nn.Module, list[str]]:
    """Each module that holds matrices -> their names, in the model's order."""
    owners = {(module, key): matrix.name for matrix in matrices(model).values() for module, key in matrix.owners}
    found: dict[nn.Module, list[str]] = {}
    for module in model.modules():
        for key in module._parameters:
            if (module, key) in owners:
                found.setdefault(module, []).append(owners[module, key])
    return found


@dataclass(frozen=True)
class IntegerProgram:
    """The budget in numbers: one for each candidate, what their sum may be at most, and the exact test."""

    sizes: Numbers
    limit: float
    fits: Callable[[Picks], bool]


def build_program(problem: Problem, layers: Sequence[str], omegas: Numbers) -> IntegerProgram:
    """The budget in numbers.

    Args:
        problem: The question.
        layers: Layers to choose for; all others stay in full precision.
        omegas: Sensitivity of each of their candidates, at least 0.

    Returns:
        The program, which the candidates of the smallest sizes meet.

    Raises:
        InputError: If no choice meets the budget; the message says what can be met.
    """
    kind, limit = problem.budget.kind, problem.budget.limit
    rows = [problem.layers[name] for name in layers]
    sizes = omegas
    if kind == "share":
        # Weights left in full precision: whole numbers. Those included are never among them, so this can be met.
        counts = [problem.weights[name] for name in layers]
        sizes = [[n * (c.method == FULL_PRECISION) for c in row] for n, row in zip(counts, rows, strict=True)]
        limit = sum(counts) - math.ceil(limit * sum(counts) * (1 - 1e-12))
    elif kind == "bits":
        sizes = [[candidate.bits for candidate in row] for row in rows]
    elif kind == "energy":
        sizes = [[problem.energy_model.total(c.mult_adds, c.words) for c in row] for row in rows]

    def figure(picks: Picks) -> float:
        """The limited quantity, as the selection reports it."""
        whole = {"bits": problem.bits, "energy": problem.energy}
        return (whole[kind](layers, picks) or 0.0) if kind in whole else total(sizes, picks)

    least = smallest(sizes)
    rounding = ROUNDING * limit if kind in ("energy", "sensitivity") else 0.0
    if figure(least) > limit + rounding:
        raise InputError(_beyond(problem.budget, figure(least), problem.include))
    rest = figure(least) - total(sizes, least)
    return IntegerProgram(sizes, limit - rest, lambda picks: figure(picks) <= limit + rounding)


def _beyond(budget: Budget, least: float, include: tuple[str, ...]) -> str:
    """The error for a budget that is too small."""
    if budget.kind == "bits":
        possible = f"{math.ceil(least)}"
    else:
        digits = 3 - math.floor(math.log10(least))
        possible = f"{math.ceil(least * 10.0**digits) / 10.0**digits:.4g}"
    included = f", {', '.join(include)} included" if include else ""
    return (
        f"`budget` cannot be met: the smallest possible is {possible} ({budget.unit}), with every method offered here"
        f"{included}; got {budget.limit:g}."
    )
