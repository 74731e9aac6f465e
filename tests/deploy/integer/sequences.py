"""Networks of recurrent layers, attention, norms and embeddings, which work on sequences of 6 times 5 numbers."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.deploy.integer.nets import Of
from tests.deploy.nets import ternarise


class Recurrent(nn.Module):
    """A recurrent layer, and a linear one on its last output or its last states."""

    def __init__(self, layer: nn.RNNBase, last: str = "output") -> None:
        super().__init__()
        self.layer, self.last = layer, last
        self.head = nn.Linear(layer.hidden_size * (2 if layer.bidirectional else 1), 3)

    def forward(self, x: Tensor) -> Tensor:
        found, state = self.layer(x if self.layer.batch_first else x.transpose(0, 1))
        if self.last == "states":
            return self.head(torch.cat([state[0][-2], state[0][-1]], 1))
        return self.head(found[:, -1] if self.layer.batch_first else found.mean(0))


class Normed(nn.Module):
    """A convolution with BatchNorm before a recurrent layer, and BatchNorm of its own after it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.first, self.last = nn.Conv1d(5, 6, 3), nn.BatchNorm1d(6), nn.BatchNorm1d(7)
        self.layer = nn.GRU(6, 7, batch_first=True)
        for norm in (self.first, self.last):
            norm.running_mean, norm.running_var = torch.rand(norm.num_features), torch.rand(norm.num_features) + 0.5

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(self.conv(x.transpose(1, 2)))).transpose(1, 2)
        return self.last(self.layer(x)[0][:, -1])


class Encoder(nn.Module):
    def __init__(self, **options: bool) -> None:
        super().__init__()
        self.first = nn.Linear(5, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 12, 0.0, batch_first=True, **options)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.first(x)).mean(1)


class Across(nn.Module):
    """Attention from a sequence to a longer one."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(5, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True, kdim=5, vdim=5)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(self.first(x[:, ::2]), x, x, need_weights=False)[0]


class ByHand(nn.Module):
    """Scores, a mask of terms, softmax and RMSNorm as models write them."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.value = nn.Linear(5, 6), nn.Linear(5, 6)
        self.weight = nn.Parameter(torch.rand(6) + 0.5)
        hidden = torch.ones(6, 6, dtype=torch.bool).triu(2) | (torch.arange(6) == 1)
        self.register_buffer("mask", torch.where(hidden, -math.inf, torch.randn(6, 6)))

    def forward(self, x: Tensor) -> Tensor:
        query, value = self.query(x), self.value(x)
        weights = torch.softmax(query @ query.transpose(1, 2) / 6**0.5 + self.mask, -1)
        y = weights @ value
        return self.weight * (y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-6))


class Grouped(nn.Module):
    """Causal attention of four heads, two of which share keys and values."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = nn.Linear(5, 12), nn.Linear(5, 6), nn.Linear(5, 6)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (layer(x).unflatten(2, (-1, 3)).transpose(1, 2) for layer in self.layers())
        found = F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
        return found.transpose(1, 2).flatten(2)

    def layers(self) -> tuple[nn.Module, nn.Module, nn.Module]:
        return self.query, self.key, self.value


NETS: dict[str, Callable[[], nn.Module]] = {
    "lstm": lambda: Recurrent(nn.LSTM(5, 7, 2, batch_first=True)),
    "lstm of both directions": lambda: Recurrent(nn.LSTM(5, 4, bidirectional=True, bias=False), "states"),
    "gru": lambda: Recurrent(nn.GRU(5, 7, batch_first=True)),
    "gru of both directions": lambda: Recurrent(nn.GRU(5, 4, 2, bidirectional=True)),
    "gru between norms": Normed,
    "rnn": lambda: Recurrent(nn.RNN(5, 6, batch_first=True)),
    "encoder": lambda: Encoder(norm_first=True),
    "encoder with norms after": lambda: nn.Sequential(Encoder(), nn.LayerNorm(8)),
    "across": Across,
    "by hand": ByHand,
    "grouped": Grouped,
    "norms": lambda: nn.Sequential(nn.GroupNorm(3, 6), nn.LayerNorm((6, 5)), nn.RMSNorm(5), nn.InstanceNorm1d(6)),
    "masked": lambda: Of(lambda x: torch.softmax((x @ x.mT).masked_fill(torch.ones(6, 6).triu(1) > 0, -torch.inf), -1)),
    "softmax over times": lambda: Of(lambda x: (torch.softmax(x[..., :1] * 3, 1) * x).sum(1)),
}


class Tokens(nn.Module):
    """An embedding of bytes and one of more, signals beside them, and logits by the same table."""

    def __init__(self) -> None:
        super().__init__()
        self.small, self.large, self.signal = nn.Embedding(7, 8), nn.Embedding(300, 8), nn.Linear(5, 8)
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 300, bias=False)
        self.head.weight = self.large.weight

    def forward(self, letters: Tensor, words: Tensor, x: Tensor) -> Tensor:
        return self.head(self.norm(self.small(letters) + self.large(words[:, :6]) + self.signal(x)).mean(1))


def ternary(model: nn.Module, zeros: float | None) -> nn.Module:
    """The model with values in its norms as after a training, and ternary matrices, or as it is."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name and parameter.dim() == 1:
                parameter.add_(0.3 * torch.randn(parameter.shape))
            if zeros is not None and parameter.dim() == 2 and "first" not in name and parameter.std() > 0:
                ternarise(parameter, zeros)
    return model.eval()


def network(name: str, zeros: float | None = 0.5) -> nn.Module:
    """One of ``NETS``."""
    torch.manual_seed(0)
    return ternary(NETS[name](), zeros)


def inputs(count: int) -> Tensor:
    return torch.randn(count, 6, 5, generator=torch.Generator().manual_seed(1))


def tokens(count: int) -> tuple[Tensor, Tensor, Tensor]:
    """What ``Tokens`` takes."""
    generator = torch.Generator().manual_seed(1)
    letters, words = (torch.randint(0, most, (count, size), generator=generator) for most, size in ((7, 6), (300, 9)))
    return letters, words, inputs(count)
