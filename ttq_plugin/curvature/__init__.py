"""Curvature of the loss, layer by layer, and the layers to quantise that follow from it. Needs torch and PyHessian."""

from ttq_plugin.curvature.hutchinson import layer_traces
from ttq_plugin.curvature.selection import Row, Selection, generate_config, select
from ttq_plugin.curvature.traces import LayerTrace, Traces

__all__ = ["LayerTrace", "Row", "Selection", "Traces", "generate_config", "layer_traces", "select"]
