"""Curvature of the loss, layer by layer, and the methods that follow from it. Needs torch, PyHessian and SciPy."""

from ttq_plugin.curvature.budget import Budget
from ttq_plugin.curvature.hutchinson import layer_traces
from ttq_plugin.curvature.plan import Link, chain_from_json, chain_to_json
from ttq_plugin.curvature.result import Option, Row, Selection
from ttq_plugin.curvature.selection import generate_config, select
from ttq_plugin.curvature.traces import LayerTrace, Traces

__all__ = [
    "Budget",
    "LayerTrace",
    "Link",
    "Option",
    "Row",
    "Selection",
    "Traces",
    "chain_from_json",
    "chain_to_json",
    "generate_config",
    "layer_traces",
    "select",
]
