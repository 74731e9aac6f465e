from collections.abc import Callable

from torch import Tensor

from .target_space import PruningTargetSpace, QuantizationTargetSpace

pruning_apply_methods: dict[str, Callable[[Tensor, PruningTargetSpace], Tensor]]
quant_apply_methods: dict[str, Callable[[Tensor, QuantizationTargetSpace], Tensor]]
