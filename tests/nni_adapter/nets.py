"""Small nets and loops for the adapter's tests; the data are the task's real digits where learning matters."""

from __future__ import annotations

import nni
import torch
from nni.compression.utils import TorchEvaluator

from tests.core.nets import Net, batches, training_step

__all__ = ["Net", "batches", "config", "make_evaluator", "make_loop", "training_step"]


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
