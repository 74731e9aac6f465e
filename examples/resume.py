"""A training stopped after two epochs and resumed from a file equals one that was never stopped, bit for bit."""

from pathlib import Path

import nni
import torch
import torch.nn.functional as F
from nni.compression.utils import TorchEvaluator
from sklearn.datasets import load_digits
from torch import nn

from ttq_plugin import PTTQQuantizer

images, labels = load_digits(return_X_y=True)
x, y = torch.as_tensor(images, dtype=torch.float32) / 16, torch.as_tensor(labels)


def training(model, optimizer, training_step, scheduler=None, max_steps=None, max_epochs=None):
    for _ in range(max_epochs):
        for batch in torch.randperm(len(x)).split(32):
            optimizer.zero_grad()
            training_step((x[batch], y[batch]), model).backward()
            optimizer.step()
        scheduler.step()


def training_step(batch, model):
    return F.cross_entropy(model(batch[0]), batch[1])


def build():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    optimizer = nni.trace(torch.optim.Adam)(model.parameters(), lr=2e-3)
    scheduler = nni.trace(torch.optim.lr_scheduler.CosineAnnealingLR)(optimizer, T_max=5)
    evaluator = TorchEvaluator(training, optimizer, training_step, scheduler)
    return PTTQQuantizer(model, [{"op_names": ["0"], "target_names": ["weight"]}], evaluator)


never_stopped = build()
never_stopped.compress(max_epochs=5)

stopped = build()
stopped.compress(max_epochs=2)
stopped.save_checkpoint(Path("checkpoint.pt"))

resumed = build()
resumed.load_checkpoint(Path("checkpoint.pt"))
resumed.compress(max_epochs=3)

pairs = zip(never_stopped.export_model().parameters(), resumed.export_model().parameters(), strict=True)
print("equal:", all(torch.equal(a, b) for a, b in pairs), "after", resumed.steps, "steps")
