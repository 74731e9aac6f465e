"""NNI pruners whose masks are the ternary methods' dead zones."""

from __future__ import annotations

from typing import Any

import torch
from nni.compression.base.apply_method import pruning_apply_methods
from nni.compression.base.compressor import Pruner
from nni.compression.base.config import trans_legacy_config_list
from nni.compression.base.wrapper import ModuleWrapper
from nni.compression.utils import Evaluator
from torch import Tensor, nn

from ttq_plugin.core import Params, Ternarizer
from ttq_plugin.core.prune import prune
from ttq_plugin.core.rules import Statistics
from ttq_plugin.errors import InputError
from ttq_plugin.nni_adapter.compressor import TernaryCompressor
from ttq_plugin.nni_adapter.config import weight_config
from ttq_plugin.nni_adapter.names import resolve

APPLY_METHOD = "ternary_mask"
"""The name under which NNI's wrappers find this plugin while the mask is still free."""


def apply_mask(target: Tensor, target_space: Any) -> Tensor:
    """What NNI's wrapper calls in each forward of a training: the weight, without what the dead zone holds now."""
    wrapper = target_space._wrapper
    state = wrapper.ternary_mask
    return prune(target, wrapper.weight, state.params, state.method)


pruning_apply_methods[APPLY_METHOD] = apply_mask


class TernaryPruner(TernaryCompressor, Pruner):
    """NNI pruner that masks, element by element, what a ternary method would set to zero; kept weights stay real.

    ``compress()`` prunes at once. ``compress(max_steps, max_epochs)`` trains: the mask follows weights and thresholds
    (which pTTQ learns) in each forward, and is frozen at the end. A config's ``sparse_ratio`` sets the initial
    thresholds so that this share of the layer is pruned. Use a subclass. Arguments and errors: see
    ``TernaryCompressor``; ``lr_scale`` has no effect here.
    """

    state_name = "ternary_mask"

    def _configs(self, model: nn.Module, config_list: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return pruning_config(model, config_list)

    def _initial(self, model: nn.Module, configs: list[dict[str, Any]]) -> dict[str, tuple[Ternarizer, Params]]:
        initial = super()._initial(model, configs)
        return {name: (method.for_pruning(), params) for name, (method, params) in initial.items()}

    def _layer_method(self, module: nn.Module, config: dict[str, Any]) -> Ternarizer:
        method = super()._layer_method(module, config)
        setting = config.get("target_settings", {}).get("weight", {})
        ratio = setting.get("sparse_ratio", config.get("sparse_ratio"))
        return method if ratio is None else at_sparsity(method, module.weight, ratio)

    def _set_default_sparse_granularity(self, target_space: Any) -> None:
        """Element-wise: NNI's own default for pruners is the output channel."""

    def _use(self, name: str, wrapper: ModuleWrapper, space: Any) -> None:
        space.apply_method = "mul"

    def compress(
        self, max_steps: int | None = None, max_epochs: int | None = None
    ) -> tuple[nn.Module, dict[str, dict[str, Tensor]]]:
        """Prune at once, or train for ``max_steps`` or ``max_epochs`` and prune.

        Args:
            max_steps: training steps, or None.
            max_epochs: training epochs, or None; both None to prune without training.

        Returns:
            The wrapped model and NNI's masks, ``{layer: {"weight": mask of 1 and 0}}``.
        """
        if max_steps is None and max_epochs is None and len(self.fused_compressors) == 1:
            self._freeze_masks()
            return self.bound_model, self.get_masks()
        self._check_training(max_steps, max_epochs)
        model, masks = super().compress(max_steps, max_epochs)
        return model, masks

    def _single_compress(self, max_steps: int | None, max_epochs: int | None) -> None:
        self._fusion_compress(max_steps, max_epochs)

    def _fuse_preprocess(self, evaluator: Evaluator) -> None:
        super()._fuse_preprocess(evaluator)
        for _, _, space in self._ternary_spaces():
            space.apply_method = APPLY_METHOD

    def _fuse_postprocess(self, evaluator: Evaluator) -> None:
        super()._fuse_postprocess(evaluator)
        self._freeze_masks()

    @torch.no_grad()
    def _freeze_masks(self) -> None:
        for _, wrapper, space in self._ternary_spaces():
            space.mask = (wrapper.ternary_mask.codes(wrapper.weight) != 0).to(wrapper.weight.dtype)
            space.apply_method = "mul"


def at_sparsity(method: Ternarizer, w: Tensor, ratio: float) -> Ternarizer:
    """The method with thresholds that put this share of the weights into the dead zone.

    Args:
        method: any method whose rule can be inverted.
        w: the layer's weight.
        ratio: share to prune, in (0, 1).

    Returns:
        The method with other numbers ``t``.

    Raises:
        InputError: for a ratio outside (0, 1).
    """
    if not 0 < ratio < 1:
        raise InputError(f"sparse_ratio must lie in (0, 1), got {ratio:g}.")
    flat = w.detach().abs().flatten()
    s = Statistics(w, None, numbers=False)
    distance = flat.kthvalue(max(1, round(ratio * flat.numel()))).values
    numbers = method.rule.invert(s, torch.stack((distance, distance)))
    return method.configure(**dict(zip(method.rule.names, numbers.tolist(), strict=True)))


def pruning_config(model: nn.Module, config_list: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """NNI's config list for pruning, checked and narrowed to weights; see ``config.weight_config`` for the errors.

    Args:
        model: the model, not wrapped.
        config_list: NNI 3.0's format or its legacy one (``sparsity``), whose biases are left alone.

    Returns:
        A copy whose every entry has ``target_names: ["weight"]``.
    """
    if not isinstance(config_list, (list, tuple)) or not all(isinstance(c, dict) for c in config_list):
        return weight_config(model, config_list)
    legacy = [any(key.startswith(("sparsity", "total_sparsity")) for key in c) for c in config_list]
    configs: list[dict[str, Any]] = trans_legacy_config_list([dict(c) for c in config_list])
    quantizing = []
    for config, old in zip(configs, legacy, strict=True):
        config.pop("quant_dtype", None)
        if old:
            config["target_names"] = ["weight"]
        plain = {k: v for k, v in config.items() if k not in ("sparse_ratio", "target_settings")}
        others = {k: {} for k in config.get("target_settings", {}) if k != "weight"}
        names = [*plain.get("target_names", ["weight"]), *others]
        quantizing.append(plain | {"target_names": names})
    weight_config(model, quantizing)
    return [resolve(model, c) | {"target_names": ["weight"]} for c in configs]


class TTQPruner(TernaryPruner):
    """Prunes what TTQ sets to zero: ``|w| <= t max|w|``."""

    method_name = "ttq"


class ATTQPruner(TernaryPruner):
    """Prunes what aTTQ sets to zero: ``mu + t_min sigma <= w <= mu + t_max sigma``."""

    method_name = "attq"


class PTTQPruner(TernaryPruner):
    """Prunes what pTTQ sets to zero, and learns its thresholds while training."""

    method_name = "pttq"
