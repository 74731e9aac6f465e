"""Other compressors of a layer with a ternary weight, which are joined by ``from_compressor``."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Iterable, Mapping
from copy import deepcopy
from typing import Any

from nni.compression.base.compressor import Compressor
from nni.compression.base.config import select_modules_by_config, trans_legacy_config_list
from nni.compression.base.wrapper import ModuleWrapper
from nni.compression.pruning import SlimPruner
from nni.compression.pruning.basic_pruner import _NormPruner
from torch import nn

from ttq_plugin.core.model.state import TernaryState
from ttq_plugin.errors import InputError

_FACTORS = "slim_mul"
"""NNI's name for a mask that is multiplied by learned factors."""

_JOIN = "from_compressor"
"""NNI's class method by which a compressor joins another."""

_BEGIN = "_fuse_preprocess"
"""NNI's method of a compressor that a joint training calls before it begins."""


def check_free(names: Iterable[str], existed_wrappers: Mapping[str, ModuleWrapper], mode: str) -> None:
    """Refuse weights that earlier compressors have, or scale.

    Args:
        names: The layers whose weights a ternary compressor is to have.
        existed_wrappers: NNI's wrappers of the compressors that it joins.
        mode: ``quantization`` or ``pruning``.

    Raises:
        InputError: If another compressor of this kind has the weight, which NNI would silently leave to the first one,
            or if it has SlimPruner's factors.
    """
    for name in names:
        wrapper = existed_wrappers.get(name)
        if wrapper is not None and "weight" in getattr(wrapper, f"{mode}_target_spaces"):
            raise InputError(
                f"the weight of {name!r} is already handled by another compressor ({mode}); remove it from one of "
                "the two config lists."
            )
        space = None if wrapper is None else wrapper.pruning_target_spaces.get("weight")
        if space is not None and space.apply_method == _FACTORS:
            raise InputError(_factors(name))


def warn_of_empty_masks(wrappers: Iterable[ModuleWrapper]) -> None:
    """Warn of layers whose pruner should have made zeros but masked nothing.

    Args:
        wrappers: NNI's, after a training.
    """
    empty = [wrapper.name for wrapper in wrappers if _asked(wrapper) and _is_empty(_asked(wrapper))]
    if empty:
        warnings.warn(
            f"a sparse_ratio was set for {', '.join(map(repr, empty))}, but no mask was made, so nothing is pruned "
            f"there: the training was shorter than the pruner's interval; train for more steps.",
            stacklevel=3,
        )


def _asked(wrapper: ModuleWrapper) -> list[Any]:
    return [space for space in wrapper.pruning_target_spaces.values() if space.sparse_ratio]


def _is_empty(spaces: Iterable[Any]) -> bool:
    return all(space.mask is None or bool((space.mask == 1).all()) for space in spaces)


def prune_at_once() -> None:
    """Make NNI's level, L1, L2 and FPGM pruners prune when a training with a ternary layer begins.

    On their own they prune immediately. In a joint training, NNI waits for a step that never comes, unless AGPPruner or
    LinearPruner sets one, and masks nothing.
    """
    original = inspect.getattr_static(_NormPruner, _BEGIN)
    if not hasattr(original, "__wrapped__"):
        setattr(_NormPruner, _BEGIN, _masking_first(original))


def _masking_first(original: Any) -> Any:
    @functools.wraps(original)
    def _fuse_preprocess(self: Any, evaluator: Any) -> None:
        waits = self.interval_steps < 1 and not self.first_step_gen
        # Masks that are there already, of a checkpoint or by hand, stay.
        own = [space for spaces in self._target_spaces.values() for space in spaces.values()]
        if waits and _has_ternary(self.bound_model) and _is_empty(own):
            self.update_masks(self.generate_masks())
        original(self, evaluator)

    return _fuse_preprocess


def _has_ternary(model: nn.Module) -> bool:
    wrappers = (module._modules.get("_nni_wrapper") for module in model.modules())
    return any(isinstance(part, TernaryState) for w in wrappers if w is not None for part in w.children())


def keep_factors_away() -> None:
    """Make SlimPruner refuse to join a ternary weight: its factors would leave more than three values."""
    original = inspect.getattr_static(SlimPruner, _JOIN).__func__
    if not hasattr(original, "__wrapped__"):
        setattr(SlimPruner, _JOIN, classmethod(_refusing_ternary(original)))


def _refusing_ternary(original: Any) -> Any:
    @functools.wraps(original)
    def from_compressor(
        cls: type, compressor: Compressor, new_config_list: list[dict[str, Any]], *args: Any, **kwargs: Any
    ) -> Any:
        ternary = {name for name, wrapper in compressor._module_wrappers.items() if hasattr(wrapper, "ternary")}
        for config in trans_legacy_config_list(deepcopy(new_config_list)):
            if "weight" in config.get("target_names", ["weight"]):
                for name in _selected(compressor.bound_model, config):
                    if name in ternary:
                        raise InputError(_factors(name))
        return original(cls, compressor, new_config_list, *args, **kwargs)

    return from_compressor


def _selected(model: nn.Module, config: dict[str, Any]) -> list[str]:
    return list(select_modules_by_config(model, config)[0])


def _factors(name: str) -> str:
    return (
        f"a ternary weight needs a pruner whose masks are zeros and ones, got SlimPruner, whose learned factors scale "
        f"the weight of {name!r}; use another pruner, such as TaylorPruner, or take the layer out of one of the two "
        "config lists."
    )
