"""Small networks, the papers' networks by their shapes, and ways to make them ternary."""

import copy

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ttq_plugin.measures.mult_adds import NORMALISATIONS
from ttq_plugin.measures.untouched import untouched
from ttq_plugin.support import inputs


class Tied(nn.Module):
    """Two layers of one weight."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.b(self.a(x))


class MnistCNN(nn.Module):
    """The MNIST CNN of the papers: 9 840 parameters, its two convolutions 5 250 weights."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 10, 5)
        self.conv2 = nn.Conv2d(10, 20, 5)
        self.fc1 = nn.Linear(80, 50)
        self.fc2 = nn.Linear(50, 10)

    def forward(self, x):
        x = torch.relu(nn.functional.max_pool2d(self.conv1(x), 2))
        x = torch.relu(nn.functional.max_pool2d(self.conv2(x), 2))
        return self.fc2(torch.relu(self.fc1(x.flatten(1))))


class BlockCNN(nn.Module):
    """The papers' 2D CNN: four blocks conv-BatchNorm-LeakyReLU-MaxPool, one FC."""

    def __init__(self, channels, features, classes):
        super().__init__()
        sizes = [channels, 64, 128, 256, 512]
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in zip(sizes, sizes[1:], strict=False))
        self.norms = nn.ModuleList(nn.BatchNorm2d(b) for b in sizes[1:])
        self.fc = nn.Linear(features, classes)

    def forward(self, x):
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = nn.functional.max_pool2d(nn.functional.leaky_relu(norm(conv(x))), 2)
        return self.fc(x.flatten(1))


class Encoder(nn.Module):
    """One encoder layer and a head on the first token."""

    def __init__(self, width=8, heads=2, hidden=6):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(width, heads, hidden, dropout=0.3, batch_first=True)
        self.head = nn.Linear(width, 3)

    def forward(self, x):
        return self.head(self.layer(x)[:, 0])


def set_codes(weight, zeros, positive=0.3, negative=0.2):
    """Write a ternary weight in place: `zeros` zeros, the rest half and half."""
    flat = torch.full((weight.numel(),), positive, dtype=weight.dtype)
    flat[: zeros + (weight.numel() - zeros) // 2] = -negative
    flat[:zeros] = 0
    flat = flat[torch.randperm(len(flat), generator=torch.Generator().manual_seed(0))]
    with torch.no_grad():
        weight.copy_(flat.view_as(weight))


def ternary_twin(model, layers, zeros):
    """A copy with a number of zeros spread over the layers in proportion to their size."""
    twin = copy.deepcopy(model)
    weights = [twin.get_submodule(name).weight for name in layers]
    total, done, placed = sum(w.numel() for w in weights), 0, 0
    for weight in weights:
        done += weight.numel()
        here = round(zeros * done / total) - placed
        placed += here
        set_codes(weight, here)
    return twin


def binary_twin(model, layers, scale=0.1):
    """A copy with weights -s, +s in the layers."""
    twin = copy.deepcopy(model)
    for name in layers:
        weight = twin.get_submodule(name).weight
        with torch.no_grad():
            weight.copy_(torch.where(weight >= 0, scale, -scale))
    return twin


def torchs(model, x):
    """Matrix and attention products and convolutions as torch counts them, without biases.

    Its table has no fused attention on a CPU, and no fused LSTM: both are switched off.
    """
    counter = FlopCounterMode(display=False)
    with (
        untouched(model),
        torch.no_grad(),
        sdpa_kernel(SDPBackend.MATH),
        torch.backends.mkldnn.flags(enabled=False),
        counter,
    ):
        inputs.call(model, x)
    assert counter.get_total_flops() % 2 == 0
    return counter.get_total_flops() // 2


def normalised(model, x):
    """Elements that come out of normalisations, Llama's hand-written ones among them."""
    found, handles = [], []
    for module in model.modules():
        if isinstance(module, NORMALISATIONS) or type(module).__name__ == "LlamaRMSNorm":
            handles.append(module.register_forward_hook(lambda _, a, out: found.append(out.numel())))
    with torch.no_grad():
        inputs.call(model.eval(), x)
    for handle in handles:
        handle.remove()
    return sum(found)


def without_biases(model):
    """Biases count, and torch's counter leaves them out: with zeros both agree."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "bias" in name:
                parameter.zero_()
    return model
