"""Networks with every kind of layer the curvature meets, and their exact Hessian traces in float64."""

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel


class ConvNet(nn.Module):
    """Convolution, BatchNorm, transposed convolution, dropout, linear."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(1, 3, 3)
        self.norm = nn.BatchNorm1d(3)
        self.up = nn.ConvTranspose1d(3, 2, 2)
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(14, 3)

    def forward(self, x):
        x = torch.tanh(self.norm(self.conv(x)))
        return self.fc(self.drop(torch.tanh(self.up(x))).flatten(1))


class AttentionNet(nn.Module):
    """One encoder layer, which torch would fuse in evaluation mode, and a head."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.TransformerEncoderLayer(4, 2, 5, dropout=0.2, batch_first=True, activation="gelu")
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.encoder(x).mean(1))


def linear():
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))


SHAPES = {linear: (4,), ConvNet: (1, 8), AttentionNet: (3, 4)}


def example(make, samples=6, dtype=torch.float64):
    """A model with non-trivial statistics and a batch."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = make().to(dtype)
        x, y = torch.randn(samples, *SHAPES[make], dtype=dtype), torch.randint(0, 3, (samples,))
        for _ in range(3):
            model(torch.randn(16, *SHAPES[make], dtype=dtype) + 0.3)
    return model, x, y


def exact_traces(model, loss_fn, x, y, names):
    """Diagonal of the dense Hessian of each named layer's weight, by double backward, summed."""
    training = model.training
    model.eval()
    found = {}
    with sdpa_kernel(SDPBackend.MATH):
        for name in names:
            weight = model.get_submodule(name).weight
            (g,) = torch.autograd.grad(loss_fn(model(x), y), weight, create_graph=True)
            total = 0.0
            for i, entry in enumerate(g.flatten()):
                (row,) = torch.autograd.grad(entry, weight, retain_graph=True)
                total += row.flatten()[i].item()
            found[name] = total
    model.train(training)
    return found
