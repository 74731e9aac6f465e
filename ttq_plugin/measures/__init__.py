"""What a compressed model costs: sparsity, bits under each storage scheme, mult-adds, energy. Needs torch only."""

from ttq_plugin.measures.compare import measure
from ttq_plugin.measures.energy import EnergyModel
from ttq_plugin.measures.report import CompressionReport, LayerReport
from ttq_plugin.measures.storage import SCHEMES
from ttq_plugin.measures.ternary import Codes, codes_of
from ttq_plugin.measures.untouched import untouched

__all__ = [
    "SCHEMES",
    "Codes",
    "CompressionReport",
    "EnergyModel",
    "LayerReport",
    "codes_of",
    "measure",
    "untouched",
]
