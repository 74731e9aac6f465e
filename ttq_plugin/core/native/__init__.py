"""Native kernels of the ternary step, for float32 layers on the CPU with one group; optional.

On a small layer each torch operation costs more than its arithmetic, and a step needs about 35 of them a layer; here it
needs three calls. Built when the package is installed, if a C compiler is there; without it, or with ``TTQ_NATIVE=0``
in the environment, torch does the same.
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

from ttq_plugin.core.native.build import LIBRARY, fingerprint

SURROGATES = ("soft",)
"""The surrogates whose sums ``Kernels.gradients`` knows."""

LONG = 1 << 16
"""From this many weights on, a call lets other Python threads run; below, that would cost more than it gives."""

_SIGNATURES = {
    "ttq_peaks": (c_void_p, c_int64, c_void_p),
    "ttq_moments": (c_void_p, c_int64, c_double, c_void_p),
    "ttq_ternarise": (c_void_p, c_int64, *[c_double] * 5, c_void_p),
    "ttq_gradients": (c_void_p, c_void_p, c_int64, *[c_double] * 7, c_int, c_void_p, c_void_p),
}
_PLAIN = frozenset((Tensor, torch.nn.Parameter))
_Two, _Four, _Six = c_double * 2, c_double * 4, c_double * 6
_VECTORS: list[tuple[Tensor, Any]] = [(torch.empty(n, dtype=torch.float32), c_float * n) for n in range(3)]
_is_compiling, _in_functorch = torch.compiler.is_compiling, torch._C._are_functorch_transforms_active


class Kernels:
    """The functions of ``kernels.c`` on tensors that ``kernels_for`` accepts.

    ``divisor`` is what the weight is divided by before anything else, if it is; sums run in float64.

    Raises:
        OSError: if the library cannot be loaded.
        AttributeError: if it is another one.
    """

    def __init__(self, library: Path) -> None:
        self._short, self._long = ctypes.PyDLL(str(library)), ctypes.CDLL(str(library))
        for handle in (self._short, self._long):
            for name, types in _SIGNATURES.items():
                function = getattr(handle, name)
                function.argtypes, function.restype = types, None
        self._short.ttq_source.restype = ctypes.c_uint64
        self.source: int = self._short.ttq_source()

    def peaks(self, w: Tensor) -> tuple[float, float, float, float]:
        """Least and largest weight, and both divided by ``max|w|``."""
        n, out = w.numel(), _Four()
        (self._short if n < LONG else self._long).ttq_peaks(w.data_ptr(), n, out)
        return out[0], out[1], out[2], out[3]

    def moments(self, w: Tensor, divisor: float | None) -> tuple[float, float]:
        """Mean, and root of the sum of squared deviations."""
        n, out = w.numel(), _Two()
        (self._short if n < LONG else self._long).ttq_moments(w.data_ptr(), n, 1.0 if divisor is None else divisor, out)
        return out[0], out[1]

    def ternarise(
        self, w: Tensor, divisor: float | None, distances: tuple[float, float], scales: tuple[float, float]
    ) -> Tensor:
        """``W_p`` where ``w > D_max``, ``-W_n`` where ``w < -D_min``, else 0."""
        n, q = w.numel(), torch.empty_like(w)
        (self._short if n < LONG else self._long).ttq_ternarise(
            w.data_ptr(), n, 1.0 if divisor is None else divisor, *distances, *scales, q.data_ptr()
        )
        return q

    def gradients(
        self,
        w: Tensor,
        g: Tensor,
        divisor: float | None,
        distances: tuple[float, float],
        scales: tuple[float, float],
        dead: float,
        slope: float,
        soft: int,
    ) -> tuple[Tensor, list[float]]:
        """The latent weight's gradient, and sums over ``g = dL/dq``.

        Args:
            w: latent weight.
            g: dL/dq, contiguous.
            divisor: see the class.
            distances: ``(D_min, D_max)``.
            scales: ``(W_p, W_n)``.
            dead: factor of g in the dead zone.
            slope: the surrogate's.
            soft: how many pairs of sums the surrogate needs: none, one, or two for the slope's own gradient.

        Returns:
            dL/dw, and the sums of g over the positive and the negative, then the pairs: ``g S'`` at ``x = w - D_max``
            and at ``x = w + D_min``, and ``g S' x`` at both.
        """
        n, d_w, sums = w.numel(), torch.empty_like(w), _Six()
        divisor = 1.0 if divisor is None else divisor
        (self._short if n < LONG else self._long).ttq_gradients(
            w.data_ptr(), g.data_ptr(), n, divisor, *distances, *scales, dead, slope, soft, d_w.data_ptr(), sums
        )
        return d_w, sums[: 2 + 2 * soft]

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
    warnings.warn(f"{library} {reason}; torch does its work, slower. Install ttq-plugin anew.", stacklevel=2)
    return None


BUILT: Kernels | None = load()
_active = None if os.environ.get("TTQ_NATIVE") == "0" else BUILT


def kernels_for(w: Tensor) -> Kernels | None:
    """The kernels, if they can take this weight: plain, contiguous float32 on the CPU, not traced or transformed."""
    if (
        _is_compiling()
        or _active is None
        or w.dtype is not torch.float32
        or not w.is_cpu
        or not w.is_contiguous()
        or type(w) not in _PLAIN
        or _in_functorch()
    ):
        return None
    return _active


@contextmanager
def switched(on: bool) -> Iterator[None]:
    """Use the kernels, where they were built, or not, in this process."""
    global _active
    before, _active = _active, BUILT if on else None
    try:
        yield
    finally:
        _active = before
