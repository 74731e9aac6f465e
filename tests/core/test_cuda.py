"""On a GPU, where there is one: the same codes, scales and gradients as on the CPU."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from tests.nni_adapter.nets import Net, batches
from ttq_plugin.core import METHODS, bake, ternarize

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
