"""All layers' traces by one estimate, against PyHessian: the whole model, and layer by layer.

Run it from the project root: `python -m tests.benchmarks.bench_curvature [--probes 32] [--batch 128] [--repeats 9]`.
The MNIST CNN of the papers, one thread, equal probes, graph building included; medians, interleaved.
"""

import argparse
import math
import statistics
import time
import warnings

import torch
from pyhessian import hessian
from torch import nn

from tests.measures.nets import MnistCNN
from ttq_plugin.curvature import layer_traces

LOSS = nn.CrossEntropyLoss()
NEVER_EARLY = -math.inf  # tol=0 stops as soon as the running mean is negative: PyHessian divides by it, signed


def whole_model(model, batch, probes):
    """PyHessian's trace of all parameters."""
    result = hessian(model, LOSS, data=batch, cuda=False).trace(maxIter=probes, tol=NEVER_EARLY)
    model.zero_grad(set_to_none=True)
    return result


def layer_by_layer(model, batch, probes):
    """PyHessian's trace once a layer, everything else frozen."""
    weights = [m.weight for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    results = []
    for weight in weights:
        for parameter in model.parameters():
            parameter.requires_grad_(parameter is weight)
        results.append(whole_model(model, batch, probes))
    model.requires_grad_(True)
    return results


def all_layers(model, batch, probes):
    """Every layer's trace from the same probes."""
    return layer_traces(model, LOSS, [batch], probes=probes)


def a_layer_each(model, batch, probes):
    """The same without the noise of the other layers: one product a layer, on one shared graph."""
    return layer_traces(model, LOSS, [batch], probes=probes, joint=False)


def precision(model, batch, probes):
    """How many joint probes give the precision of one probe a layer: geometric mean over layers."""
    pairs = zip(all_layers(model, batch, probes), a_layer_each(model, batch, probes), strict=True)
    return math.exp(statistics.mean(2 * math.log(a.standard_error / b.standard_error) for a, b in pairs))


def main():
    """Print the three times and their ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--probes", type=int, default=32)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    warnings.filterwarnings("ignore", message="Using backward")
    model, batch = MnistCNN(), (torch.randn(options.batch, 1, 20, 20), torch.randint(0, 10, (options.batch,)))
    times = {call: [] for call in (all_layers, a_layer_each, whole_model, layer_by_layer)}
    for repeat in range(options.repeats + 1):
        for call, taken in times.items():
            start = time.perf_counter()
            found = call(model, batch, options.probes)
            if repeat:  # the first round warms up
                taken.append(time.perf_counter() - start)
            if call is all_layers:
                layers = len(found)
    ours, each, whole, single = (statistics.median(taken) for taken in times.values())
    print(f"MNIST CNN, {layers} layers, batch {options.batch}, {options.probes} probes, one thread")
    print(f"all layers at once       {1e3 * ours:8.1f} ms   {ours / whole:5.2f} x one whole-model trace of PyHessian")
    print(f"ours, joint=False        {1e3 * each:8.1f} ms   {each / whole:5.2f} x one whole-model trace of PyHessian")
    print(f"PyHessian, whole model   {1e3 * whole:8.1f} ms")
    print(f"PyHessian, a layer each  {1e3 * single:8.1f} ms   {single / ours:5.2f} x all layers at once")
    print(f"probes at once for the precision of one with joint=False: {precision(model, batch, options.probes):.0f}")


if __name__ == "__main__":
    main()
