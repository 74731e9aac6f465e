"""What the plugin keeps on NNI's wrapper of a layer."""

from ttq_plugin.core.state import TernaryState

__all__ = ["TernaryState"]
