"""The settings of one compression."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ttq_plugin.core import get_method
from ttq_plugin.errors import InputError
from ttq_plugin.methods import LSQ, MIXED
from ttq_plugin.support.arguments import check_types
from ttq_plugin.tasks.forward import PRECISIONS, check_dropout
from ttq_plugin.tasks.losses import get_loss

OPTIONS = ("t", "t_min", "t_max", "alpha", "normalize", "scale_init", "zeros")
"""The settings that are the method's own."""

LIMITS = ("max_bytes", "max_bits", "max_energy")
"""Budgets that are met by a share of zeros."""


@dataclass(frozen=True)
class Settings:
    """The settings of one compression.

    Attributes:
        task: Name of the task.
        method: A key of ``METHODS``, or ``mixed``.
        t: Threshold of TTQ as a share of max|w|. None stands for the method's default, here and below.
        t_min: Negative threshold of aTTQ and pTTQ, in standard deviations.
        t_max: Positive threshold of aTTQ and pTTQ.
        zeros: Share of the quantised weights that are zero at the end, instead of thresholds.
        max_bytes: Largest size of the packed file in bytes; as many weights become zero as necessary.
        max_bits: Largest size of the stored model in bits, by Shannon's bound (``bits_entropy``), reached likewise.
        max_energy: Largest energy of an inference in joules (``ec_total``), reached likewise.
        alpha: Dimensionless slope of the surrogate (pTTQ).
        lr: Learning rate of the weights.
        lr_scale: Learning rate of the scales.
        lr_threshold: Learning rate of the thresholds (pTTQ).
        epochs: Number of passes over the training split.
        share: Least share of the candidate layers' weights to quantise; ignored if the layers are given.
        bits: With ``mixed`` and no chain, the largest share of the full-precision model's bits that the stored model
            takes. Curvature chooses the method of each layer.
        seed: Random seed of sample order and dropout.
        loss: Loss to train with, as ``get_loss`` reads it; None for the task's own.
        normalize: Whether each layer is divided by max|w| first.
        scale_init: Initial scales, ``kept`` or ``one``.
        granularity: ``default`` for scales and thresholds per layer, ``out_channel`` for those per output channel;
            ignored if the layers are given.
        precision: Precision of the forward and backward pass; None for the recipe's.
        dropout: Dropout while training; None for the recipe's.
    """

    task: str
    method: str
    t: float | None = None
    t_min: float | None = None
    t_max: float | None = None
    alpha: float | None = None
    lr: float = 1e-3
    lr_scale: float = 1e-3
    lr_threshold: float | None = 1e-4
    epochs: int = 20
    share: float = 0.9
    seed: int = 0
    loss: str | None = None
    normalize: bool | None = None
    scale_init: str | None = None
    granularity: str | None = None
    precision: str | None = None
    dropout: float | None = None
    bits: float | None = None
    zeros: float | None = None
    max_bytes: float | None = None
    max_bits: float | None = None
    max_energy: float | None = None

    def __post_init__(self) -> None:
        check_types(Settings, vars(self))
        for name in ("lr", "lr_scale", "lr_threshold"):
            value = getattr(self, name)
            if value is not None and not 0 < value < 1e3:
                raise InputError(f"{name} must be positive, got {value:g}.")
        if self.epochs < 1:
            raise InputError(f"epochs must be at least 1, got {self.epochs}.")
        if self.bits is not None and (self.method != MIXED or not 0 < self.bits <= 1):
            raise InputError(f"bits must lie in (0, 1] and requires {MIXED}, got {self.bits:g} with {self.method}.")
        if self.loss is not None:
            get_loss(self.loss)
        if self.granularity not in (None, "default", "out_channel"):
            raise InputError(f"granularity must be default or out_channel, got {self.granularity!r}.")
        if self.precision not in (None, *PRECISIONS):
            raise InputError(f"precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}.")
        check_dropout(self.dropout)
        self._check_limits()
        self.options()

    def _check_limits(self) -> None:
        """Budgets that contradict each other, or what else is said of thresholds."""
        given = [name for name in LIMITS if getattr(self, name) is not None]
        if len(given) > 1 or (given and self.zeros is not None):
            pair = [*given, "zeros"][:2]
            raise InputError(f"{pair[0]} and {pair[1]} both say how many weights are zero; leave one of them out.")
        for name in given:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1e18:
                raise InputError(f"{name} must be a positive number, got {value!r}.")
            if self.method in (MIXED, LSQ):
                raise InputError(f"{name} is met by a share of zeros, which {self.method} does not have; use pttq.")
            try:
                get_method(self.method).configure(zeros=0.5, **self._numbers())
            except InputError as error:
                raise InputError(f"{name} is met by a share of zeros, but {error}") from None

    def _numbers(self) -> dict[str, float]:
        """The method's thresholds that were given."""
        return {name: value for name in ("t", "t_min", "t_max") if (value := getattr(self, name)) is not None}

    def options(self) -> dict[str, Any]:
        """The method's own numbers, those that were given.

        Returns:
            Keywords for the quantizer; none for ``mixed`` and ``lsq-int2``.

        Raises:
            InputError: If a number was given that the method does not have or allow.
        """
        given = {name: getattr(self, name) for name in OPTIONS}
        options = {name: value for name, value in given.items() if value is not None}
        if self.method == MIXED:
            if options:
                raise InputError(f"{MIXED} has no {min(options)}; set it in the options of the chain's links.")
            return {}
        if self.method == LSQ:
            if options:
                raise InputError(f"{LSQ} has no {min(options)}; NNI's LsqQuantizer has no options.")
            return {}
        method = get_method(self.method)
        allowed = {*method.rule.names, "alpha"}
        if extra := sorted(set(options) - allowed - {"normalize", "scale_init", "zeros"}):
            raise InputError(f"{self.method} has no {extra[0]}; it takes {', '.join(sorted(allowed))}.")
        method.configure(**options)
        return options
