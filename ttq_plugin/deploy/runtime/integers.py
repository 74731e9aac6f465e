"""A model on integers as a form of the runtime."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import torch
from torch import nn

from ttq_plugin.deploy.host.module import MOST, HostModule
from ttq_plugin.deploy.integer.module import IntegerModule, integerize
from ttq_plugin.deploy.runtime.checks import check
from ttq_plugin.deploy.runtime.compiled import Choice
from ttq_plugin.deploy.runtime.forms import Form
from ttq_plugin.deploy.runtime.tuning import LayerChoice
from ttq_plugin.native.integer import KERNELS
from ttq_plugin.support.inputs import batch_size, call

ENOUGH = 32
"""Samples that calibrate without a warning."""


class IntegerForm(Form):
    """An integer network in native kernels.

    Args:
        host: The network.
    """

    def __init__(self, host: HostModule) -> None:
        # One tensor goes past the module's hooks, which take longer than a small layer.
        super().__init__(lambda x: host.forward(x) if type(x) is torch.Tensor else call(host, x), [], True)
        self.host = host

    def choices(self, size: int) -> list[LayerChoice]:
        """How each layer runs.

        Args:
            size: Samples, a power of two.

        Returns:
            One entry for each layer; the times are those of a batch, or of the part of one that is computed at a time.
        """
        part = min(size, MOST)
        schedule = self.host.schedules.get(part) or self.host.tune(part)
        found = []
        for place, timed in schedule.layers.items():
            way, name = timed.way, self.host.program.ops[place].more["weight"].removesuffix(".weight")
            choice = Choice("torch") if way is None else Choice(way.kind, way.tile // 16, way.chunk)
            found.append(LayerChoice(name, choice, timed.seconds, timed.torch_seconds, timed.additions))
        return found


def integer_module(model: nn.Module, example: Any, batches: Any) -> IntegerModule:
    """The integer network of a model.

    Args:
        model: One, or a model in evaluation mode that is made one.
        example: Inputs, which calibrate where there are no batches.
        batches: Calibration inputs, or None.

    Returns:
        A network in evaluation mode, which shares what the given one holds.
    """
    if isinstance(model, IntegerModule):
        if batches is not None:
            warnings.warn("The model is already an integer network: batches are not used.", stacklevel=3)
        return copy.copy(model).eval()
    with torch.inference_mode():
        check(model, example)
    if batches is None and batch_size(example) < ENOUGH:
        warnings.warn(
            f"TernaryRuntime calibrates the integers on the {batch_size(example)} samples of the example; pass "
            f"batches=..., a few hundred training samples, for better ranges.",
            stacklevel=3,
        )
    return integerize(model, example if batches is None else batches).eval()


def integer_form(module: nn.Module, example: Any) -> tuple[str, Form, str | None]:
    """The network in this machine's kernels.

    Args:
        module: The network, an ``IntegerModule``.
        example: Inputs that layers are timed on.

    Returns:
        ``integers``, the form, and None; or ``torch``, the module itself, and why.
    """
    assert isinstance(module, IntegerModule)
    if KERNELS is not None:
        return "integers", IntegerForm(HostModule(module, KERNELS, module.quantised(example))), None
    reason = "it has no kernels for integers, because ttq-plugin was installed without a C compiler or TTQ_NATIVE is 0"
    return "torch", Form(lambda inputs: call(module, inputs), [], True), reason
