from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from .constructor_helper import LRSchedulerConstructHelper

class Evaluator:
    model: Any
    _initialization_complete: bool
    _optimizer_add_param_group: Callable[..., None]
    def _init_optimizer_helpers(self, pure_model: nn.Module) -> None: ...
    def bind_model(self, model: nn.Module, param_names_map: dict[str, str] | None = None) -> None: ...
    def unbind_model(self) -> None: ...
    def patch_loss(self, patch: Callable[[Tensor, Any], Tensor]) -> None: ...
    def patch_optimizer_step(
        self,
        before_step_tasks: Sequence[Callable[[], object]],
        after_step_tasks: Sequence[Callable[[], object]],
    ) -> None: ...
    def train(self, max_steps: int | None = None, max_epochs: int | None = None) -> None: ...

class LightningEvaluator(Evaluator):
    trainer: Any
    _opt_returned_dicts: bool
    _lr_scheduler_helpers: list[LRSchedulerConstructHelper]
    def __init__(self, trainer: Any, data_module: Any, dummy_input: Any | None = None) -> None: ...

class TransformersEvaluator(Evaluator):
    trainer: Any
    def __init__(self, trainer: Any, dummy_input: Any | None = None) -> None: ...

class TorchEvaluator(Evaluator):
    def __init__(
        self,
        training_func: Callable[..., None],
        optimizers: Optimizer | list[Optimizer],
        training_step: Callable[..., Any],
        lr_schedulers: Any | None = None,
        dummy_input: Any | None = None,
        evaluating_func: Callable[..., Any] | None = None,
    ) -> None: ...
