"""Twenty networks as practitioners have them, at small sizes, from the folder of cases beside the project."""

from __future__ import annotations

import importlib.util
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import nn

from tests.conftest import SHARED

NAMES = (
    *("resnet18", "resnet50", "mobilenetv2-hf", "mobilenetv2", "unet", "lstm", "gru-attn", "vit-tiny-hf", "vit-torch"),
    *("bert-mini", "gpt2-2l", "llama", "tcn", "effnet", "shared", "tied", "twoin", "dictio", "dictout", "flow"),
)


@cache
def cases() -> ModuleType:
    """The file of networks as a module."""
    spec = importlib.util.spec_from_file_location("zoo_networks", SHARED / "cases" / "networks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.BERT["tiny"] = (32, 2, 2)
    return module


SMALLER = {
    "resnet18": lambda zoo: zoo.resnet([1, 1], [16, 32], "basic"),
    "resnet50": lambda zoo: zoo.resnet([1, 1], [64, 128], "bottleneck"),
    "vit-tiny-hf": lambda zoo: zoo.vit(32, 2, 2),
    "vit-torch": lambda zoo: zoo.VitTorch(32, 2, 2),
    "bert-mini": lambda zoo: zoo.bert("tiny"),
    "gpt2-2l": lambda zoo: zoo.gpt2(l=1, h=32, n=2),
    "llama": lambda zoo: zoo.llama(64, 1),
}


def network(name: str, seed: int = 0) -> nn.Module:
    """One of them, with random weights."""
    torch.manual_seed(seed)
    zoo = cases()
    return SMALLER[name](zoo) if name in SMALLER else zoo.NETS[name][0]()


def data(name: str, batch: int = 4) -> tuple[Any, Any]:
    """Inputs and targets for it."""
    torch.manual_seed(1)
    _, inputs, targets = cases().NETS[name]
    return inputs(batch), targets(batch)


def train(name: str, model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 3) -> None:
    """A few steps on one batch."""
    x, y = data(name)
    for _ in range(steps):
        optimizer.zero_grad()
        cases().ce(cases().call(model, x), y).backward()
        optimizer.step()


@torch.no_grad()
def outputs(name: str, model: nn.Module) -> list[torch.Tensor]:
    """What it computes for the batch, in the order of its outputs."""
    out = cases().call(model, data(name)[0])
    return list(out.values()) if isinstance(out, dict) else [out]
