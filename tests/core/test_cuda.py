"""On a GPU, where there is one: the same codes, scales and gradients as on the CPU."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from tests.core.nets import Net, batches
from tests.core.test_matrices import X, layer
from ttq_plugin.core import METHODS, bake, parameter_groups, ternarize

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
    for name, grad in grads.items():
        torch.testing.assert_close(other_grads[name], grad, rtol=1e-8, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")
    for name, weight in weights.items():
        torch.testing.assert_close(other_weights[name], weight, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("kind", ["lstm", "lstm-projected", "gru", "rnn", "attention", "encoder", "embedding"])
def test_layers_of_several_matrices_are_the_cpus(kind):
    """cuDNN's flattened weights, and the fused attention of evaluation, see the ternary values that the CPU sees."""
    check_several_matrices(kind, "cuda")


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
