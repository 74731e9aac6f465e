"""The kernels of ``training.cu`` on tensors of a GPU: compiled once a process and device, by torch's own NVRTC.

On a GPU a training of small layers waits for the CPU to start kernels. By torch a layer's step starts about fifty; here
it starts one to four. Where NVRTC or the driver cannot be used, torch does the same, and a warning says so once.
"""

from __future__ import annotations

import ctypes
import os
import warnings
from contextlib import nullcontext
from ctypes import byref, c_char_p, c_float, c_int, c_longlong, c_uint, c_void_p
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from ttq_plugin.native import training
from ttq_plugin.native.contract import KernelOptions
from ttq_plugin.native.layout import Gradients, empty_gradients, group_shape, layout

SOURCE = Path(__file__).with_name("training.cu")
THREADS = 256
PIECE, MOST = 2048, 512
"""A block has at least so many weights where a group has several, and all groups together at most so many blocks."""

NAMES = ("ttq_statistics", "ttq_ternarise", "ttq_gradients", "ttq_sums")
_PLAIN = frozenset((Tensor, torch.nn.Parameter))
_is_compiling, _in_functorch = torch.compiler.is_compiling, torch._C._are_functorch_transforms_active


class Step(ctypes.Structure):
    """The argument of every kernel, ``struct Step`` in ``training.cu``."""

    _fields_ = [
        *((name, c_void_p) for name in ("w", "g", "scales", "t", "alpha")),
        *((name, c_void_p) for name in ("known", "q", "d_w", "d_scales", "d_t", "d_alpha", "partial")),
        *((name, c_longlong) for name in ("outer", "channels", "inner")),
        *((name, c_int) for name in ("blocks", "rule", "soft")),
        ("dead", c_float),
    ]


class CudaKernels:
    """The kernels on one device.

    Args:
        index: the device's.

    Raises:
        OSError: if NVRTC or the driver cannot be loaded.
        RuntimeError: if one of them fails.
    """

    def __init__(self, index: int) -> None:
        self.index = index
        self._driver = ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
        self._launch_kernel = self._driver.cuLaunchKernel
        self._launch_kernel.argtypes = [c_void_p, *[c_uint] * 7, c_void_p, c_void_p, c_void_p]
        major, minor = torch.cuda.get_device_capability(index)
        binary = compiled(f"sm_{major}{minor}")
        module = c_void_p()
        with torch.cuda.device(index):
            torch.cuda.synchronize()  # so that the device's context is this thread's
            self._check(self._driver.cuModuleLoadData(byref(module), binary))
        self._functions: dict[str, c_void_p] = {}
        for name in NAMES:
            function = self._functions[name] = c_void_p()
            self._check(self._driver.cuModuleGetFunction(byref(function), module, name.encode()))

    def moments(self, w: Tensor, channel: int | None) -> tuple[Tensor, Tensor]:
        """See ``groups.GroupKernels``."""
        step, shape, keep = self._step(w, channel)
        numbers = w.new_zeros(6, *shape)
        known = w.new_empty(6, *shape)
        # Any rule: the moments are found for each, and only known.
        step.rule, step.t, step.known = 1, numbers.data_ptr(), known.data_ptr()
        self._forward(step, keep)
        return known[0], known[1]

    def forward(self, w: Tensor, scales: Tensor, thresholds: Tensor, method: KernelOptions) -> tuple[Tensor, Tensor]:
        """See ``groups.GroupKernels``."""
        step, _, keep = self._step(w, method.channel)
        q, known = torch.empty_like(w), w.new_empty(6, step.channels)
        step.scales, step.t, step.rule = scales.data_ptr(), thresholds.data_ptr(), method.rule.native
        step.known, step.q = known.data_ptr(), q.data_ptr()
        self._forward(step, keep)
        return q, known

    def backward(
        self, w: Tensor, g: Tensor, known: Tensor, scales: Tensor, alpha: Tensor, method: KernelOptions, soft: int
    ) -> Gradients:
        """See ``groups.GroupKernels``."""
        step, _, keep = self._step(w, method.channel)
        d_w, d_scales, d_t, d_alpha = empty_gradients(w, scales, alpha, method, soft)
        step.g, step.known, step.scales, step.alpha = (
            g.data_ptr(),
            known.data_ptr(),
            scales.data_ptr(),
            alpha.data_ptr(),
        )
        step.d_w, step.d_scales, step.rule, step.soft = d_w.data_ptr(), d_scales.data_ptr(), method.rule.native, soft
        step.d_t = None if d_t is None else d_t.data_ptr()
        step.d_alpha = None if d_alpha is None else d_alpha.data_ptr()
        step.dead = method.dead_zone == "pass"
        self._launch("ttq_gradients", step.channels * step.blocks, step)
        if keep is not None:
            self._launch("ttq_sums", step.channels, step)
        return d_w, d_scales, d_t, d_alpha

    def _step(self, w: Tensor, channel: int | None) -> tuple[Step, tuple[int, ...], Tensor | None]:
        """The argument with what the weight decides, the group's shape, and what has to live until the launches."""
        outer, channels, inner, blocks, shape = laid_out(w.shape, channel)
        keep = w.new_empty(channels * blocks * 6, dtype=torch.float64) if blocks > 1 else None
        step = Step(w=w.data_ptr(), outer=outer, channels=channels, inner=inner, blocks=blocks)
        step.partial = None if keep is None else keep.data_ptr()
        return step, shape, keep

    def _forward(self, step: Step, keep: Tensor | None) -> None:
        if keep is not None:
            self._launch("ttq_statistics", step.channels * step.blocks, step)
        self._launch("ttq_ternarise", step.channels * step.blocks, step)

    def _launch(self, name: str, blocks: int, step: Step) -> None:
        """Start a kernel on torch's current stream of the device."""
        here = torch.cuda.current_device() == self.index
        with nullcontext() if here else torch.cuda.device(self.index):
            stream = torch._C._cuda_getCurrentRawStream(self.index)
            argument = (c_void_p * 1)(ctypes.addressof(step))
            self._check(
                self._launch_kernel(self._functions[name], blocks, 1, 1, THREADS, 1, 1, 0, stream, argument, None)
            )

    def _check(self, result: int) -> None:
        if result:
            said = c_char_p()
            self._driver.cuGetErrorString(result, byref(said))
            raise RuntimeError(f"CUDA error {result}: {(said.value or b'unknown').decode()}")


@lru_cache(maxsize=4096)
def laid_out(shape: torch.Size, channel: int | None) -> tuple[int, int, int, int, tuple[int, ...]]:
    """(outer, channels, inner) of a weight, blocks a group, and the group's shape."""
    outer, channels, inner = layout(shape, channel)
    blocks = max(1, min(outer * inner // PIECE, MOST // channels))
    return outer, channels, inner, blocks, group_shape(shape, channel)


def nvrtc() -> ctypes.CDLL:
    """The run-time compiler that came with torch, else the system's.

    Returns:
        The library.

    Raises:
        OSError: if there is none.
    """
    major = (torch.version.cuda or "").split(".")[0]
    folder = Path(torch.__file__).resolve().parents[1]
    found = [*folder.glob(f"nvidia/*/lib/libnvrtc.so.{major}*"), *folder.glob("torch/lib/libnvrtc*.so*")]
    for name in (f"libnvrtc.so.{major}", *(str(path) for path in sorted(found))):
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise OSError(f"libnvrtc.so.{major} was not found")


def compiled(architecture: str) -> bytes:
    """The kernels for a GPU such as ``sm_90``.

    Returns:
        The binary.

    Raises:
        OSError: if NVRTC cannot be loaded.
        RuntimeError: if the source cannot be compiled.
    """
    library, program, size = nvrtc(), c_void_p(), ctypes.c_size_t()

    def check(result: int) -> None:
        if result:
            length = ctypes.c_size_t()
            library.nvrtcGetProgramLogSize(program, byref(length))
            log = ctypes.create_string_buffer(length.value + 1)
            library.nvrtcGetProgramLog(program, log)
            said = " ".join(log.value.decode(errors="replace").split())
            raise RuntimeError(f"NVRTC error {result}: {said}")

    options = [f"--gpu-architecture={architecture}", f"-DTHREADS={THREADS}", "--std=c++17"]
    array = (c_char_p * len(options))(*(option.encode() for option in options))
    check(library.nvrtcCreateProgram(byref(program), SOURCE.read_bytes(), b"training.cu", 0, None, None))
    try:
        check(library.nvrtcCompileProgram(program, len(options), array))
        check(library.nvrtcGetCUBINSize(program, byref(size)))
        binary = ctypes.create_string_buffer(size.value)
        check(library.nvrtcGetCUBIN(program, binary))
        return binary.raw
    finally:
        library.nvrtcDestroyProgram(byref(program))


_KERNELS: dict[int, CudaKernels | None] = {}


def load(index: int) -> CudaKernels | None:
    """The kernels on a device, or None, with a warning, where they cannot be made."""
    try:
        return CudaKernels(index)
    except (OSError, RuntimeError, AttributeError) as error:
        said = " ".join(str(error).split())[:300]
        warnings.warn(f"The kernels for a GPU cannot be used ({said}); torch does their work, slower.", stacklevel=2)
        return None


def kernels_for(*tensors: Tensor) -> CudaKernels | None:
    """The kernels, if they can take these: plain, contiguous float32 on one GPU, not traced or transformed."""
    if _is_compiling() or _in_functorch() or torch.version.cuda is None or not training.is_on():
        return None
    index = tensors[0].get_device()
    for x in tensors:
        if x.dtype is not torch.float32 or x.get_device() != index or not x.is_contiguous() or type(x) not in _PLAIN:
            return None
    if index not in _KERNELS:
        _KERNELS[index] = load(index)
    return _KERNELS[index]
