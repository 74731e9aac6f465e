"""Small nets and loops for the adapter's tests; the data are the task's real digits where learning matters."""

from __future__ import annotations

import nni
import torch
import torch.nn.functional as F
from nni.compression.utils import TorchEvaluator
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(4, 8, 3)
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        return self.fc(self.relu(self.conv2(self.relu(self.conv1(x)))).mean(dim=(2, 3)))


def batches(n=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(16, 1, 8, 8, generator=generator), torch.randint(0, 5, (16,), generator=generator))
        for _ in range(n)
    ]


def training_step(batch, model):
    return F.cross_entropy(model(batch[0]), batch[1])


def make_loop(data=None, log=None):
    data = data or batches()

    def loop(model, optimizer, step, scheduler=None, max_steps=None, max_epochs=None):
        model.train()
        done = 0
        for _ in range(max_epochs or 10**6):
            for batch in data:
                if max_steps is not None and done >= max_steps:
                    return
                optimizer.zero_grad()
                step(batch, model).backward()
                optimizer.step()
                done += 1
            if log is not None:
                log.append([group["lr"] for group in optimizer.param_groups])
            if scheduler is not None:
                scheduler.step()

    return loop


def make_evaluator(model, *, lr=1e-2, log=None, optimizer=torch.optim.SGD, schedule=None, **kwargs):
    optim = nni.trace(optimizer)(model.parameters(), lr=lr, **kwargs)
    scheduler = nni.trace(schedule[0])(optim, **schedule[1]) if schedule else None
    return TorchEvaluator(make_loop(log=log), optim, training_step, scheduler)


def config(*names):
    return [{"op_names": list(names), "target_names": ["weight"], "quant_dtype": "int2"}]
