from collections.abc import Callable
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

class ConstructHelper:
    callable_obj: Callable[..., Any]
    args: list[Any]
    kwargs: dict[str, Any]

class OptimizerConstructHelper(ConstructHelper):
    ttq_missing: list[tuple[int, ...]]
    ttq_given: Any
    def __init__(self, model: nn.Module, optimizer_class: type[Optimizer], *args: Any, **kwargs: Any) -> None: ...
    def call(self, wrapped_model: nn.Module, origin2wrapped_name_map: dict[str, str] | None) -> Optimizer: ...
    @staticmethod
    def from_trace(model: nn.Module, optimizer_trace: Optimizer) -> OptimizerConstructHelper: ...

class LRSchedulerConstructHelper(ConstructHelper):
    def call(self, optimizer: Optimizer) -> LRScheduler: ...
    @staticmethod
    def from_trace(lr_scheduler_trace: LRScheduler) -> LRSchedulerConstructHelper: ...
