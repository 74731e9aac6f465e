"""Native kernels of the ternary step, for float32 layers on the CPU with one group (``groups`` for several); optional.

On a small layer each torch operation costs more than its arithmetic, and a step needs about 35 of them a layer; here it
needs two calls. The kernels are built at installation if there is a C compiler; without one, or with ``TTQ_NATIVE=0``
in the environment, torch does the same work.
"""

from __future__ import annotations

import ctypes
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import c_double, c_float, c_int, c_int64, c_void_p
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ttq_plugin.native.build import LIBRARY, fingerprint
from ttq_plugin.native.contract import KernelOptions

SURROGATES = ("soft",)
"""The surrogates that ``Kernels.backward`` knows."""

LONG = 1 << 16
"""From this many weights on, a call lets other Python threads run; for fewer, this would cost more than it gains."""

_SIGNATURES = {
    "ttq_peaks": (c_void_p, c_int64, c_void_p),
    "ttq_moments": (c_void_p, c_int64, c_double, c_void_p),
    "ttq_forward": (c_void_p, c_int64, c_void_p, c_void_p, c_int, c_int, c_int, c_void_p, c_void_p),
    "ttq_backward": (*[c_void_p] * 2, c_int64, *[c_void_p] * 2, c_double, c_int, c_int, *[c_void_p] * 4),
    "ttq_group_moments": (c_void_p,) * 4,
    "ttq_group_forward": (*[c_void_p] * 5, *[c_int] * 3, *[c_void_p] * 3),
    "ttq_group_backward": (*[c_void_p] * 6, c_double, c_int, c_int, *[c_void_p] * 5),
}
_PLAIN = frozenset((Tensor, torch.nn.Parameter))
_Two, _Four, _Known = c_double * 2, c_double * 4, c_double * 9
_VECTORS: list[tuple[Tensor, Any]] = [(torch.empty(n, dtype=torch.float32), c_float * n) for n in range(3)]
_is_compiling, _in_functorch = torch.compiler.is_compiling, torch._C._are_functorch_transforms_active


class Kernels:
    """The functions of ``training.c`` on tensors that ``kernels_for`` accepts.

    Sums run in float64.

    Raises:
        OSError: If the library cannot be loaded.
        AttributeError: If it is another one.
    """

    def __init__(self, library: Path) -> None:
        self._short, self._long = ctypes.PyDLL(str(library)), ctypes.CDLL(str(library))
        for handle in (self._short, self._long):
            for name, types in _SIGNATURES.items():
                function = getattr(handle, name)
                function.argtypes, function.restype = types, None
        self._short.ttq_source.restype = ctypes.c_uint64
        self.source: int = self._short.ttq_source()

    def library(self, n: int) -> ctypes.CDLL:
        """The functions themselves, as they are called for n weights."""
        return self._short if n < LONG else self._long

    def peaks(self, w: Tensor) -> tuple[float, float, float, float]:
        """Least and largest weight, and both divided by ``max|w|``."""
        n, out = w.numel(), _Four()
        self.library(n).ttq_peaks(w.data_ptr(), n, out)
        return out[0], out[1], out[2], out[3]

    def moments(self, w: Tensor, divisor: float | None) -> tuple[float, float]:
        """Mean, and root of the sum of squared deviations, of ``w / divisor``."""
        n, out = w.numel(), _Two()
        self.library(n).ttq_moments(w.data_ptr(), n, 1.0 if divisor is None else divisor, out)
        return out[0], out[1]

    def forward(self, w: Tensor, scales: Tensor, thresholds: Tensor, method: KernelOptions) -> tuple[Tensor, Any]:
        """The ternary weight.

        Args:
            w: Latent weight.
            scales: ``(W_p, W_n)``, shape (2,), accepted by ``kernels_for`` as the next.
            thresholds: The rule's numbers, shape (k,).
            method: Whose rule has a number here.

        Returns:
            The ternary weight, and what the backward pass has to know.
        """
        n, q, known = w.numel(), torch.empty_like(w), _Known()
        self.library(n).ttq_forward(
            w.data_ptr(),
            n,
            scales.data_ptr(),
            thresholds.data_ptr(),
            method.rule.native,
            method.normalize,
            method.learn_thresholds or method.learn_alpha,
            known,
            q.data_ptr(),
        )
        return q, known

    def backward(
        self,
        w: Tensor,
        g: Tensor,
        known: Any,
        scales: Tensor,
        thresholds: Tensor,
        alpha: Tensor,
        method: KernelOptions,
        soft: int,
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """Gradients of all that may learn.

        Args:
            w: Latent weight.
            g: dL/dq, contiguous.
            known: What ``forward`` returned.
            scales: The scales, as in ``forward``; only their shape is used.
            thresholds: The thresholds, as in ``forward``; only their shape is used.
            alpha: The surrogate's dimensionless slope, shape ().
            method: The method, as in ``forward``.
            soft: Whether the surrogate is needed: 0 no, 1 for the thresholds, 2 for alpha too.

        Returns:
            dL/dw, dL/dscales, dL/dthresholds or None, dL/dalpha or None.
        """
        n, d_w, d_scales = w.numel(), torch.empty_like(w), torch.empty_like(scales)
        d_t = torch.empty_like(thresholds) if soft else None
        d_alpha = torch.empty_like(alpha) if soft == 2 else None
        self.library(n).ttq_backward(
            w.data_ptr(),
            g.data_ptr(),
            n,
            known,
            alpha.data_ptr(),
            method.dead_zone == "pass",
            method.rule.native,
            soft,
            d_w.data_ptr(),
            d_scales.data_ptr(),
            None if d_t is None else d_t.data_ptr(),
            None if d_alpha is None else d_alpha.data_ptr(),
        )
        return d_w, d_scales, d_t, d_alpha

    @staticmethod
    def stack(values: tuple[float, ...]) -> Tensor:
        """A float32 tensor of the values; a fifth of what ``torch.tensor`` costs between two layers."""
        pattern, numbers = _VECTORS[len(values)]
        x = torch.empty_like(pattern)
        numbers.from_address(x.data_ptr())[:] = values
        return x


def load(library: Path = LIBRARY) -> Kernels | None:
    """The kernels, or None if they were not built; with a warning, if built from another source or unusable."""
    if not library.exists():
        return None
    reason = "was built from another source"
    try:
        kernels = Kernels(library)
        if kernels.source == fingerprint():
            return kernels
    except (OSError, AttributeError) as error:
        reason = f"cannot be used ({error})"
    warnings.warn(f"{library} {reason}; torch is used instead, which is slower. Reinstall ttq-plugin.", stacklevel=2)
    return None


BUILT: Kernels | None = load()
_on = os.environ.get("TTQ_NATIVE") != "0"
_active = BUILT if _on else None


_untold = _on and BUILT is None and not LIBRARY.exists()
"""Whether kernels are missing for lack of a compiler and no warning was given yet; ``load`` warns of other reasons."""


def _tell() -> None:
    global _untold
    _untold = False
    warnings.warn(
        "ttq-plugin was installed without a C compiler: torch is used instead of its kernels, and training steps are "
        "slower. Install a compiler and reinstall ttq-plugin, or set TTQ_NATIVE=0 to hide this message.",
        stacklevel=4,
    )


def kernels_for(*tensors: Tensor) -> Kernels | None:
    """The kernels, if they can take these: plain, contiguous float32 on the CPU, not traced or transformed."""
    if _is_compiling() or _active is None or _in_functorch():
        if _untold and not _is_compiling():
            _tell()
        return None
    for x in tensors:
        if x.dtype is not torch.float32 or not x.is_cpu or not x.is_contiguous() or type(x) not in _PLAIN:
            return None
    return _active


def values(known: Any, normalised: bool, count: int) -> tuple[Any, ...]:
    """What ``Kernels.forward`` found, as ``step.Known`` has it; ``count`` is the number of thresholds."""
    divisor, d_min, d_max, w_p, w_n, mean, sigma, *t = known
    return divisor if normalised else None, (mean, sigma), tuple(t[:count]), (d_min, d_max), (w_p, w_n)


@contextmanager
def switched(on: bool) -> Iterator[None]:
    """Use the kernels, where they were built, or not, in this process."""
    global _active, _on
    before = _active, _on
    _active, _on = BUILT if on else None, on
    try:
        yield
    finally:
        _active, _on = before


def is_on() -> bool:
    """Whether kernels may be used at all."""
    return _on
