"""The papers' 1D CNN-Transformer for signals.

Attention and encoder layer are built from linear layers that are called: torch's own read the weights of their
projections (and, in evaluation, of their feed-forward layers) without calling the module, so that a compressor which
wraps modules cannot reach them.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017), (batch, tokens, width) -> the same."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = nn.Dropout(dropout)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """What each token takes from all."""
        q, k, v = (self._split(projection(x)) for projection in (self.query, self.key, self.value))
        mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=self.dropout.p if self.training else 0.0)
        taken: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return taken

    def _split(self, x: Tensor) -> Tensor:
        """(batch, tokens, width) -> (batch, heads, tokens, width / heads)."""
        parts: Tensor = x.unflatten(2, (self.heads, -1))
        return parts.transpose(1, 2)


class EncoderLayer(nn.Module):
    """`nn.TransformerEncoderLayer` (post-norm, ReLU, batch first) from layers that are called."""

    def __init__(self, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.attention = Attention(width, heads, dropout)
        self.norm1 = nn.LayerNorm(width)
        self.linear1 = nn.Linear(width, hidden)
        self.linear2 = nn.Linear(hidden, width)
        self.norm2 = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, tokens, width) -> the same."""
        x = self.norm1(x + self.dropout(self.attention(x)))
        hidden = self.dropout(F.relu(self.linear1(x)))
        out: Tensor = self.norm2(x + self.dropout(self.linear2(hidden)))
        return out


class CNNTransformer(nn.Module):
    """Three convolutions of width 3, a class token, encoder layers, and two linear layers on that token.

    conv3 is applied ``n_conv`` times with the same weights; MaxPool 2 and LeakyReLU follow every convolution. Input
    (batch, channels, length), output (batch, classes) logits. 109 942 parameters for ESR; 766 271 for HITS: channels 2,
    length 1400, classes 3, width 128, 8 layers, hidden 64, projection 10 (Vindas et al. 2024).
    """

    positions: Tensor

    def __init__(
        self,
        channels: int = 1,
        length: int = 178,
        classes: int = 2,
        *,
        width: int = 64,
        heads: int = 4,
        layers: int = 4,
        hidden: int = 8,
        projection: int = 4,
        n_conv: int = 2,
        dropout: float = 0.3,
    ) -> None:
        super().__init__()
        self.n_conv = n_conv
        self.conv1 = nn.Conv1d(channels, 128, 3)
        self.conv2 = nn.Conv1d(128, width, 3, padding=1)
        self.conv3 = nn.Conv1d(width, width, 3)
        self.class_token = nn.Parameter(torch.randn(1, 1, width) / math.sqrt(width))
        self.dropout = nn.Dropout(dropout)
        self.encoder = nn.Sequential(*(EncoderLayer(width, heads, hidden, dropout) for _ in range(layers)))
        self.norm1 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, projection)
        self.norm2 = nn.LayerNorm(projection)
        self.fc2 = nn.Linear(projection, classes)
        tokens = (length - 2) // 2 // 2
        for _ in range(n_conv):
            tokens = (tokens - 2) // 2
        self.register_buffer("positions", sinusoids(tokens + 1, width), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch."""
        for convolution in (self.conv1, self.conv2, *[self.conv3] * self.n_conv):
            x = F.leaky_relu(F.max_pool1d(convolution(x), 2))
        tokens = torch.cat([self.class_token.expand(x.shape[0], -1, -1), x.transpose(1, 2)], dim=1)
        tokens = self.dropout(tokens * math.sqrt(self.class_token.shape[2]) + self.positions)
        seen = self.encoder(tokens)[:, 0]
        logits: Tensor = self.fc2(self.norm2(self.fc1(self.norm1(seen))))
        return logits


def sinusoids(tokens: int, width: int) -> Tensor:
    """Sinusoidal positions (Vaswani et al. 2017, section 3.5), shape (tokens, width): sines even, cosines odd."""
    rates = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000) / width))
    angles = torch.arange(tokens).unsqueeze(1) * rates
    return torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)
