"""What a training step costs beside the full-precision one, NNI's wrappers included.

``python -m tests.benchmarks.bench_step``; one thread, batch 32, Adamax. The variants take turns in blocks of steps, so
that a change of the machine's speed meets all of them; printed are the median ratio to the full-precision block of the
same turn, and its quartiles, and by how much a step raises the allocated memory at its peak. ``--net mnist-cnn`` is
small layers and real digits, where the number of operations counts; ``--net esr-2dcnn`` is 1.55 M weights and random
inputs, where the arithmetic does; the others are networks of the zoo, all but their first and last layer ternary by
``ternarize``, with scales a layer and a channel. ``TTQ_NATIVE=0`` in the environment measures the torch path.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass

import nni
import torch
import torch.nn.functional as F
from nni.compression.quantization import LsqQuantizer, QATQuantizer
from nni.compression.utils import TorchEvaluator
from torch import nn
from torch.profiler import ProfilerActivity, profile

from tests.benchmarks.turns import lines, take_turns
from tests.zoo.networks import cases
from ttq_plugin import ATTQQuantizer, PTTQQuantizer, TTQQuantizer
from ttq_plugin.core import METHODS, parameter_groups, ternarize
from ttq_plugin.errors import InputError
from ttq_plugin.native import training as native
from ttq_plugin.tasks import get_task
from ttq_plugin.tasks.builtin.cnn import CNN2D

BASE = "full precision"
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def digits(steps: int) -> list:
    train = get_task("mnist-cnn").load(None, 0).train
    return [(train.x[i : i + 32], train.y[i : i + 32]) for i in range(0, 32 * steps, 32)]


def noise(steps: int) -> list:
    generator = torch.Generator().manual_seed(0)
    return [
        (torch.randn(32, 1, 32, 37, generator=generator), torch.randint(2, (32,), generator=generator))
        for _ in range(steps)
    ]


@dataclass(frozen=True)
class Net:
    model: Callable[[], nn.Module]
    batches: Callable[[int], list]
    layers: list[str]
    turns: int
    steps: int


NETS = {
    "mnist-cnn": Net(lambda: get_task("mnist-cnn").model(), digits, ["conv1", "conv2"], 40, 50),
    "esr-2dcnn": Net(CNN2D, noise, ["conv2", "conv3", "conv4"], 12, 4),
}


def training_step(batch, model):
    return F.cross_entropy(model(batch[0]), batch[1])


def captured_step(quantizer_class, dtype: str, net: Net = NETS["mnist-cnn"]) -> Callable:
    """A function that does one training step as the quantizer's evaluator would."""
    captured = {}

    def loop(model, optimizer, step, *_):
        captured.update(model=model, optimizer=optimizer, loss=step, update=optimizer.step)

    torch.manual_seed(0)
    model = net.model()
    optimizer = nni.trace(torch.optim.Adamax)(model.parameters(), lr=1e-3)
    if quantizer_class is None:
        loop(model, optimizer, training_step)
    else:
        config = [{"op_names": net.layers, "target_names": ["weight"], "quant_dtype": dtype}]
        quantizer = quantizer_class(model, config, TorchEvaluator(loop, optimizer, training_step))
        quantizer.compress(None, 1)
    captured["model"].train()

    def run(batch) -> None:
        captured["optimizer"].zero_grad()
        captured["loss"](batch, captured["model"]).backward()
        captured["update"]()

    return run


ZOO = {
    "resnet18": (3, 32, 32),
    "mobilenetv2": (3, 32, 32),
    "llama": None,
    "bert-mini": None,
}
"""Networks of the zoo, and the shape of an input where it is not the zoo's."""


def fit(model: nn.Module, granularity: str) -> list[str]:
    """The names of all but the first and the last layer, without those that cannot be ternary.

    Of a depthwise convolution's nine random weights a channel, all may have one sign.
    """
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d)
    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, kinds)][1:-1]
    method = METHODS["pttq"].configure(on_empty="clip", channel=0 if granularity == "out_channel" else None)
    found = []
    for name, module in layers:
        try:
            method.init(module.weight, name)
        except InputError:
            continue
        found.append(name)
    print(f"{granularity}: {len(found)} of {len(layers)} inner layers")
    return found


def attached_step(name: str, granularity: str | None) -> Callable:
    """A function that does one training step of a network of the zoo."""
    zoo = cases()
    make, _, _ = zoo.NETS[name]
    torch.manual_seed(0)
    model = make().train()
    if granularity is not None:
        ternarize(model, fit(model, granularity), granularity=granularity, on_empty="clip")
    optimizer = torch.optim.Adamax(parameter_groups(model), lr=1e-3)

    def run(batch) -> None:
        optimizer.zero_grad()
        zoo.ce(zoo.call(model, batch[0]), batch[1]).backward()
        optimizer.step()

    return run


def zoo_variants(name: str) -> tuple[dict[str, Callable], list]:
    """The variants of a network of the zoo, and its one batch."""
    zoo, shape = cases(), ZOO[name]
    _, inputs, targets = zoo.NETS[name]
    torch.manual_seed(0)
    batch = (inputs(32) if shape is None else torch.randn(32, *shape), targets(32))
    kinds = {BASE: None, "pttq": "default", "pttq a channel": "out_channel"}
    return {label: attached_step(name, kind) for label, kind in kinds.items()}, [batch]


def nni_variants(net: Net, steps: int) -> tuple[dict[str, Callable], list]:
    """The variants of a network of the papers, and its batches."""
    variants = {
        BASE: captured_step(None, "", net),
        "ttq": captured_step(TTQQuantizer, "int2", net),
        "attq": captured_step(ATTQQuantizer, "int2", net),
        "pttq": captured_step(PTTQQuantizer, "int2", net),
        "NNI LSQ int2": captured_step(LsqQuantizer, "int2", net),
        "NNI QAT int8": captured_step(QATQuantizer, "int8", net),
    }
    return variants, net.batches(steps)


def over(run: Callable, batches: list) -> Callable[[], None]:
    """A step on the next batch each time."""
    endless = itertools.cycle(batches)
    return lambda: run(next(endless))


def peak(run: Callable, batch) -> int:
    """Bytes that a step allocates at its peak beyond what was allocated before it."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run(batch)
    moves = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    moves.sort(key=lambda event: event.start_ns())
    return max(itertools.accumulate(event.nbytes() for event in moves))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", choices=(*NETS, *ZOO), default="mnist-cnn")
    parser.add_argument("--turns", type=int)
    parser.add_argument("--steps", type=int, help="steps in a block")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu where others use the same cores")
    arguments = parser.parse_args()
    net = NETS.get(arguments.net)
    turns, steps = arguments.turns or (net.turns if net else 20), arguments.steps or (net.steps if net else 1)
    torch.set_num_threads(1)
    variants, batches = nni_variants(net, steps) if net else zoo_variants(arguments.net)
    steppers, clock = {name: over(run, batches) for name, run in variants.items()}, CLOCKS[arguments.clock]
    found = take_turns(steppers, turns, steps, clock=clock)
    peaks = {name: peak(run, batches[0]) for name, run in variants.items()}
    how = "native kernels" if native.kernels_for(torch.ones(1)) else "torch"
    print(f"{arguments.net}, batch 32, one thread, {arguments.clock} clock, {turns} turns of {steps} steps, {how}")
    for name, line in zip(found, lines(found, BASE), strict=True):
        print(f"{line}   peak {peaks[name] / 2**20:7.2f} MiB {peaks[name] / peaks[BASE]:6.3f}x")


if __name__ == "__main__":
    main()
