"""NNI quantizers of the ternary methods."""

from __future__ import annotations

from typing import Any

import torch
from nni.compression import quantization
from nni.compression.base.compressor import Quantizer
from nni.compression.base.wrapper import ModuleWrapper
from torch import nn

from ttq_plugin.errors import InputError
from ttq_plugin.nni_adapter.beside import warn_of_empty_masks
from ttq_plugin.nni_adapter.compressor import TernaryCompressor
from ttq_plugin.nni_adapter.config import weight_config
from ttq_plugin.nni_adapter.export import plain_copy
from ttq_plugin.nni_adapter.layers.folding import latent, move_bias, norm_of
from ttq_plugin.nni_adapter.layers.lean import turn_off_fused_path
from ttq_plugin.nni_adapter.register import APPLY_METHOD, publish, register

register()


class TernaryQuantizer(TernaryCompressor, Quantizer):
    """NNI quantizer whose selected weights take exactly three values ``{-W_n, 0, +W_p}``.

    Use a subclass; the subclasses differ only in ``method_name``. ``TernaryCompressor`` documents the arguments.
    """

    state_name = "ternary"

    def _configs(self, model: nn.Module, config_list: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return weight_config(model, config_list)

    def _use(self, name: str, wrapper: ModuleWrapper, space: Any) -> None:
        # NNI applies nothing while these are None; the real scales are this plugin's own.
        space.scale = torch.ones(1, device=wrapper.weight.device)
        space.zero_point = torch.zeros(1, device=wrapper.weight.device)
        space.apply_method = APPLY_METHOD
        turn_off_fused_path(wrapper)
        if norm_of(wrapper) is not None:
            move_bias(wrapper)
            state = self._state(wrapper)
            params, notes = state.method.init(latent(wrapper), name)
            state.load(params)
            self.notes += notes

    def compress(
        self, max_steps: int | None = None, max_epochs: int | None = None
    ) -> tuple[nn.Module, dict[str, dict[str, dict[str, Any]]]]:
        """Train the wrapped model through the evaluator, for ``max_steps`` or ``max_epochs``.

        Args:
            max_steps: Training steps, or None.
            max_epochs: Training epochs, or None.

        Returns:
            The wrapped model and the calibration config.
        """
        self._check_training(max_steps, max_epochs)
        model, calibration = super().compress(max_steps, max_epochs)
        return model, calibration

    def _single_compress(self, max_steps: int | None, max_epochs: int | None) -> None:
        self._fusion_compress(max_steps, max_epochs)

    def get_calibration_config(self) -> dict[str, dict[str, dict[str, Any]]]:
        """NNI's calibration config; a ternary weight's entry holds both scales and the thresholds.

        Returns:
            ``{layer: {target: {...}}}``. For a ternary weight: ``scale`` and ``tracked_max`` (W_p),
            ``scale_negative`` (W_n), ``tracked_min`` (-W_n), ``thresholds``, ``alpha``, ``method``, ``zero_point``
            (0), ``quant_dtype`` (int2), ``quant_bits`` (2); tensors are detached copies on the CPU.
        """
        # ``register`` taught NNI's class both, for its own quantizers that join this one.
        config: dict[str, dict[str, dict[str, Any]]] = super().get_calibration_config()
        return config

    def update_calibration_config(self, calibration_config: dict[str, dict[str, dict[str, Any]]]) -> None:
        """Load the result of ``get_calibration_config``; nothing is changed unless all of it matches.

        Args:
            calibration_config: ``{layer: {target: {...}}}``, for some or all of the layers.

        Raises:
            InputError: For a layer that is not selected here, another method, or tensors of another shape.
        """
        known = {name: name for name in self._module_wrappers} | self._aliases
        for name in calibration_config:
            if name not in known:
                raise InputError(f"calibration config names the layer {name!r}, which is not selected here.")
        super().update_calibration_config({known[name]: entry for name, entry in calibration_config.items()})

    def export_model(self, model: nn.Module | None = None) -> nn.Module:
        """Make a plain copy of the model whose selected weights are exactly ``{-W_n, 0, +W_p}``; training can go on.

        Args:
            model: A wrapped copy of the bound model to export instead of it, such as an average of its weights
                (``AveragedModel(model).module``), or None.

        Returns:
            A deep copy without NNI's wrappers, in the mode (train or eval) of the bound model; see ``plain_copy`` for
            what other compressors leave in it. There is a warning for a layer with NaN or infinity, and for a pruner
            that joined but pruned nothing.
        """
        if model is None:
            self._monitor.warn_of_damage()
        if model is None and self.steps:
            active = {n: m._nni_wrapper for n, m in self.bound_model.named_modules() if "_nni_wrapper" in m._modules}
            warn_of_empty_masks({**self._module_wrappers, **active}.values())
        return plain_copy(self.bound_model if model is None else model, self._module_wrappers, self._parameter_order)


class TTQQuantizer(TernaryQuantizer):
    """Trained ternary quantization (Zhu et al. 2017): thresholds at ``t max|w|``, with the option ``t`` in (0, 1).

    Examples:
        >>> import torch
        >>> from ttq_plugin import TTQQuantizer
        >>> model = torch.nn.Sequential(torch.nn.Linear(16, 8))
        >>> quantizer = TTQQuantizer(model, [{"op_names": ["0"]}], evaluator=None)  # an evaluator, to train
        >>> len(quantizer.export_model()[0].weight.unique())
        3
    """

    method_name = "ttq"


class ATTQQuantizer(TernaryQuantizer):
    """Asymmetric TTQ (Vindas et al.): thresholds at ``mu + t_min sigma`` and ``mu + t_max sigma``.

    Examples:
        >>> import torch
        >>> from ttq_plugin import ATTQQuantizer
        >>> model = torch.nn.Sequential(torch.nn.Linear(16, 8))
        >>> quantizer = ATTQQuantizer(model, [{"op_names": ["0"]}], evaluator=None)  # an evaluator, to train
        >>> len(quantizer.export_model()[0].weight.unique())
        3
    """

    method_name = "attq"


class PTTQQuantizer(TernaryQuantizer):
    """Trainable pruned TTQ (Vindas et al. 2024): thresholds ``|mu + t sigma|`` that learn by the chain rule.

    Examples:
        >>> import torch
        >>> from ttq_plugin import PTTQQuantizer
        >>> model = torch.nn.Sequential(torch.nn.Linear(16, 8))
        >>> quantizer = PTTQQuantizer(model, [{"op_names": ["0"]}], evaluator=None)  # an evaluator, to train
        >>> len(quantizer.export_model()[0].weight.unique())
        3
    """

    method_name = "pttq"


class TWNQuantizer(TernaryQuantizer):
    """Ternary weight networks (Li & Liu 2016): thresholds at ``0.7 E|w|`` and one scale, from the weights.

    Examples:
        >>> import torch
        >>> from ttq_plugin import TWNQuantizer
        >>> model = torch.nn.Sequential(torch.nn.Linear(16, 8))
        >>> quantizer = TWNQuantizer(model, [{"op_names": ["0"]}], evaluator=None)  # an evaluator, to train
        >>> len(quantizer.export_model()[0].weight.unique())
        3
    """

    method_name = "twn"


class BinaryQuantizer(TernaryQuantizer):
    """DoReFa at one bit (Zhou et al. 2016): the binary weights ``E|w| sign(w)``, without zeros.

    Examples:
        >>> import torch
        >>> from ttq_plugin import BinaryQuantizer
        >>> model = torch.nn.Sequential(torch.nn.Linear(16, 8))
        >>> quantizer = BinaryQuantizer(model, [{"op_names": ["0"]}], evaluator=None)  # an evaluator, to train
        >>> len(quantizer.export_model()[0].weight.unique())
        2
    """

    method_name = "dorefa"


QUANTIZERS: dict[str, type[TernaryQuantizer]] = {
    quantizer.method_name: quantizer
    for quantizer in (TTQQuantizer, ATTQQuantizer, PTTQQuantizer, TWNQuantizer, BinaryQuantizer)
}
"""The quantizers by their own method; ``method=`` selects any other one of ``METHODS``."""

publish(quantization, QUANTIZERS.values())
