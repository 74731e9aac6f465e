"""A method for each layer, with the evidence for it and its cost."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ttq_plugin.curvature.budget import Budget
from ttq_plugin.curvature.candidates import FULL_PRECISION, WIDTHS
from ttq_plugin.curvature.plan import Link, chain_to_json
from ttq_plugin.curvature.traces import LayerTrace


@dataclass(frozen=True)
class Option:
    """One method for one layer.

    Attributes:
        method: `fp32`, `int8`, `int4` or a key of `METHODS`.
        sensitivity: Omega = Tr(H) / n * ||w - Q(w)||^2 (HAWQ-v2, Dong et al. 2020), in units of the loss; negative if
            the trace is, far from a minimum.
        standard_error: Standard error of the sensitivity, from the trace's.
        distance: ||w - Q(w)||^2.
        bits: Number of bits of the stored weight, scales included.
    """

    method: str
    sensitivity: float
    standard_error: float
    distance: float
    bits: float


@dataclass(frozen=True)
class Row:
    """One layer that could be quantised: its trace, its options, and the method chosen."""

    layer: str
    type: str
    weights: int
    trace: float
    standard_error: float
    trace_per_weight: float
    method: str
    options: tuple[Option, ...]

    @property
    def selected(self) -> bool:
        """Whether the layer is quantised."""
        return self.method != FULL_PRECISION

    @property
    def chosen(self) -> Option:
        """The option that was chosen."""
        return next(option for option in self.options if option.method == self.method)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return {**asdict(self), "options": [asdict(option) for option in self.options], "selected": self.selected}


@dataclass(frozen=True)
class Selection:
    """A method for each layer, chosen by curvature.

    Attributes:
        rows: Every layer that could be quantised, least curved first.
        budget: What limited the choice.
        methods: Layer -> method, of every layer with a trace.
        chain: The compressors that carry it out, NNI's QATQuantizer first.
        sensitivity: Sum of the chosen Omegas, negative ones counted as 0, as the budget counts them.
        sensitivity_error: Sum of their standard errors, because the probes are shared and errors need not cancel.
        gap: (sensitivity - proved lower bound) / sensitivity, or of bits under a sensitivity budget; 0: proved optimal.
        bits: Number of bits of the whole stored model, ternary weights under `scheme`; as quantised now, before any
            training, which moves bits under `coo34` and `entropy`, and energy, with the number of zeros.
        bits_fp32: Number of bits of the full-precision model.
        energy: Joules per sample, None where no example input was given.
        energy_fp32: Energy of the full-precision model.
        scheme: How ternary weights are stored.
        traces: The traces behind it, for `select` with another budget.
        notes: Notes on negative traces, missing candidates and lowered thresholds.
    """

    rows: tuple[Row, ...]
    budget: Budget
    methods: dict[str, str]
    chain: tuple[Link, ...]
    sensitivity: float
    sensitivity_error: float
    gap: float
    bits: float
    bits_fp32: int
    energy: float | None
    energy_fp32: float | None
    scheme: str
    traces: tuple[LayerTrace, ...]
    notes: tuple[str, ...] = ()

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the quantised layers, least curved first."""
        return tuple(row.layer for row in self.rows if row.selected)

    @property
    def share(self) -> float:
        """Share of these layers' weights that is quantised."""
        return sum(row.weights for row in self.rows if row.selected) / sum(row.weights for row in self.rows)

    @property
    def widths(self) -> dict[str, int]:
        """Bits of each layer on an integer grid."""
        return {layer: WIDTHS[method] for layer, method in self.methods.items() if method in WIDTHS}

    @property
    def config_list(self) -> list[dict[str, Any]]:
        """NNI 3.0's config list of all quantised layers, an entry a type; with several compressors see `chain`."""
        return [dict(entry) for entry in _merged([entry for link in self.chain for entry in link.config_list])]

    @property
    def table(self) -> list[dict[str, Any]]:
        """One dictionary per layer, least curved first."""
        return [row.to_dict() for row in self.rows]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        plain = ("sensitivity", "sensitivity_error", "gap", "bits", "bits_fp32", "energy", "energy_fp32", "scheme")
        return {
            "budget": self.budget.to_dict(),
            "share": self.share,
            "layers": list(self.layers),
            "methods": self.methods,
            **{name: getattr(self, name) for name in plain},
            "config_list": self.config_list,
            "chain": chain_to_json(self.chain),
            "notes": list(self.notes),
            "table": self.table,
            "traces": [asdict(layer) for layer in self.traces],
        }

    def summary(self) -> list[str]:
        """The totals and the notes, in sentences."""
        gain = 100 * (1 - self.bits / self.bits_fp32)
        energy = "" if self.energy is None else f", {self.energy:.3g} J a sample"
        proof = "proved optimal" if self.gap == 0 else f"within {100 * self.gap:.2g} % of the optimum"
        return [
            f"selected: {100 * self.share:.2f} % of these weights (budget: {self.budget})",
            f"sensitivity {self.sensitivity:.3g} +- {self.sensitivity_error:.1g}, {proof}; {self.bits:,.0f} bits "
            f"({self.scheme}; {gain:.2f} % less than full precision){energy}",
            *(f"note: {note}" for note in self.notes),
        ]

    def __str__(self) -> str:
        return as_text(self)


def _merged(entries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Merge entries that differ only in their layers."""
    found: list[dict[str, Any]] = []
    for entry in entries:
        rest = {key: value for key, value in entry.items() if key != "op_names"}
        same = [other for other in found if {k: v for k, v in other.items() if k != "op_names"} == rest]
        if same:
            same[0]["op_names"] += entry["op_names"]
        else:
            found.append({"op_names": list(entry["op_names"]), **rest})
    return found


def as_text(selection: Selection) -> str:
    """The selection as plain text: a line a layer, one column a method with its Omega, a star where quantised."""
    names = list(dict.fromkeys(o.method for row in selection.rows for o in row.options if o.method != FULL_PRECISION))
    width = max(len("layer"), *(len(row.layer) for row in selection.rows))
    columns = "".join(f"  {'Omega ' + name:>18}" for name in names)
    lines = [f"   {'layer':{width}}   weights        trace   std. error   trace/weight{columns}  method"]
    for row in selection.rows:
        omegas = {o.method: f"{o.sensitivity:.3g} +- {o.standard_error:.1g}" for o in row.options}
        lines.append(
            f"{'*' if row.selected else ' '}  {row.layer:{width}}  {row.weights:8}  {row.trace:11.4g}  "
            f"{row.standard_error:11.2g}  {row.trace_per_weight:13.4g}"
            + "".join(f"  {omegas.get(name, '-'):>18}" for name in names)
            + f"  {row.method}{' (negative)' if row.trace < 0 else ''}"
        )
    return "\n".join([*lines, *selection.summary()])
