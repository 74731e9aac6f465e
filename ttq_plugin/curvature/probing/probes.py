"""Products of the Hessian with random vectors: over one layer, a block of layers or all of them.

A product over a block of layers is cheaper than one product per layer, but brings the noise of the block's other
layers, and in trained networks the flat layers drown in the noise of the steep ones. So each layer's part of the vector
has a scale s: for v_l = s_l e_l with entries +-1 of e, v_l . (H v)_l / s_l^2 has the mean Tr(H_ll) whatever the scales
are, and sum_m (s_m / s_l)^2 ||H_lm||^2 of noise from the others. With ||H_lm||^2 about ||H_ll|| ||H_mm||, as in a
Gauss-Newton matrix, s_l^2 = 1 / ||H_ll|| makes each layer's noise from each other layer no more than its own. And as
||(H v)_l||^2 is then about proportional to ||H_ll||, whatever the scales, one or two products show what they should be.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from pyhessian.utils import hessian_vector_product
from torch import Tensor, nn

from ttq_plugin.curvature.probing.gradients import explained

FLATTEST = 1e-6
"""The smallest ||(H v)_l||, relative to the block's largest, that a scale compensates; below, it is rounding error."""

Gradients = Sequence[Tensor | None]


@dataclass(frozen=True)
class Probes:
    """How a probe is drawn.

    Attributes:
        weights: The weights of all layers.
        blocks: (first, end) of the layers that share a product; together, all layers in order.
        scales: The scales of each layer's part of the vector.
    """

    weights: list[nn.Parameter]
    blocks: tuple[tuple[int, int], ...]
    scales: tuple[float, ...]
    _norms: tuple[Tensor, ...] = field(default=(), repr=False)

    @classmethod
    def of(cls, weights: list[nn.Parameter], count: int) -> "Probes":
        """Probes with this many blocks of nearly equal numbers of layers, without scales."""
        return cls(weights, cut(len(weights), count), (1.0,) * len(weights))

    def sample(self, gradients: Gradients, generator: torch.Generator) -> Tensor:
        """One sample of each layer's trace, (layers,) in float64 on the weights' device."""
        return torch.cat([self._product(gradients, block, generator)[0] for block in self.blocks])

    def look(self, gradients: Gradients, generator: torch.Generator) -> "Probes":
        """The same probes with the scales estimated so far; the sample of this product is not used."""
        norms = [self._product(gradients, block, generator)[1] for block in self.blocks]
        return replace(self, _norms=(*self._norms, torch.cat(norms).cpu())).cut(len(self.blocks))

    def cut(self, count: int) -> "Probes":
        """Probes with this many blocks, with the scales estimated so far."""
        blocks = cut(len(self.weights), count)
        scales: list[float] = []
        for first, end in blocks:
            # Each look has a factor of its own, the same for all layers of a block: only the ratios within it count.
            seen = torch.zeros(end - first, dtype=torch.float64, device="cpu")
            for norms in self._norms:
                part = norms[first:end].nan_to_num(0, 0, 0)
                logs = part.clamp_min(max(FLATTEST * part.max().item(), torch.finfo(torch.float32).tiny)).log()
                seen += (logs - logs.mean()) / len(self._norms)
            scales += (seen.max() - seen).exp().tolist()
        return replace(self, blocks=blocks, scales=tuple(scales))

    def _product(
        self, gradients: Gradients, block: tuple[int, int], generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Samples v_l . (H v)_l / s_l^2 for a new v over a block, and ||(H v)_l||; (layers,) in float64."""
        weights, scales = self.weights[slice(*block)], self.scales[slice(*block)]
        # A block's vectors and products are gone before the next one's are made.
        vectors = [_signs(w, s, generator) for w, s in zip(weights, scales, strict=True)]
        products = _products(gradients[slice(*block)], weights, vectors)
        forms = [torch.sum(v * hv, dtype=torch.float64) for v, hv in zip(vectors, products, strict=True)]
        squares = torch.tensor(scales, dtype=torch.float64, device=forms[0].device) ** 2
        return torch.stack(forms) / squares, torch.stack([hv.norm().double() for hv in products])


def cut(layers: int, count: int) -> tuple[tuple[int, int], ...]:
    """Cut layers into this many consecutive blocks (first, end) of nearly equal size; at most one per layer."""
    count = max(1, min(count, layers))
    ends = [round(i * layers / count) for i in range(count + 1)]
    return tuple(zip(ends, ends[1:], strict=False))


def _products(gradients: Gradients, weights: list[nn.Parameter], vectors: list[Tensor]) -> list[Tensor]:
    curved = [(g, v) for g, v in zip(gradients, vectors, strict=True) if g is not None and g.requires_grad]
    # PyHessian's product raises where a weight is not part of the graph (an unused layer, a loss linear in it); with
    # 0 x sum(w) added, those second derivatives are the zeros that they are, and no memory is needed.
    anchors = [w.sum() for w in weights]
    with explained():
        return list(
            hessian_vector_product(
                [*(g for g, _ in curved), *anchors], weights, [*(v for _, v in curved), *map(torch.zeros_like, anchors)]
            )
        )


def _signs(weight: Tensor, scale: float, generator: torch.Generator) -> Tensor:
    """Entries +-scale like `weight`, drawn on the CPU: the same on every device."""
    bits = torch.randint(0, 2, (weight.numel(),), generator=generator, dtype=torch.int8, device="cpu")
    return (2 * bits - 1).to(weight).mul_(scale).view_as(weight)
