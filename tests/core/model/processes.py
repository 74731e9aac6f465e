"""Run by test_attach_loops in two processes: sharded (FSDP2) and replicated (DDP) training beside training alone.

Usage: processes.py RANK WORLD RENDEZVOUS fsdp|ddp METHOD
"""

from __future__ import annotations

import sys

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import init_device_mesh
from torch.nn.parallel import DistributedDataParallel

from ttq_plugin.core.model.attach import bake, parameter_groups, project_, ternarize
from ttq_plugin.errors import InputError


def plain():
    torch.manual_seed(0)
    parts = (nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 5))
    return nn.Sequential(*parts).double()


def distributed(kind, model, world):
    if kind == "ddp":
        return DistributedDataParallel(model)
    mesh = init_device_mesh("cpu", (world,))
    for layer in (model[0], model[2]):
        fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def refusals(sharded):
    for attempt in (lambda: bake(sharded), lambda: ternarize(sharded, ["4"])):
        try:
            attempt()
        except InputError as error:
            print(error)


def main(rank, world, rendezvous, kind, method):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=world)
    alone, inner = ternarize(plain(), ["0", "2"], method), ternarize(plain(), ["0", "2"], method)
    together = distributed(kind, inner, world)
    # Rates at which scales leave their range, so that the projection acts.
    optimizers = [torch.optim.Adam(parameter_groups(m, 0.5, 0.5), lr=1e-2) for m in (alone, together)]
    generator = torch.Generator().manual_seed(1)
    for _ in range(6):
        x = torch.randn(8, 12, generator=generator, dtype=torch.float64)
        y = torch.randint(0, 5, (8,), generator=generator)
        for model, optimizer, shares in ((alone, optimizers[0], [1, 0]), (together, optimizers[1], [world, rank])):
            optimizer.zero_grad()
            F.cross_entropy(model(x.chunk(shares[0])[shares[1]]), y.chunk(shares[0])[shares[1]]).backward()
            optimizer.step()
        if kind == "fsdp":
            project_(together)
    project_(alone), project_(together)
    full = {k: v.full_tensor() if hasattr(v, "full_tensor") else v for k, v in inner.state_dict().items()}
    projected = False
    for key, value in alone.state_dict().items():
        projected |= bool((value == 1e-8).any())
        assert torch.allclose(full[key], value, rtol=1e-9, atol=1e-12), (key, full[key], value)
    assert projected
    twin = ternarize(plain(), ["0", "2"], method)
    twin.load_state_dict(full)
    assert torch.equal(bake(twin)[0].weight.sign(), bake(alone)[0].weight.sign())
    if kind == "fsdp":
        refusals(together)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
