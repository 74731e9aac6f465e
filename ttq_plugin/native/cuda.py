"""The kernels of ``training.cu`` on tensors of a GPU, compiled once per process and device by torch's NVRTC.

On a GPU, training small layers is limited by the CPU, which launches the kernels. In torch, a layer's step launches
about fifty of them, here one to four. If NVRTC or the driver cannot be used, torch does the same work, and a warning
says so once.
"""

from __future__ import annotations

import ctypes
import os
import struct
import warnings
from ctypes import byref, c_char_p, c_uint, c_void_p
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ttq_plugin.native import training
from ttq_plugin.native.contract import KernelOptions
from ttq_plugin.native.layout import Gradients, empty_gradients, group_shape, layout, raised

SOURCE = Path(__file__).with_name("training.cu")
THREADS = 256
PIECE, MOST = 2048, 512
"""Smallest number of weights per block if a group has several blocks, and the largest number of blocks in all."""

NAMES = ("ttq_statistics", "ttq_ternarise", "ttq_gradients", "ttq_sums")
_PLAIN = frozenset((Tensor, torch.nn.Parameter))
_is_compiling, _in_functorch = torch.compiler.is_compiling, torch._C._are_functorch_transforms_active


ARGUMENT = struct.Struct("@12P3q4if0q")
"""``struct Step`` in ``training.cu``, the argument of every kernel."""


class CudaKernels:
    """The kernels on one device.

    Args:
        index: The device's.

    Raises:
        OSError: If NVRTC or the driver cannot be loaded.
        RuntimeError: If one of them fails.
    """

    def __init__(self, index: int) -> None:
        self.index = index
        name = "nvcuda.dll" if os.name == "nt" else "libcuda.so.1"
        self._driver = ctypes.CDLL(name)
        # To let other Python threads run would cost more than a launch.
        self._launch_kernel = ctypes.PyDLL(name).cuLaunchKernel
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
        lie = laid_out(w.shape, channel)
        known, numbers = _room(w, lie), w.new_zeros(2 * lie.channels)
        # Any rule: the moments are found for each.
        self._forward(w, None, numbers, None, known, None, lie, 1, 0)
        mean, sigma, *_ = known[-6 * lie.channels :].reshape(6, *lie.group).unbind(0)
        return mean, sigma

    def forward(
        self, w: Tensor, scales: Tensor, thresholds: Tensor, alpha: Tensor, method: KernelOptions, project: bool
    ) -> tuple[Tensor, Tensor]:
        """See ``groups.GroupKernels``."""
        lie = laid_out(w.shape, method.channel)
        q, known = torch.empty_like(w), _room(w, lie)
        rule: Any = method.rule.native
        self._forward(w, scales, thresholds, alpha, known, q, lie, rule, raised(method) if project else 0)
        return q, known

    def backward(
        self, w: Tensor, g: Tensor, known: Tensor, scales: Tensor, alpha: Tensor, method: KernelOptions, soft: int
    ) -> Gradients:
        """See ``groups.GroupKernels``."""
        lie = laid_out(w.shape, method.channel)
        found = empty_gradients(w, scales, alpha, method, soft)
        partial = known.data_ptr()
        argument = ARGUMENT.pack(
            *(w.data_ptr(), g.data_ptr(), scales.data_ptr(), 0, alpha.data_ptr(), partial + lie.offset, 0),
            *(0 if x is None else x.data_ptr() for x in found),
            *(partial, *lie[:4], method.rule.native, soft, 0, method.dead_zone == "pass"),
        )
        several = (("ttq_gradients", lie.channels * lie.blocks), ("ttq_sums", lie.channels))
        self._launch(several[: 1 + (lie.blocks > 1)], argument)
        return found

    def _forward(
        self,
        w: Tensor,
        scales: Tensor | None,
        t: Tensor,
        alpha: Tensor | None,
        known: Tensor,
        q: Tensor | None,
        lie: Lie,
        rule: int,
        raised: int,
    ) -> None:
        own = [0 if x is None else x.data_ptr() for x in (scales, t, alpha)]
        partial = known.data_ptr()
        argument = ARGUMENT.pack(
            *(w.data_ptr(), 0, *own, partial + lie.offset, 0 if q is None else q.data_ptr()),
            *(0, 0, 0, 0, partial, *lie[:4], rule, 0, raised, 0.0),
        )
        blocks = lie.channels * lie.blocks
        several = (("ttq_statistics", blocks), ("ttq_ternarise", blocks))
        self._launch(several[lie.blocks == 1 :], argument)

    def _launch(self, kernels: tuple[tuple[str, int], ...], argument: bytes) -> None:
        """Start kernels, each with its number of blocks, on torch's current stream of the device."""
        if torch._C._cuda_getDevice() != self.index:
            with torch.cuda.device(self.index):
                return self._launch(kernels, argument)
        stream, pointers = torch._C._cuda_getCurrentRawStream(self.index), (c_char_p * 1)(argument)
        for name, blocks in kernels:
            result = self._launch_kernel(self._functions[name], blocks, 1, 1, THREADS, 1, 1, 0, stream, pointers, None)
            if result:
                self._check(result)
        return None

    def _check(self, result: int) -> None:
        if result:
            said = c_char_p()
            self._driver.cuGetErrorString(result, byref(said))
            raise RuntimeError(f"CUDA error {result}: {(said.value or b'unknown').decode()}")


class Lie(NamedTuple):
    """How a weight's groups lie, and how the kernels go through them.

    Attributes:
        outer: With ``channels`` and ``inner`` the weight's shape.
        channels: The groups.
        inner: See ``outer``.
        blocks: How many a group has.
        group: The shape of one number a group.
        offset: Where in bytes, of what a forward pass leaves, the numbers of the backward pass begin: after the sums
            of each block.
    """

    outer: int
    channels: int
    inner: int
    blocks: int
    group: tuple[int, ...]
    offset: int


@lru_cache(maxsize=4096)
def laid_out(shape: torch.Size, channel: int | None) -> Lie:
    """How a weight's groups lie."""
    outer, channels, inner = layout(shape, channel)
    blocks = max(1, min(outer * inner // PIECE, MOST // channels))
    offset = 48 * channels * blocks if blocks > 1 else 0
    return Lie(outer, channels, inner, blocks, group_shape(shape, channel), offset)


def _room(w: Tensor, lie: Lie) -> Tensor:
    return w.new_empty(lie.offset // 4 + 6 * lie.channels)


def nvrtc() -> ctypes.CDLL:
    """The run-time compiler that came with torch, else the system's.

    Returns:
        The library.

    Raises:
        OSError: If there is none.
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
        OSError: If NVRTC cannot be loaded.
        RuntimeError: If the source cannot be compiled.
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
        warnings.warn(
            f"The kernels for a GPU cannot be used ({said}); torch is used instead, which is slower.", stacklevel=2
        )
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
