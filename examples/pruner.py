"""A pruner whose masks are a ternary method's dead zone: element-wise, its thresholds learned while training."""

import nni
import torch
import torch.nn.functional as F
from nni.compression.utils import TorchEvaluator
from sklearn.datasets import load_digits
from torch import nn

from ttq_plugin import PTTQPruner

torch.manual_seed(0)
images, labels = load_digits(return_X_y=True)
x, y = torch.as_tensor(images, dtype=torch.float32) / 16, torch.as_tensor(labels)
train, test = torch.randperm(len(x)).split([1400, len(x) - 1400])
model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))


def training(model, optimizer, training_step, scheduler=None, max_steps=None, max_epochs=None):
    for _ in range(max_epochs):
        for batch in train[torch.randperm(len(train))].split(32):
            optimizer.zero_grad()
            training_step((x[batch], y[batch]), model).backward()
            optimizer.step()


def training_step(batch, model):
    return F.cross_entropy(model(batch[0]), batch[1])


def accuracy():
    with torch.no_grad():
        return (model(x[test]).argmax(1) == y[test]).float().mean().item()


optimizer = nni.trace(torch.optim.Adam)(model.parameters(), lr=2e-3)
training(model, optimizer, training_step, max_epochs=10)
print(f"full precision accuracy {accuracy():.3f}")

evaluator = TorchEvaluator(training, optimizer, training_step)
pruner = PTTQPruner(model, [{"op_names": ["0"], "target_names": ["weight"]}], evaluator, t_min=1.0, t_max=1.0)
_, masks = pruner.compress(None, max_epochs=10)
zeros = (masks["0"]["weight"] == 0).float().mean().item()
thresholds = pruner.health().layers[0].thresholds
print(f"pruned accuracy {accuracy():.3f} at {zeros:.1%} zeros, thresholds learned: {thresholds}")
