"""Twenty networks as practitioners have them, from the folder of cases beside the project, at small sizes."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import nn

from tests.conftest import SHARED
from ttq_plugin.support import inputs

NAMES = (
    *("resnet18", "resnet50", "mobilenetv2-hf", "mobilenetv2", "unet", "lstm", "gru-attn", "vit-tiny-hf", "vit-torch"),
    *("bert-mini", "gpt2-2l", "llama", "tcn", "effnet", "shared", "tied", "twoin", "dictio", "dictout", "flow"),
)


@cache
def cases() -> ModuleType:
    """The file of networks as a module."""
    spec = importlib.util.spec_from_file_location("zoo_networks", SHARED / "cases" / "networks.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where torch.export looks for a class's code
    threads = torch.get_num_threads()
    spec.loader.exec_module(module)
    torch.set_num_threads(threads)
    return module


def _bert(zoo: ModuleType) -> nn.Module:
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}
    drops = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return zoo.Out(zoo.T.BertForSequenceClassification(zoo.T.BertConfig(vocab_size=1000, **sizes, **drops)), "logits")


def _gpt2(zoo: ModuleType) -> nn.Module:
    drops = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    config = zoo.T.GPT2Config(vocab_size=1000, n_layer=1, n_embd=32, n_head=2, use_cache=False, **drops)
    return zoo.Out(zoo.T.GPT2LMHeadModel(config), "logits")


def _mobilenet(zoo: ModuleType) -> nn.Module:
    config = zoo.T.MobileNetV2Config(image_size=32, num_labels=10, depth_multiplier=0.35, finegrained_output=False)
    model = zoo.Out(zoo.T.MobileNetV2ForImageClassification(config), "logits")
    whole = model.m.mobilenet_v2
    whole.layer = whole.layer[:4]
    whole.conv_1x1 = nn.Sequential(nn.Conv2d(16, model.m.classifier.in_features, 1), nn.ReLU6())
    return model


def _first_blocks(model: nn.Module, count: int, head: str) -> nn.Module:
    """The first blocks of a network, which hold all kinds of it, with a head of their width."""
    model.f = model.f[:count]
    width = model.f(torch.zeros(2, 3, 32, 32)).shape[1]
    setattr(model, head, nn.Linear(width, 10))
    return model


SMALLER: dict[str, Callable[[ModuleType], nn.Module]] = {
    "resnet18": lambda zoo: zoo.resnet([1, 1], [16, 32], "basic"),
    "resnet50": lambda zoo: zoo.resnet([1, 1], [64, 128], "bottleneck"),
    "mobilenetv2-hf": _mobilenet,
    "mobilenetv2": lambda zoo: _first_blocks(zoo.HandMBV2(), 5, "c"),
    "effnet": lambda zoo: _first_blocks(zoo.EffNet(), 5, "h"),
    "vit-tiny-hf": lambda zoo: zoo.vit(32, 1, 2),
    "vit-torch": lambda zoo: zoo.VitTorch(32, 1, 2),
    "bert-mini": _bert,
    "gpt2-2l": _gpt2,
    "llama": lambda zoo: zoo.llama(64, 1),
}
SMALLER_INPUTS = {
    "resnet18": ("img", 3, 32),
    "resnet50": ("img", 3, 32),
    "mobilenetv2-hf": ("img", 3, 32),
    "mobilenetv2": ("img", 3, 32),
    "effnet": ("img", 3, 32),
    "bert-mini": ("tok", 1000, 12),
    "gpt2-2l": ("tok", 1000, 16),
}


UNUSED = {"dictio": {"g.weight"}, "dictout": {"g.weight"}, "flow": {"b.weight", "c.weight"}}
"""Layers that the loss does not depend on, one of flow's two."""

TENSORS = {
    "twoin": (["x", "z"], ["logits"]),
    "dictio": (["x"], ["logits", "reg"]),
    "dictout": (["x"], ["logits", "reg"]),
}
"""Names of the inputs and outputs of a graph, where they are not ``x`` and ``logits``."""

CONSTANTS = {"cls"}
"""Tensors that are ternary from the start: a token of zeros."""

MEMORY = {"mobilenetv2": 1_200_000, "mobilenetv2-hf": 1_200_000, "tcn": 140_000, "dictout": 308}
"""Bytes of buffers in C at full size: what works on each number writes over its operand, and no copy is padded for a
convolution."""


def network(name: str, seed: int = 0, full: bool = False) -> nn.Module:
    """One of the networks, with random weights and, in BatchNorm, statistics as after a training.

    Args:
        name: of it.
        seed: of the weights.
        full: whether at its full size.
    """
    torch.manual_seed(seed)
    zoo = cases()
    model: nn.Module = SMALLER[name](zoo) if name in SMALLER and not full else zoo.NETS[name][0]()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model


def samples(name: str, batch: int, full: bool = False) -> Any:
    """Random inputs: a tuple is the positional arguments, anything else the one argument."""
    zoo = cases()
    kind, *sizes = SMALLER_INPUTS.get(name, ("",))
    x = getattr(zoo, kind)(*sizes)(batch) if kind and not full else zoo.NETS[name][1](batch)
    return (x,) if isinstance(x, dict) else x  # a dict is its one argument


def data(name: str, batch: int = 4) -> tuple[Any, Any]:
    """Inputs and targets, always the same."""
    torch.manual_seed(1)
    x, y = samples(name, batch), cases().NETS[name][2](batch)
    return x, y % 1000 if name == "gpt2-2l" else y


def loss(outputs: Any, targets: torch.Tensor) -> torch.Tensor:
    """The cross entropy that each of them is trained on."""
    value: torch.Tensor = cases().ce(outputs, targets)
    return value


def train(name: str, model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 3) -> None:
    """A few steps on one batch."""
    x, y = data(name)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(inputs.call(model, x), y).backward()
        optimizer.step()


@torch.no_grad()
def outputs(name: str, model: nn.Module) -> list[torch.Tensor]:
    """What it computes for the batch, in the order of its outputs."""
    return inputs.tensors(inputs.call(model, data(name)[0]))
