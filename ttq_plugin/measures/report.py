"""The report of one compression: a row for each layer, and totals that are sums over the rows."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ttq_plugin.measures.energy import EnergyModel
from ttq_plugin.measures.storage import FLOAT_BITS, SCHEMES
from ttq_plugin.measures.ternary import Kind


@dataclass(frozen=True)
class LayerReport:
    """One module with parameters of its own, or with mult-adds; one matrix of a module that has several.

    Attributes:
        name: Name of the module, empty for parameters of the model itself; or of a matrix, as `lstm.weight_hh_l0`.
        type: Name of the module's class.
        kind: `ternary`, `binary` or the integer grid (such as `int8`) if the layer was selected, otherwise `float`.
        weights: Number of weights of its matrix; 0 if it has none, or if they are shared and were counted before.
        nonzeros: Number of these weights that are not zero in the compressed model.
        others: Number of its other parameters, such as bias and normalisation, of 32 bits each.
        scales: Number of 32-bit scales stored with the weights.
        bits_coo34: Bits of the weights and scales, without `others`, at 34 bits per non-zero weight.
        bits_dense2: The same at two bits per weight.
        bits_base3: The same at five weights per byte.
        bits_entropy: The same at the Shannon bound.
        mult_adds: Mult-adds per sample in the compressed model; the module's row has those of all its matrices.
        mult_adds_fp32: Mult-adds per sample in full precision.
        transfers: 32-bit words moved in the compressed model, including `others`.
        transfers_fp32: 32-bit words moved in full precision.
        bits_disk: Bits of codes and scales in the written file; None without a file, or if the layer is not packed.
    """

    name: str
    type: str
    kind: Kind
    weights: int
    nonzeros: int
    others: int
    scales: int
    bits_coo34: float
    bits_dense2: float
    bits_base3: float
    bits_entropy: float
    mult_adds: int
    mult_adds_fp32: int
    transfers: int
    transfers_fp32: int
    bits_disk: int | None = None

    @property
    def selected(self) -> bool:
        """Whether the layer was quantised."""
        return self.kind != "float"

    @property
    def integer(self) -> bool:
        """Whether its weight lies on an integer grid."""
        return self.kind.startswith("int")

    @property
    def zeros(self) -> int:
        """Weights that are zero."""
        return self.weights - self.nonzeros


@dataclass(frozen=True)
class CompressionReport:
    """Costs of a compressed model compared with the full-precision model: fractions in [0, 1], bits and joules.

    Attributes:
        layers: One row for each layer.
        energy_model: The constants of the energy model.
        uncounted: Modules with operators that multiply but have no counting rule, with the operators' names.
        bits_disk: Bits of the whole written file, with its header and buffers; None if no file was written.
    """

    layers: tuple[LayerReport, ...]
    energy_model: EnergyModel
    uncounted: tuple[str, ...] = ()
    bits_disk: int | None = None

    def written(self, size: int, layers: Mapping[str, int]) -> "CompressionReport":
        """Add the actual size of a file to the sizes under the storage schemes.

        Args:
            size: Size of the file, in bytes.
            layers: Bytes of codes and scales of each packed layer, by name.

        Returns:
            The same report with `bits_disk`.
        """
        rows = (replace(row, bits_disk=8 * layers[row.name] if row.name in layers else None) for row in self.layers)
        return replace(self, layers=tuple(rows), bits_disk=8 * size)

    @property
    def selected(self) -> tuple[LayerReport, ...]:
        """The quantised layers."""
        return tuple(row for row in self.layers if row.selected)

    @property
    def kinds(self) -> dict[str, str]:
        """Each quantised layer's kind."""
        return {row.name: row.kind for row in self.selected}

    @property
    def srqw(self) -> float | None:
        """Share of zeros among the weights of the ternary and binary layers; None if no layer is ternary.

        Layers on an integer grid are left out, because their zeros come from rounding and not from a method.
        Binary ones have no zeros by construction.
        """
        rows = [row for row in self.selected if not row.integer]
        if all(row.kind == "binary" for row in rows):
            return None
        return sum(row.zeros for row in rows) / sum(row.weights for row in rows)

    def bits(self, scheme: str) -> float:
        """Bits of the whole model under a scheme of `storage.SCHEMES`; buffers are not counted."""
        return sum(float(getattr(row, f"bits_{scheme}")) + FLOAT_BITS * row.others for row in self.layers)

    @property
    def bits_fp32(self) -> int:
        """Bits of the full-precision model, 32 per parameter."""
        return sum(FLOAT_BITS * (row.weights + row.others) for row in self.layers)

    def cr_gain(self, scheme: str) -> float:
        """CR_G^T = 1 - nbits(Q) / nbits(FP) of the whole model under a storage scheme.

        Args:
            scheme: One of `storage.SCHEMES`. `coo34` is the papers' scheme, `dense2` and `base3` are forms that can be
                written to a file, and `entropy` is a bound that no such file beats.

        Returns:
            The gain, at most 1. It is negative if the model grew.
        """
        return 1 - self.bits(scheme) / self.bits_fp32

    @property
    def cr_gain_total(self) -> float:
        """CR_G^T under coo34, as the papers report it."""
        return self.cr_gain("coo34")

    @property
    def cr_gain_quantized(self) -> float:
        """CR_G^Q: the gain of the selected layers' weights only, including integer grids."""
        full = sum(FLOAT_BITS * row.weights for row in self.selected)
        return 1 - sum(row.bits_coo34 for row in self.selected) / full

    @property
    def disk(self) -> dict[str, float]:
        """The written file: bits and gain of the whole file, and the gain of the selected layers' codes and scales.

        The last one is given if every selected layer is packed. Empty if no file was written.
        """
        if self.bits_disk is None:
            return {}
        found: dict[str, float] = {"bits_disk": self.bits_disk, "cr_gain_disk": 1 - self.bits_disk / self.bits_fp32}
        bits = [row.bits_disk for row in self.selected]
        if None not in bits:
            full = sum(FLOAT_BITS * row.weights for row in self.selected)
            found["cr_gain_quantized_disk"] = 1 - sum(b for b in bits if b is not None) / full
        return found

    @property
    def mult_adds(self) -> int:
        """Mult-adds per sample of the compressed model."""
        return sum(row.mult_adds for row in self.layers)

    @property
    def mult_adds_fp32(self) -> int:
        """Mult-adds per sample of the full-precision model."""
        return sum(row.mult_adds_fp32 for row in self.layers)

    @property
    def ec_total(self) -> float:
        """EC_T of the compressed model, in joules per sample."""
        return self.energy_model.total(self.mult_adds, sum(row.transfers for row in self.layers))

    @property
    def ec_total_fp32(self) -> float:
        """EC_T of the full-precision model, in joules per sample."""
        return self.energy_model.total(self.mult_adds_fp32, sum(row.transfers_fp32 for row in self.layers))

    @property
    def ec_gain_total(self) -> float:
        """EC_G^T = (EC_T(FP) - EC_T(Q)) / EC_T(FP), signed (pTTQ paper, eq. 9, without its absolute value)."""
        full = self.ec_total_fp32
        return (full - self.ec_total) / full if full else 0.0

    def to_dict(self) -> dict[str, float | int | str | None]:
        """Flat JSON: the report keys of the public contract."""
        return {
            "srqw": self.srqw,
            "cr_gain_total": self.cr_gain_total,
            "cr_gain_quantized": self.cr_gain_quantized,
            "bits_coo34": self.bits("coo34"),
            "bits_dense2": self.bits("dense2"),
            "bits_base3": self.bits("base3"),
            "bits_entropy": self.bits("entropy"),
            "bits_fp32": self.bits_fp32,
            "cr_gain_dense2": self.cr_gain("dense2"),
            "cr_gain_base3": self.cr_gain("base3"),
            "cr_gain_entropy": self.cr_gain("entropy"),
            "mult_adds": self.mult_adds,
            "mult_adds_fp32": self.mult_adds_fp32,
            "ec_total": self.ec_total,
            "ec_total_fp32": self.ec_total_fp32,
            "ec_gain_total": self.ec_gain_total,
            "energy_model": str(self.energy_model),
            **self.disk,
        }

    def __str__(self) -> str:
        return table(self)


def table(report: CompressionReport) -> str:
    """The report as plain text: the quantised layers, then the totals in percent, kilobytes (1000) and joules."""
    width = max([5, *(len(row.name) for row in report.selected)])
    written = report.bits_disk is not None
    disk = "  disk kB" if written else ""
    head = (
        f"{'layer':{width}}  kind      weights   zeros %  coo34 kB{disk}  dense2 kB  base3 kB  entropy kB    mult-adds"
    )
    lines = [head]
    for row in report.selected:
        disk = f"  {'' if row.bits_disk is None else f'{row.bits_disk / 8e3:.2f}':>7}" if written else ""
        lines.append(
            f"{row.name:{width}}  {row.kind:7}  {row.weights:8}  {100 * row.zeros / max(row.weights, 1):8.2f}  "
            f"{row.bits_coo34 / 8e3:8.2f}{disk}  {row.bits_dense2 / 8e3:9.2f}  {row.bits_base3 / 8e3:8.2f}  "
            f"{row.bits_entropy / 8e3:10.2f}  {row.mult_adds:11}"
        )
    sizes = ", ".join(f"{s} {report.bits(s) / 8e3:.2f} ({100 * report.cr_gain(s):.2f} %)" for s in SCHEMES)
    only = "binary" if any(row.kind == "binary" for row in report.selected) else "integer"
    srqw = f"none ({only})" if report.srqw is None else f"{100 * report.srqw:.2f} %"
    weights = "ternary" if any(row.integer for row in report.selected) else "quantised"
    lines += [
        f"zeros among {weights} weights {srqw}; compression gain {100 * report.cr_gain_total:.2f} % of the model, "
        f"{100 * report.cr_gain_quantized:.2f} % of the quantised weights",
        f"whole model, kB (gain): fp32 {report.bits_fp32 / 8e3:.2f}, {sizes}",
        f"mult-adds a sample {report.mult_adds} (fp32 {report.mult_adds_fp32}); energy {report.ec_total:.3g} J "
        f"(fp32 {report.ec_total_fp32:.3g} J), gain {100 * report.ec_gain_total:.2f} %, at {report.energy_model}",
    ]
    if report.bits_disk is not None:
        quantized = report.disk.get("cr_gain_quantized_disk")
        share = "" if quantized is None else f", {100 * quantized:.2f} % of the quantised weights"
        lines.append(
            f"file {report.bits_disk / 8e3:.2f} kB: compression gain {100 * report.disk['cr_gain_disk']:.2f} % of the "
            f"model{share}"
        )
    if report.uncounted:
        lines.append(f"mult-adds not counted: {', '.join(report.uncounted)}")
    return "\n".join(lines)
