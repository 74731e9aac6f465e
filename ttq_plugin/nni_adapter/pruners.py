"""NNI pruners whose masks are the ternary methods' dead zones."""

from __future__ import annotations

from typing import Any

import torch
from nni.compression import pruning
from nni.compression.base.apply_method import pruning_apply_methods
from nni.compression.base.compressor import Pruner
from nni.compression.base.wrapper import ModuleWrapper
from nni.compression.utils import Evaluator
from torch import Tensor, nn

from ttq_plugin.core import Params, Ternarizer
from ttq_plugin.core.checks import check_weight
from ttq_plugin.core.model.layers import tensor_of
from ttq_plugin.core.prune import prune
from ttq_plugin.core.ternary_step import decide
from ttq_plugin.errors import InputError
from ttq_plugin.nni_adapter.compressor import TernaryCompressor
from ttq_plugin.nni_adapter.config import modern, weight_config
from ttq_plugin.nni_adapter.layers.names import resolve
from ttq_plugin.nni_adapter.register import publish

_SETTINGS = {"sparse_ratio", "granularity", "group_id", "min_sparse_ratio", "max_sparse_ratio"}
"""Valid settings of the weight in a config; NNI makes the last three from its legacy format."""

_LEGACY_TARGETS = ["weight", "bias"]
"""What NNI makes of its legacy format, which could not leave the bias out."""

APPLY_METHOD = "ternary_mask"
"""The name under which NNI's wrappers find this plugin while the mask is still free."""


def apply_mask(target: Tensor, target_space: Any) -> Tensor:
    """What NNI's wrapper calls in each forward of a training: the weight, without what the dead zone holds now."""
    wrapper = target_space._wrapper
    state = wrapper.ternary_mask
    return prune(target, wrapper.weight, state.params, state.method)


pruning_apply_methods[APPLY_METHOD] = apply_mask


class TernaryPruner(TernaryCompressor, Pruner):
    """NNI pruner that masks the weights that a ternary method would set to zero; the kept weights stay real numbers.

    ``compress()`` prunes immediately. ``compress(max_steps, max_epochs)`` trains: the mask follows the weights and the
    thresholds (which pTTQ learns) in each forward pass, and is frozen at the end. A config's ``sparse_ratio`` sets the
    initial thresholds so that this share of the layer is pruned. Use a subclass. ``TernaryCompressor`` documents the
    arguments, of which ``lr_scale`` has no effect here.
    """

    state_name = "ternary_mask"

    def _configs(self, model: nn.Module, config_list: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return pruning_config(model, config_list)

    def _initial(self, model: nn.Module, configs: list[dict[str, Any]]) -> dict[str, tuple[Ternarizer, Params]]:
        if self.method.zeros is not None and any(_asked(c, "sparse_ratio") for c in configs):
            raise InputError(
                "sparse_ratio sets the share of each layer and zeros that of all layers together; leave one "
                "of them out."
            )
        initial = super()._initial(model, configs)
        if self.method.share_thresholds and len(initial) > 1 and any(_asked(c, "sparse_ratio") for c in configs):
            raise InputError(
                f"{self.method.name} has the same thresholds in all layers, which cannot meet a sparse_ratio in each "
                "of them; leave sparse_ratio out, or use another method."
            )
        return {name: (method.for_pruning(), params) for name, (method, params) in initial.items()}

    def _begin(
        self, method: Ternarizer, module: nn.Module, name: str, config: dict[str, Any]
    ) -> tuple[Params, list[str]]:
        ratio = _asked(config, "sparse_ratio")
        if ratio is None:
            return super()._begin(method, module, name, config)
        weight = tensor_of(module, "weight")
        return method.for_pruning().init(weight, name, at_sparsity(method, weight, ratio, name))

    def _set_default_sparse_granularity(self, target_space: Any) -> None:
        """Element-wise: NNI's own default for pruners is the output channel."""

    def _use(self, name: str, wrapper: ModuleWrapper, space: Any) -> None:
        space.apply_method = "mul"

    def _exported(self, wrapper: ModuleWrapper) -> Tensor:
        return wrapper.weight * (self._state(wrapper).codes(wrapper.weight) != 0)

    def compress(
        self, max_steps: int | None = None, max_epochs: int | None = None
    ) -> tuple[nn.Module, dict[str, dict[str, Tensor]]]:
        """Prune immediately, or train for ``max_steps`` or ``max_epochs`` and prune.

        Args:
            max_steps: Training steps, or None.
            max_epochs: Training epochs, or None; both None to prune without training.

        Returns:
            The wrapped model and NNI's masks, ``{layer: {"weight": mask of 1 and 0}}``.
        """
        if max_steps is None and max_epochs is None and len(self.fused_compressors) == 1:
            self._settle(trained=False)
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
            space.mask = (self._state(wrapper).codes(wrapper.weight) != 0).to(wrapper.weight.dtype)
            space.apply_method = "mul"


def at_sparsity(method: Ternarizer, w: Tensor, ratio: float, name: str) -> Tensor:
    """Thresholds that put this share of a layer's weights into the dead zone, those nearest to zero.

    If channels have thresholds of their own, distances are measured in each channel's standard deviations.

    Args:
        method: Any method.
        w: The layer's weight.
        ratio: Share to prune, in (0, 1).
        name: The layer's name, for messages.

    Returns:
        Thresholds of shape (k, *group).

    Raises:
        InputError: For a ratio outside (0, 1), or one that no thresholds of this method reach.
    """
    w = check_weight(w.detach(), name)
    s, sigma = method.spread(w, name)
    sizes = (s.w.abs() / sigma).flatten().sort().values
    count = min(round(ratio * sizes.numel()), sizes.numel() - 1)
    # Between the last weight to prune and the first to keep, so that rounding moves neither.
    nearest = sizes[count] / 2 if count == 0 else (sizes[count - 1] + sizes[count]) / 2
    thresholds = method.rule.invert(s, torch.stack((nearest * sigma, nearest * sigma)))
    positive, negative = decide(s.w, method.rule.distances(s, thresholds.unbind(0)))
    reached = int(sizes.numel() - positive.sum() - negative.sum())
    if abs(reached - count) > 1:
        raise InputError(
            f"{name}: {method.name} cannot prune {ratio:.1%} of this layer: the closest share that its thresholds "
            f"reach is {reached / sizes.numel():.1%}, because of the weights' mean or equal weights; set that share, "
            "or use another method, such as attq."
        )
    return thresholds


def _asked(config: dict[str, Any], key: str) -> Any:
    """The settings of the weight in a config."""
    return config.get("target_settings", {}).get("weight", {}).get(key, config.get(key))


def _check_setting(config: dict[str, Any]) -> None:
    """Refuse settings that only NNI's own pruners support."""
    setting = config.get("target_settings", {}).get("weight", {})
    if unknown := sorted(set(setting) - _SETTINGS):
        raise InputError(f"the ternary pruners have no setting {unknown[0]!r}; they take sparse_ratio and granularity.")
    ratio = _asked(config, "sparse_ratio")
    if ratio is None:
        return
    if isinstance(ratio, bool) or not isinstance(ratio, (int, float)) or not 0 < ratio < 1:
        raise InputError(f"sparse_ratio must lie in (0, 1), got {ratio!r}.")
    least, most = setting.get("min_sparse_ratio", 0), setting.get("max_sparse_ratio", 1)
    if not least <= ratio <= most:
        raise InputError(
            f"sparse_ratio must lie between min_sparse_ratio and max_sparse_ratio, got {ratio} for {least} to {most}."
        )


def pruning_config(model: nn.Module, config_list: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """NNI's config list for pruning, checked and narrowed to weights; see ``config.weight_config`` for the errors.

    Args:
        model: The model, not wrapped.
        config_list: NNI 3.0's format or its legacy one (``sparsity``), whose biases are left alone.

    Returns:
        A copy whose every entry has ``target_names: ["weight"]``.
    """
    configs = modern(model, config_list)
    quantizing = []
    for config in configs:
        config.pop("quant_dtype", None)
        if config.get("target_names") == _LEGACY_TARGETS and "weight" in config.get("target_settings", {}):
            config["target_names"] = ["weight"]
        _check_setting(config)
        plain = {k: v for k, v in config.items() if k not in ("sparse_ratio", "target_settings")}
        others: dict[str, dict[str, Any]] = {k: {} for k in config.get("target_settings", {}) if k != "weight"}
        names = [*plain.get("target_names", ["weight"]), *others]
        quantizing.append(plain | {"target_names": names})
    weight_config(model, quantizing)
    return [resolve(model, c) | {"target_names": ["weight"]} for c in configs]


class TTQPruner(TernaryPruner):
    """Prunes what TTQ sets to zero: ``|w| <= t max|w|``.

    Examples:
        >>> import torch
        >>> from ttq_plugin import TTQPruner
        >>> model = torch.nn.Sequential(torch.nn.Linear(16, 8))
        >>> pruner = TTQPruner(model, [{"op_names": ["0"], "sparse_ratio": 0.5}], evaluator=None)
        >>> _, masks = pruner.compress()  # at once; with max_epochs it trains
        >>> masks["0"]["weight"].mean()
        tensor(0.5000)
    """

    method_name = "ttq"


class ATTQPruner(TernaryPruner):
    """Prunes what aTTQ sets to zero: ``mu + t_min sigma <= w <= mu + t_max sigma``.

    Examples:
        >>> import torch
        >>> from ttq_plugin import ATTQPruner
        >>> model = torch.nn.Sequential(torch.nn.Linear(16, 8))
        >>> pruner = ATTQPruner(model, [{"op_names": ["0"], "sparse_ratio": 0.5}], evaluator=None)
        >>> _, masks = pruner.compress()  # at once; with max_epochs it trains
        >>> masks["0"]["weight"].mean()
        tensor(0.5000)
    """

    method_name = "attq"


class PTTQPruner(TernaryPruner):
    """Prunes what pTTQ sets to zero, and learns its thresholds while training.

    Examples:
        >>> import torch
        >>> from ttq_plugin import PTTQPruner
        >>> model = torch.nn.Sequential(torch.nn.Linear(16, 8))
        >>> pruner = PTTQPruner(model, [{"op_names": ["0"], "sparse_ratio": 0.5}], evaluator=None)
        >>> _, masks = pruner.compress()  # at once; with max_epochs it trains
        >>> masks["0"]["weight"].mean()
        tensor(0.5000)
    """

    method_name = "pttq"


PRUNERS = {pruner.method_name: pruner for pruner in (TTQPruner, ATTQPruner, PTTQPruner)}
"""The pruner of each method."""

publish(pruning, PRUNERS.values())
