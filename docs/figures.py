"""Figures of the documentation, drawn from the methods themselves."""

from __future__ import annotations

import io

import torch
from matplotlib.figure import Figure

from ttq_plugin.core import get_method

SHOWN = ("twn", "ttq", "attq", "pttq")


def drawn() -> dict[str, str]:
    """The figures as SVG by file name."""
    return {"methods.svg": steps()}


def steps() -> str:
    """What each method makes of the same weights: the ternary weight over the latent one, and where the zeros lie."""
    w = torch.randn(4000, generator=torch.Generator().manual_seed(0)) * 0.05 + 0.01
    w = w.sort().values
    figure = Figure(figsize=(9, 2.6), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(SHOWN), sharey=True), SHOWN, strict=True):
        method = get_method(name)
        params, _ = method.init(w)
        q = method.weights(w, params).detach()
        axes.hist(w.tolist(), bins=60, density=True, color="0.85")
        axes.set_title(f"{name}: {(q == 0).float().mean():.0%} zeros", fontsize=10)
        axes.set_xlabel("latent weight")
        axes.set_yticks([])
        twin = axes.twinx()
        twin.plot(w.tolist(), q.tolist(), color="tab:red")
        twin.set_ylim(-0.2, 0.2)
        if name == SHOWN[-1]:
            twin.set_ylabel("ternary weight", color="tab:red")
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()
