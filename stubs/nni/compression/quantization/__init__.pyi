from ..base.compressor import Quantizer
from ..utils import Evaluator

class QATQuantizer(Quantizer):
    current_step: int

class LsqQuantizer(Quantizer):
    def register_trigger(self, evaluator: Evaluator) -> None: ...
