"""On a GPU, where there is one: the same codes, scales and gradients as on the CPU."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from tests.core.model.test_matrices import X, layer
from tests.core.nets import Net, batches
from tests.native.test_groups import CASES, SHAPES, check, weights
from ttq_plugin.core import METHODS, bake, parameter_groups, ternarize
from ttq_plugin.native.cuda import CudaKernels
from ttq_plugin.native.groups import group_kernels_for

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def learned(model, device):
    """Loss, gradients of all parameters, and the baked weights after one step, in float64 on the CPU."""
    model = model.to(device)
    [(x, y)] = batches(1)
    loss = F.cross_entropy(model(x.double().to(device)), y.to(device))
    loss.backward()
    grads = {name: p.grad.cpu() for name, p in model.named_parameters() if p.grad is not None}
    torch.optim.SGD(model.parameters(), lr=1e-2).step()
    return loss.cpu(), grads, {name: w.cpu() for name, w in bake(model).state_dict().items()}


@pytest.mark.parametrize("method", METHODS)
def test_one_step_is_the_cpus(method):
    torch.manual_seed(0)
    model = Net().double()
    ternarize(model, ["conv1", "conv2"], method=method)
    loss, grads, weights = learned(copy.deepcopy(model), "cpu")
    other_loss, other_grads, other_weights = learned(model, "cuda")
    torch.testing.assert_close(other_loss, loss, rtol=1e-10, atol=1e-12)
    assert other_grads.keys() == grads.keys() and other_weights.keys() == weights.keys()
    # The released code finds the gradients of its thresholds in float32 whatever the weight is in.
    close = 1e-6 if method == "pttq-released" else 1e-8
    for name, grad in grads.items():
        torch.testing.assert_close(other_grads[name], grad, rtol=close, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")
    for name, weight in weights.items():
        torch.testing.assert_close(other_weights[name], weight, rtol=close, atol=1e-12)


@pytest.mark.parametrize("kind", ["lstm", "lstm-projected", "gru", "rnn", "attention", "encoder", "embedding"])
def test_layers_of_several_matrices_are_the_cpus(kind):
    """cuDNN's flattened weights, and the fused attention of evaluation, see the ternary values that the CPU sees."""
    check_several_matrices(kind, "cuda")


@pytest.mark.parametrize("name, options", CASES)
@pytest.mark.parametrize("shape, channel", [*SHAPES, ((1_000_003,), None), ((3, 50_000), 0), ((70, 1000, 3), 1)])
def test_the_kernels_are_torchs_of_float64(name, options, shape, channel):
    method = METHODS[name].configure(channel=channel, on_empty="clip", normalize=False, **options)
    w = weights((1, *shape), 0).reshape(shape) if channel is None else weights(shape, channel)
    kernels = group_kernels_for(channel, w.cuda())
    assert isinstance(kernels, CudaKernels)
    check(kernels, method, w, "cuda")


@pytest.mark.parametrize("channel", [None, 0, 1])
@pytest.mark.parametrize("name", ["ttq", "attq", "pttq", "pttq-symmetric", "pttq-absolute"])
def test_codes_are_the_signs_of_the_step(name, channel):
    method = METHODS[name].configure(channel=channel, on_empty="clip")
    for seed in range(20):
        w = weights((60, 90 + seed, 3), channel or 0).cuda()
        params = method.init(w)[0]
        assert torch.equal(method.weights(w, params).sign().to(torch.int8), method.codes(w, params))


def test_training_starts_few_kernels_and_waits_for_none():
    """A layer's step is one to two kernels forward and one to two backward; nothing is read back by the CPU."""
    method, w = METHODS["pttq"], weights((1, 100_000), 0).reshape(-1).cuda().requires_grad_()
    leaves = {k: v.requires_grad_(k in method.learnable) for k, v in method.init(w)[0].items()}
    g = torch.ones_like(w)
    method.weights(w, leaves).backward(g)
    torch.cuda.set_sync_debug_mode("error")
    try:
        method.weights(w, leaves).backward(g)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    with torch.profiler.profile() as profiler:
        method.weights(w, leaves).backward(g)
        torch.cuda.synchronize()
    started = [e.name for e in profiler.events() if e.name.startswith("ttq_")]
    assert sorted(started) == ["ttq_gradients", "ttq_statistics", "ttq_sums", "ttq_ternarise"]


def test_a_graph_replays_the_step():
    """Kernels start on the stream that is captured, and read what the memory holds then."""
    method, w = METHODS["pttq"], weights((1, 5000), 0).reshape(-1).cuda()
    params = method.init(w)[0]
    with torch.no_grad():
        method.weights(w, params)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            q = method.weights(w, params)
        w.copy_(weights((1, 5000), 0).reshape(-1).cuda().flip(0))
        graph.replay()
        assert torch.equal(q, method.weights(w, params))
        assert q.unique().numel() == 3


def check_several_matrices(kind, device):
    """Two steps, each from the weights of its time, then evaluation and the baked model, on the CPU and a device."""
    found = []
    for place in ("cpu", device):
        model = ternarize(layer(kind), ["layer"], t_min=0.3, t_max=0.3, on_empty="clip").to(place)
        optimizer = torch.optim.SGD(parameter_groups(model), lr=1e-2)
        for _ in range(2):
            optimizer.zero_grad()
            model(X.to(place)).square().mean().backward()
            optimizer.step()
        copy.deepcopy(model)
        with torch.no_grad():
            out, baked = model.eval()(X.to(place)), bake(model)
            torch.testing.assert_close(baked(X.to(place)), out, rtol=1e-10, atol=1e-12)
        grads = {name: p.grad.cpu() for name, p in model.named_parameters() if p.grad is not None}
        found.append((grads, {name: w.cpu() for name, w in baked.state_dict().items()}, out.cpu()))
    torch.testing.assert_close(found[1], found[0], rtol=1e-7, atol=1e-10)
