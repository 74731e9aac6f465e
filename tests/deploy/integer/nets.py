"""Networks whose every operation has an integer form."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.deploy.nets import ternarise


class Of(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Residual(nn.Module):
    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(*parts)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + x)


def _separable() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(4, 8, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU6(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False),
        nn.BatchNorm2d(8),
        nn.Hardswish(),
        nn.Conv2d(8, 6, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 3),
    )


def _residual() -> nn.Module:
    inner = (nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=2, dilation=2))
    return nn.Sequential(Residual(*inner), nn.MaxPool2d(3, 2, 1), nn.Flatten(), nn.Linear(120, 5))


class Mixed(nn.Module):
    """Concatenation, slices, padding, products of tensors and a mean."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Conv2d(4, 3, (3, 2), stride=(2, 1)), nn.Conv2d(4, 3, (3, 2), stride=(2, 1))

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.one(x), torch.sigmoid(self.other(x))
        both = torch.cat([a * b, F.pad(b, (1, 0))[..., :-1] - a], 1)
        return F.avg_pool2d(both[:, 1:5], 3, 2, 1).mean((2, 3))


NETS: dict[str, Callable[[], nn.Module]] = {
    "conv": lambda: nn.Sequential(nn.Conv2d(4, 5, 3, stride=2, padding=(2, 1), dilation=(1, 2)), nn.ReLU()),
    "conv of one dimension": lambda: nn.Sequential(
        nn.Flatten(2), nn.Conv1d(4, 6, 7, padding=3, stride=3), nn.BatchNorm1d(6), nn.ReLU(), nn.MaxPool1d(4)
    ),
    "grouped": lambda: nn.Sequential(nn.Conv2d(4, 8, 3, groups=2, padding=1, bias=False), nn.BatchNorm2d(8)),
    "pool after a layer": lambda: nn.Sequential(nn.Conv2d(4, 3, 3), nn.LeakyReLU(0.1), nn.MaxPool2d((2, 3), (1, 2))),
    "rows": lambda: nn.Sequential(nn.Linear(11, 7), nn.Hardtanh(), nn.Linear(7, 2)),
    "turned": lambda: nn.Sequential(Of(lambda x: x.transpose(2, 3)), nn.Linear(9, 5), nn.Tanh()),
    "average pools": lambda: nn.Sequential(nn.AvgPool2d(3, 2, 1, count_include_pad=False), nn.AvgPool2d(2, 1, 1)),
    "adaptive pools": lambda: nn.Sequential(nn.AdaptiveAvgPool2d((4, 5)), nn.AdaptiveMaxPool2d((2, 3))),
    "rounded up": lambda: nn.Sequential(nn.MaxPool2d(2, ceil_mode=True), nn.AvgPool2d(3, 2, ceil_mode=True)),
    "curves": lambda: nn.Sequential(nn.SiLU(), nn.GELU(), nn.Hardsigmoid(), nn.ELU(), nn.Softplus()),
    "sums": lambda: Of(lambda x: (x + x.mean((2, 3), keepdim=True) * 2).amax(3).sum(1)),
    "transposed": lambda: nn.Sequential(nn.ConvTranspose2d(4, 3, 3, stride=2, padding=1), nn.ReLU()),
    "stacked": lambda: Of(lambda x: torch.stack([x.abs(), F.relu(x)], 1).flatten(1, 2)),
    "padded by a number": lambda: nn.Sequential(nn.ConstantPad2d((2, 1, 0, 3), 0.5), nn.Conv2d(4, 3, 3, stride=2)),
    "moved": lambda: nn.Sequential(
        nn.Conv2d(4, 3, 3, stride=2),
        nn.UpsamplingNearest2d((7, 10)),
        Of(lambda x: x.roll(2, 3) + x.flip(2)[:, [2, 0, 0]]),
    ),
    "separable": _separable,
    "residual": _residual,
    "mixed": Mixed,
}


def network(name: str, zeros: float | None = 0.7) -> nn.Module:
    """One of ``NETS`` with BatchNorm as after a training, and ternary but for the first layer and depthwise ones."""
    torch.manual_seed(0)
    model = NETS[name]().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2)
        if zeros is not None and isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear) and module.weight[0].numel() > 9:
            ternarise(module.weight, zeros)
    return model


def inputs(count: int) -> Tensor:
    return torch.randn(count, 4, 9, 11, generator=torch.Generator().manual_seed(1))
