"""The mathematics of ternary weights; it depends only on torch."""

from ttq_plugin.core.contract import Params
from ttq_plugin.core.methods import METHODS, get_method
from ttq_plugin.core.model.attach import bake, parameter_groups, project_, ternarize
from ttq_plugin.core.ternarizer import Ternarizer

__all__ = ["METHODS", "Params", "Ternarizer", "bake", "get_method", "parameter_groups", "project_", "ternarize"]
