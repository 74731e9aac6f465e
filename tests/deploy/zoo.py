"""Twenty networks as practitioners have them, some made smaller, with inputs in the project's convention."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from tests.measures.nets import set_codes

SOURCE = Path(__file__).parents[3] / "shared" / "cases" / "networks.py"


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("zoo_networks", SOURCE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where torch.export looks for a class's code
    threads = torch.get_num_threads()
    spec.loader.exec_module(module)
    torch.set_num_threads(threads)
    return module


NETWORKS = _load()


def _bert() -> Any:
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    return NETWORKS.T.BertConfig(vocab_size=1000, **sizes)


def _gpt2() -> Any:
    drops = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    return NETWORKS.T.GPT2Config(vocab_size=1000, n_layer=2, n_embd=64, n_head=4, use_cache=False, **drops)


SMALLER = {
    "vit-tiny-hf": lambda: NETWORKS.vit(48, 2, 3),
    "vit-torch": lambda: NETWORKS.VitTorch(48, 2, 3),
    "gpt2-2l": lambda: NETWORKS.Out(NETWORKS.T.GPT2LMHeadModel(_gpt2()), "logits"),
    "bert-mini": lambda: NETWORKS.Out(NETWORKS.T.BertForSequenceClassification(_bert()), "logits"),
    "llama": lambda: NETWORKS.llama(64, 2),
}
SMALLER_INPUTS = {
    "resnet18": NETWORKS.img(3, 32),
    "gpt2-2l": NETWORKS.tok(1000, 16),
    "bert-mini": NETWORKS.tok(1000, 32),
}
SLOW = {"resnet50", "effnet", "mobilenetv2-hf", "mobilenetv2"}
NAMES = list(NETWORKS.NETS)


def is_ternary(module: nn.Module) -> bool:
    """Whether ``network`` makes a module's weight ternary."""
    kinds = {nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d, nn.Linear}
    return type(module) in kinds and module.weight.numel() >= 1000


def network(name: str, zeros: float | None = 0.8) -> nn.Module:
    """One of the networks in evaluation mode.

    Args:
        name: of it.
        zeros: share of zeros in its ternary weights, which are those of its larger convolutions and linear layers; None
            leaves them as they are.
    """
    torch.manual_seed(0)
    model = SMALLER.get(name, NETWORKS.NETS[name][0])()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
        if zeros is not None and is_ternary(module):
            gain = module.weight[0].numel() ** -0.5 / (1 - zeros) ** 0.5
            set_codes(module.weight, round(zeros * module.weight.numel()), gain, 0.8 * gain)
    return model.eval()


def inputs(name: str, batch: int) -> Any:
    """Random inputs of it: a tuple is its positional arguments, a dict its keyword arguments."""
    x = SMALLER_INPUTS.get(name, NETWORKS.NETS[name][1])(batch)
    return (x,) if isinstance(x, dict) else x  # its one argument is a dict
