"""A short way through NNI's wrapper for layers where the ternary weight is all there is to do.

NNI's wrapper inspects arguments, copies every setting deeply and empties the CUDA cache in each forward: on a small
layer that costs more than the convolution. Where nothing else was asked of the wrapper, none of it has an effect.
"""

from __future__ import annotations

import types
from typing import Any

from nni.compression.base.wrapper import ModuleWrapper, track_target_shape


def use_lean_forward(wrapper: ModuleWrapper) -> None:
    """Let the wrapper, and the module if it is wrapped now, take the short way whenever it is open.

    Args:
        wrapper: NNI's wrapper of a layer that has a ``TernaryState``.
    """
    wrapper.forward = types.MethodType(_forward, wrapper)
    # nn.TransformerEncoderLayer in eval mode takes a fused path that reads the weights of linear1 and linear2 without
    # calling them, so that it would see the ternary weight of the last training step; a forward hook anywhere inside
    # the layer turns that path off. Nobody calls the wrapper as a module, so the hook itself costs nothing, and
    # unwrapping takes it away.
    wrapper.register_forward_hook(_never_called)
    if getattr(wrapper.module, "_nni_wrapper", None) is wrapper:
        wrapper.module.forward = wrapper.forward


def _never_called(*_: Any) -> None:
    """Only there to be counted."""


def _forward(wrapper: ModuleWrapper, *args: Any, **kwargs: Any) -> Any:
    if not _only_ternary(wrapper):
        return ModuleWrapper.forward(wrapper, *args, **kwargs)
    # The slot that NNI's wrap() made for the patched weight; nn.Module's own ways search for each name first.
    ternary: Any = wrapper._modules["ternary"]
    wrapper.module._buffers["weight"] = ternary.forward(wrapper._parameters["weight"])
    return wrapper.module_forward(*args, **kwargs)


def _only_ternary(wrapper: ModuleWrapper) -> bool:
    """Whether the weight is the wrapper's only target, nothing is fused, and nobody else watches."""
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
