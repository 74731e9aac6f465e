"""NNI quantizers of the ternary methods."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from nni.compression.base.compressor import Quantizer
from nni.compression.base.config import select_modules_by_config
from nni.compression.base.wrapper import ModuleWrapper
from nni.compression.utils import Evaluator
from torch import Tensor, nn

from ttq_plugin.core import Params, Ternarizer, get_method
from ttq_plugin.errors import InputError
from ttq_plugin.nni_adapter.calibration import read_calibration, ternary_entry
from ttq_plugin.nni_adapter.config import weight_config
from ttq_plugin.nni_adapter.groups import add_groups, check_optimizers
from ttq_plugin.nni_adapter.lean import use_lean_forward
from ttq_plugin.nni_adapter.register import APPLY_METHOD, register
from ttq_plugin.nni_adapter.state import TernaryState

register()


class TernaryQuantizer(Quantizer):
    """NNI quantizer whose selected weights take exactly three values ``{-W_n, 0, +W_p}``.

    Use a subclass; they differ by ``method_name`` alone.

    Args:
        model: the model to compress, full precision; wrapped in place by NNI.
        config_list: NNI's config list; ``target_names`` may only be ``["weight"]``, which is also the default.
        evaluator: an NNI evaluator with traced optimisers; without one the weights can be exported but not trained.
        existed_wrappers: NNI's, from ``from_compressor``.
        lr_scale: learning rate of the scales W_p, W_n; None for the optimiser's own.
        lr_threshold: learning rate of thresholds and alpha where the method learns them; None for the optimiser's own.
        options: the method's numbers and options (``t``, ``t_min``, ``t_max``, ``alpha``, ``scale_init``,
            ``on_empty``, ...), see ``Ternarizer``.

    Raises:
        InputError: for a config list, an optimiser, a weight or an option that cannot work; the model is left as it
            was, unwrapped.
    """

    method_name: str

    def __init__(
        self,
        model: nn.Module,
        config_list: list[dict[str, Any]],
        evaluator: Evaluator | None = None,
        existed_wrappers: dict[str, ModuleWrapper] | None = None,
        *,
        lr_scale: float | None = 1e-3,
        lr_threshold: float | None = 1e-4,
        **options: Any,
    ) -> None:
        self.method: Ternarizer = get_method(self.method_name).configure(**options)
        self.lr_scale = _learning_rate("lr_scale", lr_scale)
        self.lr_threshold = _learning_rate("lr_threshold", lr_threshold)
        self.notes: list[str] = []
        self._parameter_order: dict[str, list[str]] = {}
        configs = weight_config(model, config_list)
        _check_unwrapped(model)
        initial = self._initial_params(model, configs)
        if evaluator is not None:
            if not evaluator._initialization_complete:
                evaluator._init_optimizer_helpers(model)
            check_optimizers(evaluator, model)
        try:
            super().__init__(model, configs, evaluator, existed_wrappers)
            self._attach(initial)
        except Exception:
            _unwrap_all(model)
            raise

    def _initial_params(self, model: nn.Module, configs: list[dict[str, Any]]) -> dict[str, Params]:
        """Each selected layer's initial parameters, computed before NNI touches the model."""
        initial = {}
        for config in configs:
            modules, _, _ = select_modules_by_config(model, config)
            for name, module in modules.items():
                initial[name], notes = self.method.init(module.weight, name)
                self.notes += notes
                self._parameter_order[name] = list(module._parameters)
        return initial

    def _attach(self, initial: dict[str, Params]) -> None:
        for name, wrapper, space in self._ternary_spaces():
            wrapper.ternary = TernaryState(self.method, initial[name])
            # NNI applies nothing while these are None; the real scales are this plugin's own.
            space.scale = torch.ones(1, device=wrapper.weight.device)
            space.zero_point = torch.zeros(1, device=wrapper.weight.device)
            space.apply_method = APPLY_METHOD
            use_lean_forward(wrapper)
        if self.evaluator is not None:
            add_groups(self.evaluator, self.bound_model, self._parameter_groups())

    def _ternary_spaces(self) -> list[tuple[str, ModuleWrapper, Any]]:
        """(layer name, NNI's wrapper, NNI's target space) of every weight this quantizer owns."""
        return [
            (name, self._module_wrappers[name], spaces["weight"])
            for name, spaces in sorted(self._target_spaces.items())
            if "weight" in spaces
        ]

    def _parameter_groups(self) -> list[tuple[list[str], dict[str, Any]]]:
        owned = [f"{name}._nni_wrapper.ternary" for name, _, _ in self._ternary_spaces()]
        groups = []
        for rate, members in ((self.lr_scale, ("scales",)), (self.lr_threshold, ("thresholds", "alpha"))):
            names = [f"{prefix}.{m}" for prefix in owned for m in members if m in self.method.learnable]
            # Decay pulls a scale or a threshold to zero, where neither means anything.
            groups.append((names, {"weight_decay": 0.0} | ({"lr": rate} if rate is not None else {})))
        return groups

    def states(self) -> dict[str, TernaryState]:
        """Each selected layer's scales and thresholds, by layer name."""
        return {name: wrapper.ternary for name, wrapper, _ in self._ternary_spaces()}

    def codes(self) -> dict[str, Tensor]:
        """Each selected layer's signs (int8: -1, 0, 1), by layer name."""
        return {name: wrapper.ternary.codes(wrapper.weight) for name, wrapper, _ in self._ternary_spaces()}

    def compress(
        self, max_steps: int | None = None, max_epochs: int | None = None
    ) -> tuple[nn.Module, dict[str, dict[str, dict[str, Any]]]]:
        """Train the wrapped model through the evaluator, for ``max_steps`` or ``max_epochs``.

        Args:
            max_steps: training steps, or None.
            max_epochs: training epochs, or None.

        Returns:
            The wrapped model and the calibration config.

        Raises:
            InputError: if there is no evaluator, or neither limit is given.
        """
        if self.evaluator is None:
            raise InputError(f"{type(self).__name__} has no evaluator to train with; pass one, or only export_model().")
        if max_steps is None and max_epochs is None:
            raise InputError("compress needs max_steps or max_epochs, got neither.")
        model, calibration = super().compress(max_steps, max_epochs)
        return model, calibration

    def _single_compress(self, max_steps: int | None, max_epochs: int | None) -> None:
        self._fusion_compress(max_steps, max_epochs)

    def _fuse_preprocess(self, evaluator: Evaluator) -> None:
        evaluator.patch_optimizer_step(before_step_tasks=[], after_step_tasks=[self._project])
        for optimizer in (getattr(evaluator, "_optimizers", None) or [])[:1]:
            # Schedulers mark the step they saw; without the mark on NNI's replacement they warn of a wrong order.
            optimizer.step.__func__._wrapped_by_lr_sched = True

    def _fuse_postprocess(self, evaluator: Evaluator) -> None:
        pass

    def _project(self) -> None:
        for state in self.states().values():
            state.method.project_(state.params)

    def get_calibration_config(self) -> dict[str, dict[str, dict[str, Any]]]:
        """NNI's calibration config; a ternary weight's entry holds both scales and the thresholds.

        Returns:
            ``{layer: {target: {...}}}``. For a ternary weight: ``scale`` and ``tracked_max`` (W_p),
            ``scale_negative`` (W_n), ``tracked_min`` (-W_n), ``thresholds``, ``alpha``, ``method``, ``zero_point``
            (0), ``quant_dtype`` (int2), ``quant_bits`` (2); tensors are detached copies on the CPU.
        """
        config = super().get_calibration_config()
        for name, wrapper, space in self._ternary_spaces():
            config[name]["weight"] = ternary_entry(wrapper.ternary, space.quant_scheme)
        return {name: dict(targets) for name, targets in config.items()}

    def update_calibration_config(self, calibration_config: dict[str, dict[str, dict[str, Any]]]) -> None:
        """Load what ``get_calibration_config`` returned; nothing is changed unless all of it fits.

        Args:
            calibration_config: ``{layer: {target: {...}}}``, for some or all of the layers.

        Raises:
            InputError: for a layer that is not selected here, another method, or tensors of another shape.
        """
        states = self.states()
        others, loads = {}, []
        for name, targets in calibration_config.items():
            if name not in self._module_wrappers:
                raise InputError(f"calibration config names the layer {name!r}, which is not selected here.")
            rest = dict(targets)
            if name in states and "weight" in rest:
                loads.append((states[name], read_calibration(states[name], rest.pop("weight"), name)))
            if rest:
                others[name] = rest
        super().update_calibration_config(others)
        for state, params in loads:
            state.load(params)

    def export_model(self) -> nn.Module:
        """A plain copy of the model whose selected weights are exactly ``{-W_n, 0, +W_p}``; training can go on.

        Returns:
            A deep copy without NNI's wrappers, in the mode (train or eval) of the bound model.
        """
        wrapped = self._is_wrapped
        if wrapped:
            self.unwrap_model()
        try:
            exported = deepcopy(self.bound_model)
        finally:
            if wrapped:
                self.wrap_model()
        modules = dict(exported.named_modules())
        for name in self._module_wrappers:
            # NNI leaves the original forward behind as an attribute of the instance; the class has the same one.
            modules[name].__dict__.pop("forward", None)
        for compressor in self.fused_compressors:
            if isinstance(compressor, TernaryQuantizer):
                compressor._bake(modules)
        return exported

    @torch.no_grad()
    def _bake(self, modules: dict[str, nn.Module]) -> None:
        for name, wrapper, _ in self._ternary_spaces():
            weight = wrapper.ternary(wrapper.weight)
            if (pruned := wrapper.pruning_target_spaces.get("weight")) is not None and pruned.mask is not None:
                weight = torch.where(pruned.mask.bool(), weight, torch.zeros_like(weight))
            module = modules[name]
            module.weight.copy_(weight)
            # NNI's unwrapping puts the weight behind the bias; give the state dict its old order back.
            module._parameters = {key: module._parameters[key] for key in self._parameter_order[name]}


def _learning_rate(name: str, value: float | None) -> float | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e6):
        raise InputError(f"{name} must be a number of at least 0, or None for the optimiser's own, got {value!r}.")
    return value


def _check_unwrapped(model: nn.Module) -> None:
    if wrapped := [name for name, m in model.named_modules() if hasattr(m, "_nni_wrapper")]:
        raise InputError(
            f"layer {wrapped[0]!r} is already wrapped by another compressor; use from_compressor to add this one "
            "to it, or call its unwrap_model() first."
        )


def _unwrap_all(model: nn.Module) -> None:
    for module in list(model.modules()):
        if (wrapper := getattr(module, "_nni_wrapper", None)) is not None:
            wrapper.unwrap()


class TTQQuantizer(TernaryQuantizer):
    """Trained ternary quantization (Zhu et al. 2017): thresholds at ``t max|w|``; option ``t`` in (0, 1)."""

    method_name = "ttq"


class ATTQQuantizer(TernaryQuantizer):
    """Asymmetric TTQ (Vindas et al.): thresholds at ``mu + t_min sigma`` and ``mu + t_max sigma``."""

    method_name = "attq"


class PTTQQuantizer(TernaryQuantizer):
    """Trainable pruned TTQ (Vindas et al. 2024): ``|mu + t sigma|``, with t_min, t_max learned by the chain rule."""

    method_name = "pttq"
