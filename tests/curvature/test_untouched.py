"""The model comes back as it was, after success and after every error, and nothing leaks."""

import gc

import pytest
import torch
from torch import nn

from ttq_plugin.curvature import generate_config, layer_traces
from ttq_plugin.errors import InputError

from .nets import AttentionNet, ConvNet, example, linear

CE = nn.CrossEntropyLoss()


class Abrupt(torch.autograd.Function):
    """An operation with a first derivative only."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        return g


class Cubed(torch.autograd.Function):
    """An operation that once_differentiable would not even make autograd complain about."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.pow(3).sum()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        return g * 3 * ctx.saved_tensors[0] ** 2


class Unsupported(torch.autograd.Function):
    """A backward whose own derivative raises."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        return Raises.apply(g)


class Raises(torch.autograd.Function):
    @staticmethod
    def forward(ctx, g):
        return g.clone()

    @staticmethod
    def backward(ctx, g):
        raise RuntimeError("derivative for aten::thing is not implemented")


def snapshot(model):
    return {
        "flags": [m.training for m in model.modules()],
        "grads": [p.grad for p in model.parameters()],
        "requires": [p.requires_grad for p in model.parameters()],
        "ids": [id(p) for p in (*model.parameters(), *model.buffers())],
    }


def check_same(model, before, values, grads, random):
    after = snapshot(model)
    assert after["flags"] == before["flags"] and after["requires"] == before["requires"]
    assert after["ids"] == before["ids"]
    assert all(a is b for a, b in zip(after["grads"], before["grads"], strict=True))
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), values, strict=True))
    assert all(torch.equal(a, b) for a, b in zip((g for g in after["grads"] if g is not None), grads, strict=True))
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.backends.mha.get_fastpath_enabled() and torch.backends.cuda.flash_sdp_enabled()


def prepared(make=ConvNet):
    """A model in training mode with one submodule in evaluation mode, one gradient, one frozen bias."""
    model, x, y = example(make)
    model.train()
    list(model.modules())[-1].eval()
    parameters = list(model.parameters())
    parameters[0].grad = torch.ones_like(parameters[0])
    parameters[-1].requires_grad_(False)
    return model, x, y


def run_and_check(call, model, message=None):
    before, values = snapshot(model), [v.clone() for v in model.state_dict().values()]
    grads, random = [g.clone() for g in before["grads"] if g is not None], torch.get_rng_state()
    if message is None:
        call()
    else:
        with pytest.raises(InputError, match=message):
            call()
    check_same(model, before, values, grads, random)


@pytest.mark.parametrize("make", [linear, ConvNet, AttentionNet])
@pytest.mark.parametrize("grad", [True, False])
def test_after_success(make, grad):
    model, x, y = prepared(make)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=2, shuffle=True)
    with torch.set_grad_enabled(grad):
        run_and_check(lambda: generate_config(model, CE, loader, probes=3), model)


ERRORS = {
    "not scalar": (lambda o, y: nn.functional.cross_entropy(o, y, reduction="none"), "scalar tensor, got shape"),
    "no tensor": (lambda o, y: 1.0, "scalar tensor, got a float: average"),
    "nan": (lambda o, y: CE(o, y) * float("nan"), "must be finite, got nan on batch 0"),
    "inf": (lambda o, y: CE(o, y) + float("inf"), "must be finite, got inf on batch 0"),
    "detached": (lambda o, y: CE(o, y).detach(), "must depend on the layers' weights, got one detached"),
    "once": (lambda o, y: CE(Abrupt.apply(o), y), "twice differentiable, got an operation that is not .*once_diff"),
    "once, silently": (lambda o, y: Cubed.apply(o), "twice differentiable, got .*CubedBackward is marked once_diff"),
    "raises": (
        lambda o, y: CE(Unsupported.apply(o), y),
        r"twice differentiable, got .*\(derivative for aten::thing is",
    ),
    "root": (lambda o, y: (CE(o, y) - CE(o, y)).abs().sqrt(), "finite second derivatives, got nan in layer 'conv'"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_after_a_bad_loss(case):
    model, x, y = prepared()
    loss, message = ERRORS[case]
    run_and_check(lambda: layer_traces(model, loss, [(x, y)], probes=2), model, message)


BATCHES = {
    "empty": (lambda x, y: [], "must hold at least one pair .*got none"),
    "not pairs": (lambda x, y: (x, y), "must be a pair .*got Tensor as batch 0: wrap a single batch in a list"),
    "device": (lambda x, y: [(x.to("meta"), y)], "model's device cpu, got x of batch 0 on meta"),
    "device of y": (lambda x, y: [(x, y), (x, y.to("meta"))], "model's device cpu, got y of batch 1 on meta"),
}


@pytest.mark.parametrize("case", BATCHES)
@pytest.mark.parametrize("tol", [None, 0.1])
def test_after_bad_batches(case, tol):
    model, x, y = prepared()
    batches, message = BATCHES[case]
    run_and_check(lambda: layer_traces(model, CE, batches(x, y), probes=2, tol=tol), model, message)


def test_after_an_error_in_the_model():
    model, x, y = prepared()
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        layer_traces(model, CE, [(torch.cat([x, x], 2), y)], probes=2)
    assert model.training


def test_after_a_linear_loss():
    model = nn.Linear(3, 2)
    batches = [(torch.randn(4, 3), None)]
    message = "twice differentiable, got one whose gradient does not depend on the weights"
    run_and_check(lambda: layer_traces(model, lambda o, _: o.mean(), batches), model, message)
    message = "must depend on the layers' weights, got one that uses none of them"
    run_and_check(lambda: layer_traces(model, lambda o, _: model.bias.pow(2).sum(), batches), model, message)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda m: m.half(), {}, "float32 or float64 weights, got torch.float16 in layer 'conv': call model.float"),
        (lambda m: m.requires_grad_(False), {}, "weight requires gradients, got none: unfreeze"),
        (lambda m: m, {"probes": 1}, "`probes` must be at least 2.*got 1"),
        (lambda m: m, {"tol": 0}, "`tol` must be positive"),
        (lambda m: m, {"layers": ["norm"]}, "`layers` must name .*got 'norm'; the model has conv, up, fc"),
        (lambda m: m, {"layers": []}, "`layers` must name .*an empty list"),
    ],
)
def test_after_a_bad_question(change, options, message):
    model, x, y = prepared()
    model = change(model)
    run_and_check(lambda: layer_traces(model, CE, [(x, y)], **options), model, message)


def test_no_tensor_outlives_a_call():
    """With the garbage collector off, reference cycles would keep the graphs of all 100 calls alive."""
    model, x, y = example(ConvNet)

    def tensors():
        return sum(isinstance(o, torch.Tensor) for o in gc.get_objects())

    def call():
        layer_traces(model, CE, [(x, y), (x, y)], probes=2)

    call()
    gc.collect()
    gc.disable()
    try:
        before = tensors()
        for _ in range(100):
            call()
        after = tensors()
    finally:
        gc.enable()
    assert after == before
