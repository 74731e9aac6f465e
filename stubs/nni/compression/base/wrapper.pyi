from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from .target_space import DistillationTargetSpace, PruningTargetSpace, QuantizationTargetSpace

class ModuleWrapper(nn.Module):
    module: nn.Module
    module_forward: Callable[..., Any]
    name: str
    pruning_target_spaces: dict[str, PruningTargetSpace]
    quantization_target_spaces: dict[str, QuantizationTargetSpace]
    distillation_target_spaces: dict[str, DistillationTargetSpace]
    fused_modules: list[nn.Module]
    is_register_bias: bool
    is_bias: str
    _track_funcs: list[Callable[[ModuleWrapper, str, Tensor], None]]
    # The targets, which NNI moves here from the layer; one that is not a target is missing.
    weight: nn.Parameter
    bias: nn.Parameter
    def wrap(self) -> None: ...
    def unwrap(self) -> None: ...
    def patch_params(self, targets_dict: dict[str, Tensor]) -> dict[str, Tensor]: ...
    def forward(self, *args: Any, **kwargs: Any) -> Any: ...

def track_target_shape(wrapper: ModuleWrapper, target_name: str, target: Tensor) -> None: ...
