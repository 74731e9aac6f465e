"""Checks which published numbers follow from the papers' equations, by recomputing gains from published zeros."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy

import torch
from torch import Tensor, nn

from ttq_plugin.measures import CompressionReport, measure
from ttq_plugin.reproduce.published import Published

TOLERANCE = 0.35
"""Points; the papers round, and average gains and zeros apart."""

READABLE = {"cr_gain_total": "CR_G^T", "cr_gain_quantized": "CR_G^Q", "ec_gain_total": "EC_G^T"}


def contradictions(paper: Published, model: nn.Module, x: Tensor) -> Iterator[str]:
    """Compare the published rows with what their zeros imply (34 bits per non-zero weight; eq. 6-9).

    Args:
        paper: The task.
        model: The model of its architecture; not changed.
        x: One sample, shape (1, ...).

    Yields:
        One sentence a number that is off by more than ``TOLERANCE``.
    """
    for method, columns in paper.main.items():
        if method == "fp":
            continue
        zeros = columns.get("srqw")
        report = _report(model, paper.layers, None if zeros is None else zeros[0] / 100, x)
        for column, words in READABLE.items():
            number, ours = columns.get(column), 100 * float(getattr(report, column))
            if number is not None and abs(number[0] - ours) > TOLERANCE:
                given = "one bit a weight" if zeros is None else f"{zeros[0]:.2f} % zeros"
                yield f"{method}: {words} is published as {number[0]:.2f} %; {given} give {ours:.2f} %."


def _report(model: nn.Module, layers: tuple[str, ...], zeros: float | None, x: Tensor) -> CompressionReport:
    """The report of the model with that share of zeros in each layer, spread at random; None: binary."""
    twin = deepcopy(model).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name in layers:
            weight = twin.get_submodule(name).weight
            assert isinstance(weight, Tensor)
            draw = torch.rand(weight.shape, generator=generator)
            signs = torch.where(torch.rand(weight.shape, generator=generator) < 0.5, -1.0, 1.0)
            keep = torch.ones_like(draw) if zeros is None else (draw >= draw.flatten().quantile(zeros)).float()
            weight.copy_(signs * keep)
    return measure(model.eval(), twin, x, layers=layers)
