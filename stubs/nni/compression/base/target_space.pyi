from enum import Enum
from typing import Any, Literal

from torch import Tensor

from .wrapper import ModuleWrapper

class TargetType(Enum):
    INPUT = "input"
    OUTPUT = "output"
    PARAMETER = "parameter"

class TargetSpace:
    _wrapper: ModuleWrapper
    @property
    def setting(self) -> dict[str, Any]: ...
    @property
    def target(self) -> Tensor | None: ...
    @property
    def type(self) -> TargetType: ...

class PruningTargetSpace(TargetSpace):
    apply_method: str
    mask: Tensor | None
    sparse_ratio: float | None

class QuantizationTargetSpace(TargetSpace):
    apply_method: str
    scale: Tensor | None
    zero_point: Tensor | None
    @property
    def quant_bits(self) -> int: ...
    @property
    def quant_scheme(self) -> Literal["affine", "symmetric"] | None: ...

class DistillationTargetSpace(TargetSpace):
    apply_method: str
