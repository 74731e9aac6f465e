"""Ternary models of the built-in tasks: real architectures, weights made ternary in one step or by a short training."""

from __future__ import annotations

import functools
from pathlib import Path

import torch
from torch import nn

from ttq_plugin import bake, parameter_groups, ternarize
from ttq_plugin.tasks import get_task
from ttq_plugin.tasks.task import Data

TERNARY = {
    "mnist-cnn": ("conv2", "fc1"),
    "esr-2dcnn": ("conv2", "conv3", "conv4"),
    "esr-cnn-transformer": ("conv2", "conv3", "encoder.0.attention.query", *(f"encoder.{i}.linear2" for i in range(4))),
}
"""Layers that ``made`` ternarises: the papers', and some that test a tied convolution and attention."""


def made(task: str, zeros: float = 0.9, seed: int = 0) -> nn.Module:
    """The task's model with ternary layers and, in BatchNorm and LayerNorm, values as after a training."""
    torch.manual_seed(seed)
    model = get_task(task).model().eval()
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm2d, nn.LayerNorm)):
            nn.init.normal_(module.weight, 1, 0.3)
            nn.init.normal_(module.bias, 0, 0.3)
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    for name in TERNARY[task]:
        ternarise(model.get_submodule(name).weight, zeros)
    return model


@torch.no_grad()
def ternarise(weight: torch.Tensor, zeros: float) -> None:
    """In place: the largest of (out, ...) in size stay, as +W_p and -W_n, two different scales."""
    kept = weight.abs() > weight.abs().flatten().quantile(zeros)
    positive, negative = kept & (weight > 0), kept & (weight < 0)
    scales = weight[positive].mean(), 1.3 * weight[negative].mean()
    weight.copy_(torch.where(positive, scales[0], torch.where(negative, scales[1], 0.0)))


@functools.cache
def trained(task: str, source: Path | None = None) -> tuple[nn.Module, Data]:
    """The task's model after some seconds of ternary training on real data, and the data; made once."""
    described = get_task(task)
    data = described.load(source, 0)
    torch.manual_seed(0)
    model = described.model()
    for module in model.modules():
        if isinstance(module, (nn.Dropout, nn.Dropout2d)):
            module.p = 0.0
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(0))[:3000]
    size = 64 if task == "mnist-cnn" else 16
    order = order.repeat(4) if task == "mnist-cnn" else order[:1600]
    ternarize(model, TERNARY[task], method="pttq", t_min=1.5, t_max=1.5)
    optimizer = torch.optim.AdamW(
        parameter_groups(model, lr_scale=1e-3, lr_threshold=1e-4), lr=2e-3 if size == 64 else 1e-3
    )
    loss = described.loss_for(data.train)
    for batch in order.split(size):
        optimizer.zero_grad()
        loss(model(data.train.x[batch]), data.train.y[batch]).backward()
        optimizer.step()
    return bake(model).eval(), data
