"""The model comes back as it was, after success and after every error."""

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from ttq_plugin.curvature import generate_config, layer_traces
from ttq_plugin.curvature.layers import passed_over
from ttq_plugin.errors import InputError
from ttq_plugin.measures.untouched import untouched

from .nets import SHAPES, ConvNet, InPlaceNet, example, linear

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


@pytest.mark.parametrize("make", SHAPES)
@pytest.mark.parametrize("around", [torch.enable_grad, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("options", [{}, {"joint": False}, {"tol": 0.1}])
def test_after_success(make, around, options):
    model, x, y = prepared(make)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=2, shuffle=True)
    with around():
        switches = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        run_and_check(lambda: layer_traces(model, CE, loader, max_probes=3, **options), model)
        assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == switches


def test_autocast_around_it_changes_nothing():
    """Second derivatives in half precision would be mostly rounding."""
    model, x, y = example(InPlaceNet, dtype=torch.float32)
    plain = layer_traces(model, CE, (x, y), max_probes=3)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer_traces(model, CE, (x, y), max_probes=3) == plain
        assert torch.is_autocast_enabled("cpu") and model(x).dtype == torch.bfloat16


def test_a_default_device_around_it_changes_nothing():
    """What is drawn and summed names its device."""
    model, x, y = example(linear)
    plain = layer_traces(model, CE, (x, y), max_probes=3)
    with torch.device("meta"):
        assert layer_traces(model, CE, (x, y), max_probes=3) == plain


class Busy(nn.Module):
    """Does to its buffers, in evaluation mode, whatever can be done to buffers."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 3)
        for name in ("counted", "replaced", "grown", "kept"):
            self.register_buffer(name, torch.zeros(2))
        self.register_buffer("late", None)

    def forward(self, x):
        self.counted += 1
        self.replaced = self.replaced + 1
        self.grown.resize_(3).fill_(1)
        self.late = x[0].clone()
        self.register_buffer("new", x.mean(), persistent=False)
        return self.fc(torch.nn.functional.dropout(x)) * self.kept.exp().mean()


@pytest.mark.parametrize("tol", [None, 0.1])
def test_after_a_model_that_writes_its_buffers(tol):
    model = Busy()
    buffers, state = dict(model._buffers), {k: v.clone() for k, v in model.state_dict().items()}
    versions = model.kept._version
    random = torch.get_rng_state()
    layer_traces(model, CE, (torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1])), max_probes=20, tol=tol)
    assert model._buffers.keys() == buffers.keys()
    assert all(model._buffers[name] is buffer for name, buffer in buffers.items())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert model.kept._version == versions  # not even written
    assert not torch.equal(torch.get_rng_state(), random)  # torch.randn's, here in the test
    random = torch.get_rng_state()
    with pytest.raises(KeyboardInterrupt), untouched(model):
        model(torch.randn(5, 4))
        raise KeyboardInterrupt
    assert torch.equal(torch.get_rng_state(), random) and torch.equal(model.counted, torch.zeros(2))


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
    "not pairs": (lambda x, y: [x, y, x], "must be a pair .*got Tensor as batch 0: let the loader give"),
    "device": (lambda x, y: [(x.to("meta"), y)], "model's device cpu, got x of batch 0 on meta"),
    "device of y": (lambda x, y: [(x, y), (x, y.to("meta"))], "model's device cpu, got y of batch 1 on meta"),
    "device in y": (
        lambda x, y: [(x, {"class": [y, y.to("meta")]})],
        "got y of batch 0 on meta: move it with .to.'cpu'",
    ),
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


def test_memory_that_runs_out_is_not_called_a_bad_loss():
    model, x, y = prepared()

    class Full(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, g):
            return g + torch.empty(2**60)

    with pytest.raises(RuntimeError, match="can't allocate memory"):
        layer_traces(model, lambda o, y: CE(Full.apply(o), y), (x, y))
    assert model.training


def test_after_a_linear_loss():
    model = nn.Linear(3, 2)
    batches = [(torch.randn(4, 3), None)]
    message = "twice differentiable, got one whose gradient does not depend on the weights"
    run_and_check(lambda: layer_traces(model, lambda o, _: o.mean(), batches), model, message)
    message = "must depend on the layers' weights, got one that uses none of them"
    run_and_check(lambda: layer_traces(model, lambda o, _: model.bias.pow(2).sum(), batches), model, message)


def parametrised(model):
    for name in ("conv", "up", "fc"):
        nn.utils.parametrizations.weight_norm(model.get_submodule(name))
    return model


NO_LAYER = "must have a layer with a weight matrix that requires gradients, got none: unfreeze"


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda m: m.half(), {}, "float32 or float64 weights, got torch.float16 in layer 'conv': call model.float"),
        (lambda m: m.bfloat16(), {}, "float32 or float64 weights, got torch.bfloat16 in layer 'conv'"),
        (lambda m: m.requires_grad_(False), {}, NO_LAYER),
        (lambda m: nn.Sequential(nn.BatchNorm1d(1), nn.EmbeddingBag(3, 2)), {}, NO_LAYER),
        (parametrised, {}, NO_LAYER),
        (lambda m: nn.Sequential(m, nn.LazyLinear(3)), {}, "must have a shape, got '1' without one: run the model"),
        (lambda m: m, {"max_probes": 1}, "At least 2 probes are needed, because one gives no standard error; got 1"),
        (lambda m: m, {"probes": 0}, "At least 2 probes are needed, because one gives no standard error; got 0"),
        (lambda m: m, {"tol": 0}, "`tol` must be positive, or None for exactly `max_probes` probes; got 0"),
        (lambda m: m, {"tol": float("nan")}, "`tol` must be positive"),
        (lambda m: m, {"layers": ["norm"]}, "`layers` must name .*got 'norm'; the model has conv, up, fc"),
        (lambda m: m, {"layers": []}, "`layers` must name .*an empty list"),
    ],
)
def test_after_a_bad_question(change, options, message):
    model, x, y = prepared()
    model = change(model)
    if not any(isinstance(m, nn.LazyLinear) for m in model.modules()):
        run_and_check(lambda: layer_traces(model, CE, [(x, y)], **options), model, message)
        return
    with pytest.raises(InputError, match=message):
        layer_traces(model, CE, (x, y))
    assert isinstance(model[1], nn.LazyLinear) and model[0].training


def test_a_normalised_weight_takes_no_step_when_layers_are_listed():
    """Reading a spectrally normalised weight in training mode moves its vectors."""
    torch.manual_seed(0)
    model = nn.Sequential(spectral_norm(nn.Linear(4, 6)), nn.ReLU(), nn.Linear(6, 2))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert passed_over(model) == [("0", "the weight is computed from other tensors (parametrized, or by a hook)")]
    generate_config(model, CE, [(torch.randn(8, 4), torch.randint(2, (8,)))], max_probes=2, show=False)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
