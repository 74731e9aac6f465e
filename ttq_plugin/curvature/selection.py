"""From traces and a budget to the layers that are quantised."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from torch import nn

from ttq_plugin.curvature.hutchinson import Batches, Loss, layer_traces
from ttq_plugin.curvature.layers import candidate_layers
from ttq_plugin.curvature.traces import LayerTrace, Traces
from ttq_plugin.errors import InputError

ATTENTION_OUTPUT = "NonDynamicallyQuantizableLinear"
"""`nn.MultiheadAttention.out_proj`: its weight is read without calling the module, so NNI's wrapper never acts on it.
It is taken only if `include` names it."""


@dataclass(frozen=True)
class Row:
    """One candidate: its trace, and whether it was selected."""

    layer: str
    type: str
    weights: int
    trace: float
    standard_error: float
    trace_per_weight: float
    selected: bool


@dataclass(frozen=True)
class Selection:
    """The layers to quantise, chosen by curvature.

    Attributes:
        rows: every candidate, flattest first.
        budget: share of the candidates' weights that may be taken.
        quant_dtype: NNI's name of the type; int2 is exactly -1, 0, 1.
        traces: the traces behind it, for `select` with another budget.
    """

    rows: tuple[Row, ...]
    budget: float
    quant_dtype: str
    traces: tuple[LayerTrace, ...]

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the selected layers, flattest first."""
        return tuple(row.layer for row in self.rows if row.selected)

    @property
    def share(self) -> float:
        """Share of the candidates' weights that was taken, at most `budget`."""
        return sum(row.weights for row in self.rows if row.selected) / sum(row.weights for row in self.rows)

    @property
    def config_list(self) -> list[dict[str, object]]:
        """NNI 3.0's quantisation config: the weights of these layers and nothing else."""
        return [{"op_names": list(self.layers), "target_names": ["weight"], "quant_dtype": self.quant_dtype}]

    @property
    def table(self) -> list[dict[str, object]]:
        """A dictionary a candidate, flattest first."""
        return [asdict(row) for row in self.rows]

    def to_dict(self) -> dict[str, object]:
        """Plain JSON."""
        return {
            "budget": self.budget,
            "share": self.share,
            "layers": list(self.layers),
            "config_list": self.config_list,
            "table": self.table,
        }

    def __str__(self) -> str:
        width = max(len("layer"), *(len(row.layer) for row in self.rows))
        lines = [f"   {'layer':{width}}   weights        trace   std. error   trace/weight"]
        lines += [
            f"{'*' if row.selected else ' '}  {row.layer:{width}}  {row.weights:8}  {row.trace:11.4g}  "
            f"{row.standard_error:11.2g}  {row.trace_per_weight:13.4g}"
            for row in self.rows
        ]
        return "\n".join([*lines, f"* selected: {100 * self.share:.2f} % of the weights (budget {self.budget:.0%})"])


def generate_config(
    model: nn.Module,
    loss_fn: Loss,
    batches: Batches,
    budget: float = 0.9,
    *,
    probes: int = 32,
    tol: float | None = None,
    joint: bool = True,
    seed: int = 0,
    exclude: Sequence[str] = (),
    include: Sequence[str] = (),
    traces: Iterable[LayerTrace] | None = None,
    quant_dtype: str = "int2",
) -> Selection:
    """Choose the layers to quantise: the flattest ones, up to a budget of weights (HAWQ-v2's average trace).

    Args:
        model: a float32 or float64 module; comes back as it was.
        loss_fn: (output, y) -> scalar.
        batches: pairs (x, y) on the model's device.
        budget: share of the candidates' weights, in (0, 1], never exceeded.
        probes: most probes of the trace estimate.
        tol: relative standard error at which the probes stop early.
        joint: one Hessian-vector product over all layers a probe, or (False, more precise) one a layer.
        seed: of the probes.
        exclude: layers that are no candidates.
        include: layers taken first, whatever their curvature; they count towards the budget.
        traces: of an earlier call: nothing is differentiated, `model`, `loss_fn` and `batches` are not looked at.
        quant_dtype: NNI's name of the type.

    Returns:
        The selection, with `.config_list`, `.table`, `.layers`.

    Raises:
        InputError: as in `layer_traces` and `select`.
    """  # noqa: DOC502 - raised by what it calls
    if traces is None:
        # Checked before the work as well as by `select` after it: a typing error should not cost a minute.
        _check_budget(budget)
        _check_names(candidate_layers(model), exclude, include)
        traces = layer_traces(model, loss_fn, batches, probes=probes, tol=tol, joint=joint, seed=seed)
    return select(traces, budget, exclude=exclude, include=include, quant_dtype=quant_dtype)


def select(
    traces: Traces | Iterable[LayerTrace],
    budget: float = 0.9,
    *,
    exclude: Sequence[str] = (),
    include: Sequence[str] = (),
    quant_dtype: str = "int2",
) -> Selection:
    """Take the flattest layers first, skipping each that would exceed the budget; differentiates nothing.

    Order: trace / weights, signed (a negative trace, far from a minimum, counts as flat), ties in the model's order.
    Attention's output projections are candidates only if `include` names them: NNI cannot quantise them.

    Args:
        traces: of `layer_traces`.
        budget: share of the candidates' weights, in (0, 1], never exceeded.
        exclude: layers that are no candidates.
        include: layers taken first; they count towards the budget.
        quant_dtype: NNI's name of the type.

    Returns:
        The selection.

    Raises:
        InputError: a budget outside (0, 1], too small for `include` or for any layer, or an unknown layer.
    """
    _check_budget(budget)
    known = tuple(traces)
    _check_names([layer.name for layer in known], exclude, include)
    candidates = [
        layer
        for layer in sorted(known, key=lambda layer: layer.trace_per_weight)
        if layer.name not in exclude and (layer.type != ATTENTION_OUTPUT or layer.name in include)
    ]
    if not candidates:
        raise InputError("At least one candidate layer is needed, got none: exclude fewer, or include one.")
    total = sum(layer.weights for layer in candidates)
    taken = _fill([layer for layer in candidates if layer.name in include], candidates, budget * total * (1 + 1e-12))
    if not set(include) <= taken or not taken:
        needed = sum(x.weights for x in candidates if x.name in include) or min(x.weights for x in candidates)
        raise InputError(
            f"`budget` must leave room for {'the included layers' if include else 'at least one layer'}, got {budget}: "
            f"the smallest possible is {math.ceil(1e4 * needed / total) / 1e4}."
        )
    rows = tuple(
        Row(x.name, x.type, x.weights, x.trace, x.standard_error, x.trace_per_weight, x.name in taken)
        for x in candidates
    )
    return Selection(rows, budget, quant_dtype, known)


def _fill(first: list[LayerTrace], candidates: list[LayerTrace], room: float) -> set[str]:
    """First fit: names in the order given, each taken if it still fits in `room` weights."""
    taken: set[str] = set()
    for layer in first + candidates:
        if layer.name not in taken and layer.weights <= room:
            taken.add(layer.name)
            room -= layer.weights
    return taken


def _check_budget(budget: float) -> None:
    if not 0 < budget <= 1:
        raise InputError(
            f"`budget` must lie in (0, 1], got {budget}: it is the share of the weights that may be quantised."
        )


def _check_names(known: Iterable[str], exclude: Sequence[str], include: Sequence[str]) -> None:
    known = list(known)
    for option, names in (("exclude", exclude), ("include", include)):
        unknown = [name for name in names if name not in known]
        if unknown:
            raise InputError(f"`{option}` must name candidate layers, got {unknown[0]!r}; they are {', '.join(known)}.")
    both = sorted(set(exclude) & set(include))
    if both:
        raise InputError(f"A layer can be in `exclude` or in `include`, got {both[0]!r} in both: drop one.")
