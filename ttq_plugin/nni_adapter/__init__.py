"""The plugin's NNI compressors, and all workarounds for NNI 3.0."""

from ttq_plugin.nni_adapter.chain import QuantizerChain, compress_chain
from ttq_plugin.nni_adapter.health import Health, LayerHealth
from ttq_plugin.nni_adapter.pruners import PRUNERS, ATTQPruner, PTTQPruner, TernaryPruner, TTQPruner
from ttq_plugin.nni_adapter.quantizers import (
    QUANTIZERS,
    ATTQQuantizer,
    BinaryQuantizer,
    PTTQQuantizer,
    TernaryQuantizer,
    TTQQuantizer,
    TWNQuantizer,
)
from ttq_plugin.nni_adapter.register import register

__all__ = [
    "PRUNERS",
    "QUANTIZERS",
    "ATTQPruner",
    "ATTQQuantizer",
    "BinaryQuantizer",
    "Health",
    "LayerHealth",
    "PTTQPruner",
    "PTTQQuantizer",
    "QuantizerChain",
    "TTQPruner",
    "TTQQuantizer",
    "TWNQuantizer",
    "TernaryPruner",
    "TernaryQuantizer",
    "compress_chain",
    "register",
]

register()
