"""The numbers of one compression."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ttq_plugin.core import get_method
from ttq_plugin.errors import InputError
from ttq_plugin.methods import LSQ, MIXED
from ttq_plugin.tasks.forward import PRECISIONS, check_dropout
from ttq_plugin.tasks.losses import get_loss

OPTIONS = ("t", "t_min", "t_max", "alpha", "normalize", "scale_init", "zeros")
"""The settings that are the method's own."""

LIMITS = ("max_bytes", "max_bits", "max_energy")
"""Budgets that are met by a share of zeros."""


@dataclass(frozen=True)
class Settings:
    """What distinguishes one compression from another.

    Attributes:
        task: a task's name.
        method: a key of ``METHODS``, or ``mixed``.
        t: TTQ's threshold, as a share of max|w|; None for the method's default, as all that may be None.
        t_min: aTTQ's and pTTQ's negative threshold, in standard deviations.
        t_max: their positive threshold.
        zeros: share of the quantised weights that is zero in the end, in place of thresholds.
        max_bytes: the packed file takes at most so many bytes: the share of zeros that this needs, as for the next two.
        max_bits: the stored model takes at most so many bits, by Shannon's bound (``bits_entropy``).
        max_energy: an inference takes at most so many joules (``ec_total``).
        alpha: dimensionless slope of the surrogate (pTTQ).
        lr: learning rate of the weights.
        lr_scale: of the scales.
        lr_threshold: of the thresholds (pTTQ).
        epochs: passes over the training split.
        share: share of the candidate layers' weights to quantise, at least; not looked at where the layers are given.
        bits: with ``mixed`` and no chain: the stored model takes at most this share of the full-precision model's bits,
            and each layer gets the method that curvature says fits best.
        seed: of sample order and dropout.
        loss: to train with, as ``get_loss`` reads it; None for the task's own.
        normalize: whether each layer is divided by max|w| first.
        scale_init: ``kept`` or ``one``, where the scales start.
        granularity: ``default`` for scales and thresholds a layer, ``out_channel`` for an output channel; not looked at
            where the layers are given.
        precision: of the forward and backward pass; None for the recipe's.
        dropout: while training; None for the recipe's.
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
        for name in ("lr", "lr_scale", "lr_threshold"):
            value = getattr(self, name)
            if value is not None and not 0 < value < 1e3:
                raise InputError(f"{name} must be positive, got {value:g}.")
        if self.epochs < 1:
            raise InputError(f"epochs must be at least 1, got {self.epochs}.")
        if self.bits is not None and (self.method != MIXED or not 0 < self.bits <= 1):
            raise InputError(f"bits must lie in (0, 1] and goes with {MIXED}, got {self.bits:g} with {self.method}.")
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
            InputError: if a number was given that the method does not have or allow.
        """
        given = {name: getattr(self, name) for name in OPTIONS}
        options = {name: value for name, value in given.items() if value is not None}
        if self.method == MIXED:
            if options:
                raise InputError(f"{MIXED} has no {min(options)}; the options of the chain's links say such numbers.")
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
