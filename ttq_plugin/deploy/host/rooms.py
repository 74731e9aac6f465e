"""Memory for a batch of a network on integers, and the steps that fill it."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ttq_plugin.deploy.host.plan import Plan
from ttq_plugin.deploy.integer.execute import KINDS
from ttq_plugin.deploy.integer.floats import Memory
from ttq_plugin.deploy.integer.records import IntegerOp, IntegerProgram
from ttq_plugin.deploy.program.steps import Buffer
from ttq_plugin.native.integer import ROW, SLACK, Kernels, Layer


def numbers_of(program: IntegerProgram) -> dict[Buffer, int]:
    """Number of each buffer that holds values of samples."""
    found = {program.input: 0}
    for op in program.ops:
        for view in (*op.inputs, op.output):
            if view.buffer.constant is None:
                found.setdefault(view.buffer, len(found))
    return found


def aligned(count: int) -> NDArray[np.int8]:
    """Zeros on the boundary that kernels ask for, with what they may read behind."""
    whole = np.zeros(count + ROW + SLACK, dtype=np.int8)
    start = -whole.ctypes.data % ROW
    return whole[start : start + count]


@dataclass(frozen=True)
class Segment:
    """Layers that the kernels run one after the other, or one operation that torch runs.

    Attributes:
        layers: Structs side by side, or None.
        count: How many.
        op: What torch runs, or None.
    """

    layers: ctypes.Array[Layer] | None
    count: int
    op: IntegerOp | None


def segments(ops: list[IntegerOp], plans: list[Plan | None]) -> list[Segment]:
    """Join neighbouring layers.

    Args:
        ops: Operations in order.
        plans: How the kernels run each; None where torch does.

    Returns:
        The segments in order.
    """
    found: list[Segment] = []
    row: list[Layer] = []

    def close() -> None:
        if row:
            found.append(Segment((Layer * len(row))(*row), len(row), None))
            row.clear()

    for op, plan in zip(ops, plans, strict=True):
        if plan is not None:
            row.append(plan.layer)
        else:
            close()
            found.append(Segment(None, 0, op))
    close()
    return found


class Room:
    """The values of a batch.

    Args:
        program: The operations.
        numbers: Number of each buffer.
        samples: How many fit.

    Attributes:
        input: Address of the samples.
        output: Address of the results, if those of each sample are a buffer.
        apart: Whether they are not.
    """

    def __init__(self, program: IntegerProgram, numbers: dict[Buffer, int], samples: int) -> None:
        self.program, self.numbers, self.samples = program, numbers, samples
        # What no operation writes stays 0, so that the room can be used again.
        self.buffers = {buffer: aligned(samples * buffer.size) for buffer in numbers}
        with torch.inference_mode(False):  # so that they can be written to in any mode
            self.tensors = {b: torch.from_numpy(array).view(samples, b.size) for b, array in self.buffers.items()}
        self.pointers = (ctypes.c_void_p * len(numbers))(*(array.ctypes.data for array in self.buffers.values()))
        self.input, output = int(self.buffers[program.input].ctypes.data), program.output
        whole = output.buffer in numbers and output.meta.numel() == output.buffer.size and output.contiguous
        self.apart = not whole
        self.output = int(self.buffers[output.buffer].ctypes.data) if whole else 0
        self.work = aligned(0)
        self.work_at = int(self.work.ctypes.data)
        self.memory = Memory(program.constants, torch.int8)

    def start(self, count: int) -> None:
        """Let operations of torch see the first samples."""
        self.memory.batch = count
        self.memory.held = {buffer: tensor[:count] for buffer, tensor in self.tensors.items()}

    def run(self, kernels: Kernels, steps: list[Segment], work: int, count: int) -> None:
        """Compute everything from the input.

        Args:
            kernels: The library.
            steps: What to do.
            work: Bytes of working memory that they need.
            count: Samples, at most as many as fit.
        """
        if len(self.work) < work:
            self.work = aligned(work)
            self.work_at = int(self.work.ctypes.data)
        if any(step.op is not None for step in steps):
            self.start(count)
        for step in steps:
            if step.op is None:
                kernels.layers(step.layers, step.count, count, self.pointers, self.work_at, kernels.level)
            else:
                inputs = [self.memory.read(view) for view in step.op.inputs]
                self.memory.write(step.op.output, KINDS[step.op.kind](step.op, inputs))

    def result(self, count: int) -> Tensor:
        """int8 (count, numbers of the result), for the next run to overwrite."""
        self.start(count)
        return self.memory.read(self.program.output).flatten(1)
