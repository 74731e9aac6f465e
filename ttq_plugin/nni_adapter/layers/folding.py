"""BatchNorm folded into a convolution or linear layer (NNI's ``fuse_names``): the ternary weight is the folded one.

NNI's wrapper folds with the running statistics in every forward, then hands the folded weight to the quantizer, and
skips the BatchNorm. So thresholds and scales belong to the folded weight, and the exported layer holds it and its bias,
with an identity where the BatchNorm was. NNI gives no gradient to the BatchNorm's shift where the layer has no bias.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from nni.compression.base.fuse_modules import _DEFAULT_OP_LIST_TO_FUSER_METHOD as FUSIBLE
from nni.compression.base.wrapper import ModuleWrapper
from torch import Tensor, nn

from ttq_plugin.core.model.layers import tensor_of
from ttq_plugin.errors import InputError

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def check_folding(modules: Mapping[str, nn.Module], fuse_names: Sequence[tuple[str, ...]], selected: set[str]) -> None:
    """Check a config's ``fuse_names``, some of which NNI refuses without a message or folds inexactly.

    Args:
        modules: The model's modules, by name.
        fuse_names: Names of (layer, BatchNorm) to fold.
        selected: Names of the layers that the config selects.

    Raises:
        InputError: For a name that does not exist or is not selected, modules that NNI cannot fold, an activation,
            or a BatchNorm without running statistics.
    """
    for names in fuse_names:
        if missing := [name for name in names if name not in modules]:
            raise InputError(f"fuse_names has {missing[0]!r}, which the model does not have.")
        kinds = tuple(type(modules[name]) for name in names)
        words = ", ".join(kind.__name__ for kind in kinds)
        if len(kinds) != 2 or not issubclass(kinds[1], NORMS) or kinds not in FUSIBLE:
            raise InputError(
                f"fuse_names {tuple(names)} is ({words}); a ternary weight can be folded as (convolution or Linear, "
                "BatchNorm) only: leave the activation to the config list of NNI's QATQuantizer."
            )
        if names[0] not in selected:
            raise InputError(f"fuse_names has {names[0]!r}, which its config does not select; add it to op_names.")
        if not modules[names[1]].track_running_stats:
            raise InputError(
                f"fuse_names has {names[1]!r}, a BatchNorm without running statistics (track_running_stats=False): its "
                "folded weight changes with every batch, so no exported weight can be the same; do not fold it."
            )


def norm_of(wrapper: ModuleWrapper) -> nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | None:
    """The BatchNorm that NNI folds into this wrapper's layer, or None."""
    return next((module for module in wrapper.fused_modules[1:] if isinstance(module, NORMS)), None)


def folded(wrapper: ModuleWrapper, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """``w gamma / sqrt(var + eps)`` and ``(b - mean) gamma / sqrt(var + eps) + beta`` (running mean and var).

    Args:
        wrapper: NNI's wrapper of a layer; its BatchNorm's running statistics are used, not changed.
        weight: The layer's latent weight.
        bias: The layer's bias.

    Returns:
        Both as NNI's forward in eval mode computes them, to the last bit; unchanged without a BatchNorm.
    """
    if (norm := norm_of(wrapper)) is None:
        return weight, bias
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None and variance is not None  # see check_folding
    gamma = tensor_of(norm, "weight") if norm.affine else torch.ones_like(mean)
    beta = tensor_of(norm, "bias") if norm.affine else torch.zeros_like(mean)
    bias = torch.zeros_like(mean) if bias is None else bias
    inverse = torch.rsqrt(variance + norm.eps)
    factor = gamma * inverse
    # NNI multiplies in another order for linear layers; the last bit depends on it.
    centred = bias - mean
    shift = centred * factor + beta if isinstance(wrapper.module, nn.Linear) else centred * inverse * gamma + beta
    return weight * factor.reshape([-1] + [1] * (weight.dim() - 1)), shift


def latent(wrapper: ModuleWrapper) -> Tensor:
    """The weight that the ternary step sees: folded, if a BatchNorm is; differentiable."""
    weight, _ = folded(wrapper, wrapper.weight, None)
    return weight


def plain_bias(wrapper: ModuleWrapper) -> Tensor | None:
    """The layer's own bias; NNI's folded forward leaves another one on a module that has none."""
    if getattr(wrapper, "is_bias", None) == "None":
        return None
    bias: Tensor | None = getattr(wrapper if hasattr(wrapper, "bias") else wrapper.module, "bias", None)
    return bias


def move_bias(wrapper: ModuleWrapper) -> None:
    """Let a folded layer with a bias be wrapped again after it was unwrapped (another compressor joins, an export).

    NNI moves the bias to the wrapper when it wraps, but only the first time: from the second on its forward asserts.

    Args:
        wrapper: NNI's wrapper of a layer, folded or not, wrapped now.
    """
    if norm_of(wrapper) is None or "ternary" not in wrapper._modules:
        return
    if "bias" in wrapper._parameters and "bias" not in wrapper.quantization_target_spaces:
        wrapper.is_register_bias = True
        if "bias" in wrapper.module._parameters:
            del wrapper.module.bias
            wrapper.module.register_buffer("bias", wrapper.bias.detach())
