"""Fusion in one training: PTTQQuantizer, NNI's TaylorPruner on AGP's schedule, and distillation from the original."""

import copy

import nni
import torch
import torch.nn.functional as F
from nni.compression.distillation import DynamicLayerwiseDistiller
from nni.compression.pruning import AGPPruner, TaylorPruner
from nni.compression.utils import TorchEvaluator
from sklearn.datasets import load_digits
from torch import nn

from ttq_plugin import PTTQQuantizer

torch.manual_seed(0)
images, labels = load_digits(return_X_y=True)
x, y = torch.as_tensor(images, dtype=torch.float32) / 16, torch.as_tensor(labels)
train, test = torch.randperm(len(x)).split([1400, len(x) - 1400])
net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))


def training(model, optimizer, training_step, scheduler=None, max_steps=None, max_epochs=None):
    model.train()
    for _ in range(max_epochs):
        for batch in train[torch.randperm(len(train))].split(32):
            optimizer.zero_grad()
            training_step((x[batch], y[batch]), model).backward()
            optimizer.step()


def training_step(batch, model):
    return F.cross_entropy(model(batch[0]), batch[1])


def accuracy(model):
    with torch.no_grad():
        return (model.eval()(x[test]).argmax(1) == y[test]).float().mean().item()


training(net, torch.optim.Adam(net.parameters(), lr=2e-3), training_step, max_epochs=10)
teacher = copy.deepcopy(net)
print(f"teacher accuracy {accuracy(teacher):.3f}")

evaluator = TorchEvaluator(training, nni.trace(torch.optim.Adam)(net.parameters(), lr=1e-3), training_step)
ternary = [{"op_names": ["0", "2"], "target_names": ["weight"]}]
sparse = [{"op_names": ["0", "2"], "target_names": ["weight"], "sparse_ratio": 0.8, "granularity": [1, 1]}]
distil = [{"op_names": ["4"], "target_names": ["_output_"], "lambda": 0.5, "apply_method": "kl"}]

quantizer = PTTQQuantizer(net, ternary, evaluator, t_min=0.5, t_max=0.5)
pruner = TaylorPruner.from_compressor(quantizer, sparse, training_steps=20)
agp = AGPPruner(pruner, interval_steps=40, total_times=5)
fusion = DynamicLayerwiseDistiller.from_compressor(agp, distil, teacher, lambda batch, model: model(batch[0]))
fusion.compress(None, max_epochs=10)

compressed = quantizer.export_model()
print(f"student accuracy {accuracy(compressed):.3f}")
for name in ("0", "2"):
    weight = compressed.get_submodule(name).weight
    print(f"layer {name}: zeros {(weight == 0).float().mean():.3f}, values {weight.unique().tolist()}")
