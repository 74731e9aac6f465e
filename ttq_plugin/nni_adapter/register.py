"""Putting the methods into NNI: where it looks up how a target is transformed, and where users look up compressors."""

from __future__ import annotations

import functools
from typing import Any

from nni.common import is_traceable
from nni.compression.base import apply_method as nni_apply
from nni.compression.utils import TorchEvaluator
from torch import Tensor
from torch.optim import Optimizer

from ttq_plugin.errors import InputError

APPLY_METHOD = "ternary"
"""The name under which NNI's wrappers find this plugin (``target_space.apply_method``)."""


def apply_ternary(target: Tensor, target_space: Any) -> Tensor:
    """What NNI's wrapper calls in each forward: latent weight in, ternary weight out.

    Args:
        target: the latent weight that the wrapper holds.
        target_space: NNI's description of the target; its wrapper holds the layer's ``TernaryState``.

    Returns:
        The ternary weight, differentiable.
    """
    result: Tensor = target_space._wrapper.ternary(target)
    return result


def register() -> None:
    """Register the plugin with NNI; calling it again changes nothing."""
    nni_apply.quant_apply_methods[APPLY_METHOD] = apply_ternary
    if not hasattr(TorchEvaluator.__init__, "__wrapped__"):
        TorchEvaluator.__init__ = _explain_untraced(TorchEvaluator.__init__)


def _explain_untraced(original: Any) -> Any:
    """NNI asserts without a message that optimisers and schedulers are traced; this says it in a sentence first."""

    @functools.wraps(original)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        named = (
            dict(zip(("training_func", "optimizers", "training_step", "lr_schedulers"), args, strict=False)) | kwargs
        )
        for key, what in (("optimizers", "optimiser"), ("lr_schedulers", "learning-rate scheduler")):
            check_traced(named.get(key), what)
        original(self, *args, **kwargs)

    return __init__


def check_traced(objects: Any, what: str) -> None:
    """Check that NNI can build these objects again for the wrapped model.

    Args:
        objects: None, one optimiser or scheduler, or a list of them.
        what: what they are, for the message.

    Raises:
        InputError: if one was not made by a class that ``nni.trace`` had wrapped.
    """
    for item in objects if isinstance(objects, (list, tuple)) else [objects] if objects is not None else []:
        if not is_traceable(item):
            name = type(item).__name__
            made = f"nni.trace(torch.optim.{name})(model.parameters(), ...)"
            example = made if isinstance(item, Optimizer) else f"nni.trace({name})(optimizer, ...)"
            raise InputError(f"the {what} must be traced by NNI, got a plain {name}; make it with {example}.")
