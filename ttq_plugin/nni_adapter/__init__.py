"""The plugin's classes in NNI's terms, and everything that works around NNI 3.0."""

from ttq_plugin.nni_adapter.quantizers import ATTQQuantizer, PTTQQuantizer, TernaryQuantizer, TTQQuantizer
from ttq_plugin.nni_adapter.register import register

QUANTIZERS = {quantizer.method_name: quantizer for quantizer in (TTQQuantizer, ATTQQuantizer, PTTQQuantizer)}
"""The quantizer of each method."""

__all__ = ["QUANTIZERS", "ATTQQuantizer", "PTTQQuantizer", "TTQQuantizer", "TernaryQuantizer", "register"]
