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


class SdpaNet(nn.Module):
    """Attention of plain linear layers and torch's fused function."""

    def __init__(self):
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(4, 4) for _ in range(3))
        self.head = nn.Linear(4, 3)
        with torch.no_grad():  # as they come, the softmax is so flat that queries and keys hardly matter
            self.query.weight *= 4
            self.key.weight *= 4

    def forward(self, x):
        q, k, v = (layer(x).unsqueeze(1) for layer in (self.query, self.key, self.value))
        return self.head(nn.functional.scaled_dot_product_attention(q, k, v).squeeze(1).mean(1))


class InPlaceNet(nn.Module):
    """A residual block as torchvision writes it: in-place ReLU after BatchNorm, in-place sum, in-place ReLU."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(2)
        self.again = nn.Conv2d(2, 2, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.fc = nn.Linear(18, 3)

    def forward(self, x):
        x = self.relu(self.norm(self.conv(x)))
        y = self.again(x)
        y += x
        return self.fc(self.relu(y).flatten(1))


class SharedNet(nn.Module):
    """A layer called twice, and two layers that are one parameter."""

    def __init__(self):
        super().__init__()
        self.twice = nn.Linear(4, 4)
        self.tied = nn.Linear(4, 4)
        self.other = nn.Linear(4, 4)
        self.other.weight = self.tied.weight
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        x = torch.tanh(self.twice(torch.tanh(self.twice(x))))
        return self.head(torch.tanh(self.other(torch.tanh(self.tied(x)))))


def linear():
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))


class RecurrentNet(nn.Module):
    """An embedding tied to the head, and a recurrent layer between."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(4, 2)
        self.gru = nn.GRU(2, 1, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2, 4)
        self.head.weight = self.embed.weight

    def forward(self, x):
        states, _ = self.gru(self.embed((2 * x[..., 0]).long().abs().clamp(max=3)) + x)
        return self.head(states.mean(1))


SHAPES = {
    linear: (4,),
    ConvNet: (1, 8),
    AttentionNet: (3, 4),
    SdpaNet: (3, 4),
    InPlaceNet: (1, 3, 3),
    SharedNet: (4,),
    RecurrentNet: (3, 2),
}
"""Shape of one sample of each network."""

LAYERS = {
    linear: ["0", "2"],
    ConvNet: ["conv", "up", "fc"],
    AttentionNet: [
        *("encoder.self_attn.in_proj_weight", "encoder.self_attn.out_proj"),
        *("encoder.linear1", "encoder.linear2", "head"),
    ],
    SdpaNet: ["query", "key", "value", "head"],
    InPlaceNet: ["conv", "again", "fc"],
    SharedNet: ["twice", "tied", "head"],
    RecurrentNet: ["embed", *(f"gru.weight_{kind}_l0{way}" for way in ("", "_reverse") for kind in ("ih", "hh"))],
}
"""The layers that have a trace of their own."""


def example(make, samples=6, dtype=torch.float64):
    """A model with non-trivial statistics and a batch."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = make().to(dtype)
        x, y = torch.randn(samples, *SHAPES[make], dtype=dtype), torch.randint(0, 3, (samples,))
        for _ in range(3):
            model(torch.randn(16, *SHAPES[make], dtype=dtype) + 0.3)
    return model, x, y


def parameter_of(name):
    """The parameter that a layer's name, or a matrix's, stands for."""
    return name if name.rpartition(".")[2].startswith(("weight_", "in_proj")) else f"{name}.weight"


def exact_traces(model, loss_fn, x, y, names):
    """Diagonal of the dense Hessian of each named layer's weight, by double backward, summed."""
    training = model.training
    model.eval()
    found = {}
    with sdpa_kernel(SDPBackend.MATH):
        for name in names:
            weight = model.get_parameter(parameter_of(name))
            (g,) = torch.autograd.grad(loss_fn(model(x), y), weight, create_graph=True)
            total = 0.0
            for i, entry in enumerate(g.flatten()):
                (row,) = torch.autograd.grad(entry, weight, retain_graph=True)
                total += row.flatten()[i].item()
            found[name] = total
    model.train(training)
    return found


def functional_trace(model, loss_fn, x, y, name):
    """The same by torch.func: the dense Hessian of the loss as a function of one weight."""
    key, training = parameter_of(name), model.training
    model.eval()
    weight = model.get_parameter(key).detach()
    with sdpa_kernel(SDPBackend.MATH):
        dense = torch.func.hessian(lambda w: loss_fn(torch.func.functional_call(model, {key: w}, (x,)), y))(weight)
    model.train(training)
    return dense.reshape(weight.numel(), weight.numel()).trace().item()
