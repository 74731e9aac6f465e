"""One of two processes that train the same net with DistributedDataParallel; run by ``test_ddp``."""

from __future__ import annotations

import sys

import nni
import torch
import torch.distributed as dist
from nni.compression.utils import TorchEvaluator
from torch.nn.parallel import DistributedDataParallel

from tests.nni_adapter.nets import Net, batches, config, training_step
from ttq_plugin.nni_adapter import PTTQQuantizer


def train(route: str, rank: int, world: int, zeros: float | None = None) -> dict:
    """Train on this rank's share of each batch.

    Routes: ``nni`` passes a distributed model to the quantizer, ``loop`` distributes what NNI has wrapped in the
    training loop, ``whole`` trains in one process on whole batches.
    """
    torch.manual_seed(rank)
    model = Net()
    if route == "nni":
        model = DistributedDataParallel(model)
    elif route == "loop":
        for value in model.state_dict().values():
            dist.broadcast(value, 0)

    def loop(model, optimizer, step, scheduler=None, max_steps=None, max_epochs=None):
        if route == "loop":
            model = DistributedDataParallel(model)
        for _ in range(max_epochs):
            for x, y in batches():
                share = slice(rank * 16 // world, (rank + 1) * 16 // world)
                optimizer.zero_grad()
                step((x[share], y[share]), model).backward()
                optimizer.step()

    optimizer = nni.trace(torch.optim.SGD)(model.parameters(), lr=1e-2, momentum=0.9)
    prefix = "module." if route == "nni" else ""
    names = config(f"{prefix}conv1", f"{prefix}conv2")
    asked = {} if zeros is None else {"zeros": zeros, "zeros_steps": 8}
    quantizer = PTTQQuantizer(model, names, TorchEvaluator(loop, optimizer, training_step), lr_threshold=1e-2, **asked)
    initial = {name: state.thresholds.detach().clone() for name, state in quantizer.states().items()}
    quantizer.compress(None, 2)
    states = {
        name.removeprefix("module."): {"initial": initial[name]} | {k: v.detach() for k, v in state.params.items()}
        for name, state in quantizer.states().items()
    }
    return {"states": states, "exported": quantizer.export_model().state_dict()}


def main(rank: str, world: str, rendezvous: str, result: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=int(rank), world_size=int(world))
    found = {route: train(route, int(rank), int(world)) for route in ("nni", "loop")}
    found["zeros"] = train("nni", int(rank), int(world), zeros=0.75)
    torch.save(found, result)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
