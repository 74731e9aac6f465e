"""Runs a mixed plan on one model: integer layers by NNI's QATQuantizer and ternary ones by this plugin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from nni.compression.utils import Evaluator
from torch import nn

from ttq_plugin.core.model.held import check_trainable
from ttq_plugin.core.model.state import TernaryState
from ttq_plugin.errors import InputError
from ttq_plugin.methods import LR_THRESHOLD
from ttq_plugin.nni_adapter.export import plain_copy
from ttq_plugin.nni_adapter.health import Health
from ttq_plugin.nni_adapter.layers.attached import AttachedLayers, plain
from ttq_plugin.nni_adapter.layers.split import split
from ttq_plugin.nni_adapter.links import AnyLink, WholeQuantizer, build, check_links, modern_links, ordered
from ttq_plugin.nni_adapter.quantizers import TernaryQuantizer
from ttq_plugin.nni_adapter.training.epochs import check_length
from ttq_plugin.nni_adapter.training.groups import check_optimizers
from ttq_plugin.nni_adapter.training.undo import unchanged_on_failure
from ttq_plugin.support.arguments import check_types
from ttq_plugin.support.names import check_module_names

Calibration = dict[str, dict[str, dict[str, Any]]]


class TernaryPart(Protocol):
    """The interface that ternary quantizers share with layers that NNI cannot wrap."""

    notes: list[str]

    def states(self) -> dict[str, TernaryState]:
        """Scales and thresholds by layer."""

    def prescribe(self, zeros: float) -> None:
        """Move the thresholds to another share of zeros, where one was prescribed."""


class QuantizerChain:
    """Several quantizers on one model, used like one: ``compress``, then ``export_model``.

    Layers that NNI cannot wrap (recurrent ones, attention, tied weights, whole blocks, single parameters) are made
    ternary by ``ternarize`` and train with the others, where a ternary link's entry names them in ``op_names``.

    Integer links come first, then the ternary ones in their order. NNI's QATQuantizer takes an integer layer's scale
    from a moving average of max|w| (0.99 a training forward), so growing weights are clipped for a while.

    Args:
        model: The model to compress, full precision; wrapped in place by NNI.
        links: See ``links.AnyLink``: attributes ``compressor``, ``config_list``, ``options``.
        evaluator: An NNI evaluator with traced optimisers.
        on_empty: The option of this plugin's quantizers for links that do not set it, like the following ones. The
            default here is ``clip``, as in the choice by curvature.
        lr_scale: Learning rate of the scales.
        lr_threshold: Learning rate of the thresholds.

    A link's ``zeros`` applies to the layers that NNI wraps, and separately to those that it cannot wrap.

    Raises:
        InputError: For an empty chain, an unknown compressor, a layer that is in two links, not in the model or
            already wrapped, and whatever the quantizers refuse; the model is left as it was.
    """

    def __init__(
        self,
        model: nn.Module,
        links: Sequence[AnyLink],
        evaluator: Evaluator,
        *,
        on_empty: str = "clip",
        lr_scale: float | None = 1e-3,
        lr_threshold: float | None = LR_THRESHOLD,
    ) -> None:
        check_types(QuantizerChain.__init__, locals())
        check_trainable(model)
        own = {"on_empty": on_empty, "lr_scale": lr_scale, "lr_threshold": lr_threshold}
        links = ordered(links)
        if wrapped := [name for name, module in model.named_modules() if hasattr(module, "_nni_wrapper")]:
            raise InputError(f"the model's layer {wrapped[0]!r} is already wrapped; call its unwrap_model() first.")
        check_module_names(model)
        links, attachments, notes = split(model, modern_links(model, links), own)
        check_links(model, links)
        if not evaluator._initialization_complete:
            evaluator._init_optimizer_helpers(model)
        check_optimizers(evaluator, model)
        self._order = {name: list(module._parameters) for name, module in model.named_modules()}
        self.bound_model = model
        with unchanged_on_failure(model, evaluator):
            self.attached = AttachedLayers(model, evaluator, attachments, notes)
            self.quantizers = build(model, links, evaluator, own)

    @property
    def ternary(self) -> list[TernaryQuantizer]:
        """This plugin's quantizers."""
        return [quantizer for quantizer in self.quantizers if isinstance(quantizer, TernaryQuantizer)]

    @property
    def integer(self) -> list[WholeQuantizer]:
        """NNI's quantizers."""
        return [quantizer for quantizer in self.quantizers if isinstance(quantizer, WholeQuantizer)]

    @property
    def notes(self) -> list[str]:
        """Notes of the quantizers, such as thresholds that were lowered."""
        return [note for part in self._parts() for note in part.notes]

    def _parts(self) -> list[TernaryPart]:
        return [*self.ternary, self.attached]

    @property
    def widths(self) -> dict[str, int]:
        """Bits of each integer layer's weight."""
        return {name: space.quant_bits for name, space in self._integer_spaces()}

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the quantised layers, ternary and integer, sorted."""
        wrapped = (name for quantizer in self.ternary for name in quantizer.states())
        return tuple(sorted({*wrapped, *self.attached.names, *self.widths}))

    def states(self) -> dict[str, TernaryState]:
        """Each ternary layer's scales and thresholds; attention's stacked projections have one state each."""
        return {name: state for part in self._parts() for name, state in part.states().items()}

    def health(self) -> Health:
        """How the ternary layers are doing now; see ``TernaryCompressor.health``.

        Returns:
            One row for each ternary layer; none if all layers are integer.
        """
        looks = [quantizer.health() for quantizer in self.ternary]
        step = looks[-1].step if looks else self.integer[-1].current_step if self.integer else self.attached.steps
        looks.append(self.attached.health())
        return Health(step, tuple(layer for look in looks for layer in look.layers))

    def compress(self, max_steps: int | None = None, max_epochs: int | None = None) -> tuple[nn.Module, Calibration]:
        """Train the wrapped model through the evaluator, all layers at once.

        Args:
            max_steps: Training steps, or None.
            max_epochs: Training epochs, or None.

        Returns:
            The wrapped model and the calibration config of all layers.

        Raises:
            InputError: If neither limit is given.
        """
        check_types(QuantizerChain.compress, locals())
        check_length("compress", max_steps, max_epochs)
        with self.attached.following(self.quantizers[-1] if self.quantizers else None):
            if self.quantizers:
                self.quantizers[-1].compress(max_steps, max_epochs)
            else:
                self.attached.train(max_steps, max_epochs)
        return self.bound_model, self.get_calibration_config()

    def prescribe(self, zeros: float) -> None:
        """Move the thresholds of trained layers to another share of zeros, where one was prescribed.

        Args:
            zeros: The share; if the layers cannot have it exactly, they come as close as they can.
        """
        for part in self._parts():
            part.prescribe(zeros)

    def get_calibration_config(self) -> Calibration:
        """NNI's calibration config of all layers; see ``TernaryQuantizer.get_calibration_config``."""
        calibration: Calibration = self.quantizers[-1].get_calibration_config() if self.quantizers else {}
        return calibration | self.attached.calibration()

    def export_model(self) -> nn.Module:
        """Make a plain copy: ternary weights are exactly ``{-W_n, 0, +W_p}``, integer ones lie on their grid.

        Returns:
            A deep copy without NNI's wrappers that computes, in eval mode, what the wrapped model does.

        Raises:
            InputError: If an integer layer has no scale yet, or none was used.
        """
        for name, space in self._integer_spaces():
            if space.scale is None or space.apply_method == "bypass":
                raise InputError(
                    f"the integer layer {name!r} has not been quantised in training yet; call compress, for more steps "
                    "than quant_start_step."
                )
        wrappers = self.quantizers[-1]._module_wrappers if self.quantizers else {}
        return plain(plain_copy(self.bound_model, wrappers, self._order))

    def _integer_spaces(self) -> list[tuple[str, Any]]:
        """(layer name, NNI's target space) of every integer weight."""
        return [
            (name, spaces["weight"])
            for quantizer in self.integer
            for name, spaces in sorted(quantizer._target_spaces.items())
        ]


@dataclass(frozen=True)
class Compressed:
    """The result of ``compress_chain``.

    Attributes:
        model: The plain compressed model, in the mode of the original; its weights hold their quantised values.
        layers: Names of the quantised layers.
        widths: Bits of the layers on an integer grid, as ``measure`` takes them.
        states: Scales and thresholds of the ternary layers.
        notes: Notes for the reader of the result, such as thresholds that were lowered.
        calibration: NNI's calibration config of all layers.
        chain: The quantizers, still on the wrapped model, for ``health()`` or for further training.
    """

    model: nn.Module
    layers: tuple[str, ...]
    widths: Mapping[str, int]
    states: Mapping[str, TernaryState]
    notes: tuple[str, ...]
    calibration: Calibration
    chain: QuantizerChain


def compress_chain(
    model: nn.Module,
    links: Sequence[AnyLink],
    evaluator: Evaluator,
    *,
    max_steps: int | None = None,
    max_epochs: int | None = None,
    **options: Any,
) -> Compressed:
    """Run a mixed plan, such as ``generate_config(...).chain``, in one training and return a plain model.

    Args:
        model: The full-precision model to compress; NNI wraps it in place, as its compressors do.
        links: A link for each compressor.
        evaluator: An NNI evaluator with traced optimisers.
        max_steps: Number of training steps, or None.
        max_epochs: Number of training epochs, or None.
        options: ``on_empty``, ``lr_scale`` and ``lr_threshold`` of ``QuantizerChain``.

    Returns:
        The plain model and what is known about it.

    Raises:
        InputError: If neither limit is given, and in the cases of ``QuantizerChain``.

    Examples:
        >>> import nni
        >>> import torch
        >>> from nni.compression.utils import TorchEvaluator
        >>> from ttq_plugin import compress_chain
        >>> from ttq_plugin.curvature.plan import build_chain
        >>> model = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4))
        >>> x, y = torch.randn(64, 16), torch.randint(4, (64,))
        >>> def step(batch, model):
        ...     return torch.nn.functional.cross_entropy(model(batch[0]), batch[1])
        >>> def train(model, optimizer, step, scheduler=None, max_steps=None, max_epochs=None):
        ...     for _ in range(max_epochs):
        ...         optimizer.zero_grad()
        ...         step((x, y), model).backward()
        ...         optimizer.step()
        >>> evaluator = TorchEvaluator(train, nni.trace(torch.optim.Adam)(model.parameters(), lr=1e-3), step)
        >>> links = build_chain({8: ["0"]}, {"pttq": ["2"]}, {})  # or generate_config(...).chain
        >>> done = compress_chain(model, links, evaluator, max_epochs=2)
        >>> done.layers, done.widths, len(done.model[2].weight.unique())
        (('0', '2'), {'0': 8}, 3)
    """
    check_types(compress_chain, locals())
    check_length("compress_chain", max_steps, max_epochs)
    chain = QuantizerChain(model, links, evaluator, **options)
    _, calibration = chain.compress(max_steps, max_epochs)
    compressed = chain.export_model()
    return Compressed(compressed, chain.layers, chain.widths, chain.states(), tuple(chain.notes), calibration, chain)
