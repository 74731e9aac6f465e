"""Losses by name with their options, as recipes and settings write them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from ttq_plugin.core.model.copying import copied
from ttq_plugin.errors import InputError
from ttq_plugin.support import inputs
from ttq_plugin.tasks.loss_formulas import (
    cross_entropy,
    distillation,
    generalised_cross_entropy,
    jensen_shannon,
    symmetric_cross_entropy,
)
from ttq_plugin.tasks.scoring.readings import main_output

TrainingStep = Callable[[tuple[Tensor, Tensor], nn.Module], Tensor]
"""``((x, labels), model) -> loss``."""

_ALLOWED: dict[str, tuple[str, Callable[[float], bool]]] = {
    "smoothing": ("lie in [0, 1), such as 0.1", lambda v: 0 <= v < 1),
    "q": ("lie in (0, 1], such as 0.7", lambda v: 0 < v <= 1),
    "alpha": ("be positive, such as 0.1", lambda v: v > 0),
    "beta": ("be positive, such as 1", lambda v: v > 0),
    "log_zero": ("be negative, such as -4", lambda v: v < 0),
    "pi": ("lie in (0, 1), such as 0.5", lambda v: 0 < v < 1),
    "temperature": ("be positive, such as 2", lambda v: v > 0),
    "weight": ("lie in [0, 1], such as 0.5", lambda v: 0 <= v <= 1),
}
"""What an option must do, in words and as a test; every option is finite."""


@dataclass(frozen=True)
class Criterion:
    """A loss with its options, called as ``(logits, labels, class_weights=None) -> scalar``.

    Attributes:
        name: Its name in ``LOSSES``.
        function: The formula.
        options: Its numbers, by name.
        needs_teacher: Whether it takes ``teacher_logits`` too.
    """

    name: str
    function: Callable[..., Tensor]
    options: Mapping[str, float] = field(default_factory=dict)
    needs_teacher: bool = False

    def __post_init__(self) -> None:
        for name, value in self.options.items():
            words, allowed = _ALLOWED[name]
            if not (math.isfinite(value) and allowed(value)):
                raise InputError(f"{name} must {words}, got {value:g}.")

    def configure(self, **options: object) -> Criterion:
        """The same loss with other numbers (or their text); InputError for one that it does not have or allow."""
        if unknown := sorted(set(options) - set(self.options)):
            takes = f"takes {', '.join(self.options)}" if self.options else "takes none"
            raise InputError(f"{self.name} has no option {unknown[0]!r}; it {takes}.")
        return replace(self, options={**self.options, **{k: _number(k, v) for k, v in options.items()}})

    def __call__(self, logits: Tensor, labels: Tensor, **more: Tensor | None) -> Tensor:
        """The loss; ``more`` is ``class_weights``, and ``teacher_logits`` where they are needed."""
        return self.function(logits, labels, **self.options, **more)

    def training_step(self, class_weights: Tensor | None = None, teacher: nn.Module | None = None) -> TrainingStep:
        """The loss as a function of a batch and the model, all on one device.

        Args:
            class_weights: c, shape (classes,); None for equal ones.
            teacher: The full-precision model, for losses that need one; it is copied, and so not touched.

        Returns:
            ``((x, labels), model) -> scalar``; the teacher's logits are computed for each batch, in eval mode and
            without gradients.

        Raises:
            InputError: If the loss needs a teacher and there is none.
        """
        if not self.needs_teacher:
            return lambda batch, model: self(
                main_output(inputs.call(model, batch[0])), batch[1], class_weights=class_weights
            )
        if teacher is None:
            raise InputError(f"{self.name} must have a teacher, got none: pass the full-precision model.")
        frozen = copied(teacher).eval()

        def step(batch: tuple[Tensor, Tensor], model: nn.Module) -> Tensor:
            with torch.no_grad():
                teacher_logits = main_output(inputs.call(frozen, batch[0]))
            logits = main_output(inputs.call(model, batch[0]))
            return self(logits, batch[1], class_weights=class_weights, teacher_logits=teacher_logits)

        return step

    def __str__(self) -> str:
        """As ``get_loss`` reads it."""
        options = ",".join(f"{name}={value!r}" for name, value in self.options.items())
        return f"{self.name}:{options}" if options else self.name


LOSSES: dict[str, Criterion] = {
    loss.name: loss
    for loss in (
        Criterion("cross-entropy", cross_entropy),
        Criterion("soft-labels", cross_entropy, {"smoothing": 0.1}),
        Criterion("generalised-cross-entropy", generalised_cross_entropy, {"q": 0.7}),
        Criterion("symmetric-cross-entropy", symmetric_cross_entropy, {"alpha": 0.1, "beta": 1.0, "log_zero": -4.0}),
        Criterion("jensen-shannon", jensen_shannon, {"pi": 0.5}),
        Criterion("distillation", distillation, {"temperature": 2.0, "weight": 0.5}, needs_teacher=True),
    )
}
"""``soft-labels`` softens class indices; labels that are probabilities go into every loss."""


def get_loss(text: str) -> Criterion:
    """The loss of that name, as settings write it: ``jensen-shannon`` or ``distillation:temperature=4,weight=0.9``.

    Args:
        text: A key of ``LOSSES``, and after a colon the options that differ from its own.

    Returns:
        The loss.

    Raises:
        InputError: If the name is unknown, or an option is unknown or has an invalid value.
    """
    name, _, options = text.partition(":")
    if name not in LOSSES:
        raise InputError(f"loss must be one of {', '.join(LOSSES)}, got {name!r}.")
    pairs = (item.partition("=") for item in options.split(",") if options)
    return LOSSES[name].configure(**{key.strip(): value for key, _, value in pairs})


def _number(name: str, value: object) -> float:
    try:
        return float("" if isinstance(value, bool) else value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise InputError(f"{name} must be a number, got {value!r}.") from None
