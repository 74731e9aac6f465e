"""NNI's wrapper as this plugin uses it: a short way through it, and copies and files of the wrapped model.

NNI's wrapper inspects arguments, copies every setting deeply and empties the CUDA cache in each forward: on a small
layer that costs more than the convolution. Where nothing else was asked of the wrapper, none of it has an effect.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from nni.compression.base.wrapper import ModuleWrapper, track_target_shape
from torch import nn

from ttq_plugin.nni_adapter.layers.folding import move_bias


class TernaryWrapper(ModuleWrapper):
    """NNI's wrapper, with nothing patched into an instance, so that a wrapped model can be saved by ``torch.save``."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:  # noqa: D102 - torch's name
        if not _only_ternary(self):
            return super().forward(*args, **kwargs)
        # The slot that NNI's wrap() made for the patched weight; nn.Module's own ways search for each name first.
        ternary: Any = self._modules["ternary"]
        self.module._buffers["weight"] = ternary.forward(self._parameters["weight"])
        return self.module_forward(*args, **kwargs)

    def wrap(self) -> None:  # noqa: D102 - NNI's name
        super().wrap()
        move_bias(self)
        vars(self.module)["__deepcopy__"] = self.copy_module

    def unwrap(self) -> None:  # noqa: D102 - NNI's name
        vars(self.module).pop("__deepcopy__", None)
        super().unwrap()

    def copy_module(self, memo: dict[int, Any]) -> nn.Module:
        """A deep copy of the wrapped layer, whose weight is part of a graph after a forward pass in training."""
        module, buffers = self.module, self.module._buffers
        patched = {key: value for key, value in buffers.items() if value is not None and not value.is_leaf}
        buffers |= {key: value.detach() for key, value in patched.items()}
        own = vars(module).pop("__deepcopy__")
        try:
            twin: nn.Module = deepcopy(module, memo)
        finally:
            buffers |= patched
            vars(module)["__deepcopy__"] = own
        vars(twin)["__deepcopy__"] = twin._nni_wrapper.copy_module  # type: ignore[union-attr]
        return twin


def adopt(wrapper: ModuleWrapper) -> None:
    """Make one of NNI's wrappers this plugin's, wrapped now or not; others, such as a folded BatchNorm's, stay."""
    if type(wrapper) is ModuleWrapper:
        wrapper.__class__ = TernaryWrapper
        if getattr(wrapper.module, "_nni_wrapper", None) is wrapper:
            wrapper.module.forward = wrapper.forward
            vars(wrapper.module)["__deepcopy__"] = wrapper.copy_module


def turn_off_fused_path(wrapper: ModuleWrapper) -> None:
    """Let nn.TransformerEncoderLayer call its layers in eval mode too.

    Its fused path reads the weights of linear1 and linear2 without calling them, so that it would see the ternary
    weight of the last training step; a forward hook anywhere inside the layer turns that path off. Nobody calls the
    wrapper as a module, so the hook itself costs nothing, and unwrapping takes it away.

    Args:
        wrapper: NNI's wrapper of a layer that has a ``TernaryState``.
    """
    wrapper.register_forward_hook(_never_called)


def _never_called(*_: Any) -> None:
    """Only there to be counted."""


def _only_ternary(wrapper: ModuleWrapper) -> bool:
    """Whether the weight is the wrapper's only target, nothing is fused, and nothing else is attached."""
    # Asked anew in each forward: other compressors join later, and change what they added. Of its dictionaries, because
    # an attribute that is missing, or a buffer, costs nn.Module a long search.
    own = wrapper.__dict__
    return (
        len(own["quantization_target_spaces"]) == 1
        and not own["pruning_target_spaces"]
        and not own["distillation_target_spaces"]
        and not own["fused_modules"]
        and own["_track_funcs"] == _ONLY_SHAPES
        and not own.get("is_bias_correction", False)
        and own["_buffers"].get("weight_scale") is not None
    )


_ONLY_SHAPES = [track_target_shape]
