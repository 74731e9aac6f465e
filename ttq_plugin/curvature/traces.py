"""Trace estimates: a value and a standard error for each layer."""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class LayerTrace:
    """The Hessian trace of one layer's weight.

    Attributes:
        name: The layer's name.
        type: Its class.
        weights: Number of weights.
        trace: Estimate of sum_i d2L / dw_i2, in units of loss / weight^2.
        standard_error: Standard error of the trace, from the spread of the probes.
        probes: Probes drawn.
    """

    name: str
    type: str
    weights: int
    trace: float
    standard_error: float
    probes: int

    @property
    def trace_per_weight(self) -> float:
        """HAWQ-v2's average trace (Dong et al. 2020, section 3.1): Tr(H) / n."""
        return self.trace / self.weights

    @property
    def relative_error(self) -> float:
        """Standard error / |trace|; 0 where both are 0, infinite where only the trace is."""
        if self.standard_error == 0:
            return 0.0
        return self.standard_error / abs(self.trace) if self.trace else math.inf


@dataclass(frozen=True)
class Traces:
    """The traces of all measured layers, in the model's order; a sequence, and a mapping by name.

    Attributes:
        layers: One entry for each layer.
        unused: Layers left out because the loss does not depend on them.
        samples: Data points the loss was averaged over.
        seed: Random seed of the probes.
        products: Hessian-vector products per probe and batch; 1 means one product over all layers.
        tol: The requested relative standard error; None if a number of probes was requested.
    """

    layers: tuple[LayerTrace, ...]
    unused: tuple[str, ...] = ()
    samples: int = 0
    seed: int = 0
    products: int = 1
    tol: float | None = None

    @property
    def unsettled(self) -> tuple[str, ...]:
        """Layers whose relative error was still `tol` or more when the probes ran out; none without `tol`."""
        return tuple(layer.name for layer in self.layers if self.tol and layer.relative_error >= self.tol)

    def __iter__(self) -> Iterator[LayerTrace]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    def __getitem__(self, key: int | str) -> LayerTrace:
        if isinstance(key, int):
            return self.layers[key]
        for layer in self.layers:
            if layer.name == key:
                return layer
        raise KeyError(key)

    def to_dict(self) -> dict[str, object]:
        """Plain JSON."""
        return {**asdict(self), "layers": [asdict(layer) for layer in self.layers], "unused": list(self.unused)}
