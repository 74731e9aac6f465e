"""Registers the methods with NNI, where it looks up transformations and where users look up compressors."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from types import ModuleType
from typing import Any

from nni.compression.base import apply_method as nni_apply
from nni.compression.base.compressor import Quantizer
from torch import Tensor

from ttq_plugin.nni_adapter.beside import keep_factors_away, prune_at_once
from ttq_plugin.nni_adapter.layers.folding import latent
from ttq_plugin.nni_adapter.training.calibration import read_calibration, ternary_entry
from ttq_plugin.nni_adapter.training.evaluators import repair_evaluators

APPLY_METHOD = "ternary"
"""The name under which NNI's wrappers find this plugin (``target_space.apply_method``)."""


_PUBLISHED: list[tuple[ModuleType, tuple[type, ...]]] = []


def apply_ternary(target: Tensor, target_space: Any) -> Tensor:
    """What NNI's wrapper calls in each forward: latent weight in, ternary weight out.

    Args:
        target: The latent weight that the wrapper holds.
        target_space: NNI's description of the target; its wrapper holds the layer's ``TernaryState``.

    Returns:
        The ternary weight, differentiable.
    """
    result: Tensor = target_space._wrapper.ternary(target)
    return result


def register() -> None:
    """Register the plugin with NNI; calling it again changes nothing.

    Afterwards NNI finds the methods when a wrapped layer is called, its evaluators report missing arguments, its own
    quantizers report both scales of a ternary weight that they joined, its pruners prune in a joint training, and the
    plugin's classes are in ``nni.compression.quantization`` and ``nni.compression.pruning``, for pipelines that look
    compressors up by name.

    Examples:
        >>> import ttq_plugin
        >>> ttq_plugin.register()
        >>> from nni.compression.quantization import PTTQQuantizer
        >>> PTTQQuantizer is ttq_plugin.PTTQQuantizer
        True
    """
    nni_apply.quant_apply_methods[APPLY_METHOD] = apply_ternary
    repair_evaluators()
    keep_factors_away()
    prune_at_once()
    if not hasattr(Quantizer.get_calibration_config, "__wrapped__"):
        taught = {
            "get_calibration_config": _with_both_scales(Quantizer.get_calibration_config),
            "update_calibration_config": _loading_both_scales(Quantizer.update_calibration_config),
        }
        for name, method in taught.items():
            setattr(Quantizer, name, method)
    for home, compressors in _PUBLISHED:
        publish(home, compressors)


def publish(home: ModuleType, compressors: Iterable[type]) -> None:
    """Add compressors to one of NNI's modules, now and whenever ``register`` is called.

    Args:
        home: ``nni.compression.quantization`` or ``nni.compression.pruning``.
        compressors: The classes.
    """
    entry = (home, tuple(compressors))
    if entry not in _PUBLISHED:
        _PUBLISHED.append(entry)
    for compressor in entry[1]:
        setattr(home, compressor.__name__, compressor)
        if compressor.__name__ not in getattr(home, "__all__", [compressor.__name__]):
            home.__all__.append(compressor.__name__)


def _with_both_scales(original: Any) -> Any:
    """A QATQuantizer that joined a ternary one would give the stand-ins that open NNI's gate (1 and 0) as its scale."""

    @functools.wraps(original)
    def get_calibration_config(self: Any) -> dict[str, dict[str, dict[str, Any]]]:
        config = {name: dict(targets) for name, targets in original(self).items()}
        for name, wrapper in self._module_wrappers.items():
            if hasattr(wrapper, "ternary"):
                space = wrapper.quantization_target_spaces["weight"]
                config[name]["weight"] = ternary_entry(wrapper.ternary, latent(wrapper), space.quant_scheme)
        return config

    return get_calibration_config


def _loading_both_scales(original: Any) -> Any:
    """The other way round: NNI would load W_p into the stand-in, and nothing else."""

    @functools.wraps(original)
    def update_calibration_config(self: Any, calibration_config: dict[str, dict[str, dict[str, Any]]]) -> None:
        others = {name: dict(targets) for name, targets in calibration_config.items()}
        loads = []
        for name, targets in others.items():
            state = getattr(self._module_wrappers.get(name), "ternary", None)
            if state is not None and "weight" in targets:
                loads.append((state, read_calibration(state, targets.pop("weight"), name)))
        original(self, others)
        for state, params in loads:
            state.load(params)

    return update_calibration_config
