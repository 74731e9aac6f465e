"""A method as a torch parametrization: refusals, groups, bake, and torch's own machinery."""

from __future__ import annotations

import copy
import io
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize, prune

from ttq_plugin.core import METHODS
from ttq_plugin.core.model.attach import AttachedTernary, bake, parameter_groups, ternarize
from ttq_plugin.errors import InputError

LAYERS = ["conv1", "conv2"]
NAMES = pytest.mark.parametrize("name", METHODS)
CHANNELS = {"granularity": "out_channel", "on_empty": "clip"}
LEARNING = [name for name, method in METHODS.items() if method.learnable]


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 3)
        self.norm = nn.BatchNorm2d(6)
        self.conv2 = nn.Conv2d(6, 8, 3)
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        return self.fc(F.relu(self.conv2(F.relu(self.norm(self.conv1(x))))).mean(dim=(2, 3)))


def net(seed=0):
    torch.manual_seed(seed)
    return Net()


def state(model, name):
    return model.get_submodule(name).parametrizations.weight[0]


def latent(model, name):
    return model.get_submodule(name).parametrizations.weight.original


def batch(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(16, 1, 8, 8, generator=generator), torch.randint(0, 5, (16,), generator=generator)


def train(model, optimizer, steps=5):
    for seed in range(steps):
        x, y = batch(seed)
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()


@NAMES
def test_attaches_trains_and_bakes_exactly_three_values(name):
    model = net()
    assert ternarize(model, LAYERS, name) is model
    before = {layer: (latent(model, layer).clone(), state(model, layer).scales.clone()) for layer in LAYERS}
    train(model, torch.optim.SGD(parameter_groups(model), lr=1e-2))
    baked = bake(model)
    for layer in LAYERS:
        attached = state(model, layer)
        assert not torch.equal(before[layer][0], latent(model, layer))
        assert torch.equal(before[layer][1], attached.scales) != ("scales" in attached.method.learnable)
        weight = baked.get_submodule(layer).weight
        assert torch.equal(weight, attached.method.weights(latent(model, layer), attached.params))
        assert torch.equal(weight.sign().to(torch.int8), attached.codes(latent(model, layer)))
        assert len(weight.unique()) <= 3
        if "scales" in attached.method.learnable:
            positive, negative = attached.scales.tolist()
            assert set(weight.unique().tolist()) == {-negative, 0.0, positive}
    assert len(baked.fc.weight.unique()) > 3


@NAMES
def test_the_first_weights_are_the_method_s_own(name):
    plain, model = net(), ternarize(net(), LAYERS, name)
    for layer in LAYERS:
        w = plain.get_submodule(layer).weight
        params, _ = METHODS[name].init(w)
        assert torch.equal(model.get_submodule(layer).weight, METHODS[name].weights(w, params))
        attached = state(model, layer)
        assert {n for n, _ in attached.named_parameters()} == set(attached.method.learnable)
        assert {n for n, _ in attached.named_buffers()} == set(params) - set(attached.method.learnable)


def test_a_method_may_be_a_value_and_options_reach_it():
    model = ternarize(net(), ["conv1"], METHODS["pttq"].configure(t_min=0.5), t_max=0.7, learn_alpha=True)
    assert state(model, "conv1").thresholds.tolist() == pytest.approx([0.5, 0.7])
    assert isinstance(state(model, "conv1").alpha, nn.Parameter)


@pytest.mark.parametrize("module, shape", [(nn.Conv2d(4, 6, 5), (2, 6, 1, 1, 1)), (nn.Linear(60, 7), (2, 7, 1))])
def test_granularity_out_channel(module, shape):
    model = ternarize(nn.Sequential(module), ["0"], granularity="out_channel")
    assert state(model, "0").scales.shape == shape
    weight = bake(model)[0].weight
    assert all(len(channel.unique()) == 3 for channel in weight)


def test_global_thresholds_are_one_parameter_of_all_layers():
    model = ternarize(net(), LAYERS, "pttq-global", t_min=9, t_max=0.5, on_empty="clip")
    shared = state(model, "conv1").thresholds
    assert shared is state(model, "conv2").thresholds and shared[0] < 2
    ids = [id(p) for group in parameter_groups(model) for p in group["params"]]
    assert ids.count(id(shared)) == 1
    train(model, torch.optim.SGD(parameter_groups(model, lr_threshold=0.1), lr=1e-2))
    twin = copy.deepcopy(model)
    assert state(twin, "conv1").thresholds is state(twin, "conv2").thresholds
    assert torch.equal(bake(model).conv2.weight, model.conv2.weight)
    with pytest.raises(InputError, match="layers with one threshold per channel cannot share their thresholds"):
        ternarize(net(), LAYERS, "pttq-global", granularity="out_channel", on_empty="clip")


def test_granularity_out_channel_of_a_transposed_convolution():
    model = ternarize(nn.Sequential(nn.ConvTranspose2d(8, 3, 5)), ["0"], granularity="out_channel")
    assert state(model, "0").scales.shape == (2, 1, 3, 1, 1)
    assert all(len(bake(model)[0].weight[:, channel].unique()) == 3 for channel in range(3))


@pytest.mark.parametrize(
    "module, shape",
    [
        (nn.Conv1d(3, 8, 5), (2, 3, 9)),
        (nn.Conv2d(3, 8, 5), (2, 3, 9, 9)),
        (nn.Conv3d(3, 8, 3), (2, 3, 5, 5, 5)),
        (nn.ConvTranspose1d(3, 8, 5), (2, 3, 9)),
        (nn.ConvTranspose2d(3, 8, 5), (2, 3, 9, 9)),
        (nn.ConvTranspose3d(3, 8, 3), (2, 3, 5, 5, 5)),
        (nn.Linear(20, 8, bias=False), (2, 20)),
    ],
)
def test_every_layer_type(module, shape):
    plain = nn.Sequential(module)
    model = ternarize(copy.deepcopy(plain), ["0"])
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    model(x).square().sum().backward()
    assert latent(model, "0").grad.abs().sum() > 0 and state(model, "0").thresholds.grad.abs().min() > 0
    baked = bake(model)
    assert list(baked.state_dict()) == list(plain.state_dict()) and type(baked[0]) is type(module)
    assert torch.equal(baked(x), model(x))


# Refusals ------------------------------------------------------------------------------------------------------------


def half_tied():
    model = nn.Sequential(nn.Linear(9, 9), nn.Linear(9, 9))
    model[1].weight = model[0].weight
    nn.utils.parametrizations.weight_norm(model[1], "bias", dim=None)
    return model


def frozen():
    model = net()
    model.conv2.weight.requires_grad_(False)
    return model


def with_nan():
    model = net()
    model.conv2.weight.data[0, 0, 0, 0] = float("nan")
    return model


def masked():
    model = net()
    prune.l1_unstructured(model.conv2, "weight", 0.5)
    return model


def spectral():
    model = net()
    nn.utils.parametrizations.spectral_norm(model.conv2)
    return model


REFUSED = [
    (net, [], "layers must name at least one layer, got none; the model's layers are conv1, conv2, fc"),
    (net, "conv2", "layers must be a list of layer names, got 'conv2'"),
    (net, ["conv1", "conv3"], "layers names 'conv3', which the model does not have; .* conv1, conv2, fc"),
    (net, [None], "layers names None, which the model does not have"),
    (net, ["conv1", "conv1"], "layers names the same layer more than once: conv1, conv1"),
    (net, ["conv1", "norm"], "norm: a BatchNorm2d cannot be ternary, only convolutions, linear layers, .* can"),
    (net, ["conv1", "norm.weight"], r"norm.weight: is not a matrix, since its shape is \(6,\); leave it out"),
    (net, ["conv1", "conv2.scale"], "layers names 'conv2.scale', which the model does not have"),
    (net, ["conv1", "conv2.stride"], "conv2.stride: is not a plain parameter; name the module that holds it"),
    (spectral, LAYERS, "conv2: already has a parametrization; bake or remove it first"),
    (lambda: ternarize(net(), ["conv2"]), LAYERS, "conv2: already has a parametrization"),
    (masked, LAYERS, "conv2: its weight is not a plain parameter"),
    (frozen, LAYERS, r"conv2: the weight is frozen \(requires_grad is False\)"),
    (with_nan, LAYERS, "conv2: weights must be finite"),
    (lambda: net().to(torch.bfloat16), LAYERS, "conv1: a bfloat16 weight loses small updates"),
    (lambda: net().to("meta"), LAYERS, "conv1.weight holds no values yet"),
    (lambda: nn.Sequential(nn.LazyLinear(4)), ["0"], "0.weight must have a shape, but its lazy layer has never run"),
    (lambda: nn.Sequential(nn.Embedding(9, 4, max_norm=1.0)), ["0"], "0: max_norm would rescale ternary rows"),
    (lambda: nn.Sequential(nn.Embedding(9, 4, sparse=True)), ["0"], "0: its gradients are sparse"),
    (half_tied, ["0"], "1: already has a parametrization; bake or remove it first"),
]


@pytest.mark.parametrize("make, layers, message", REFUSED)
def test_what_cannot_be_is_refused_and_the_model_left_as_it_was(make, layers, message):
    model = make()
    types, keys = [type(m) for m in model.modules()], list(model.state_dict())
    with pytest.raises(InputError, match=message):
        ternarize(model, layers)
    assert [type(m) for m in model.modules()] == types and list(model.state_dict()) == keys


@pytest.mark.parametrize(
    "options, message",
    [
        ({"method": "qtt"}, "method must be one of .*pttq.*, got 'qtt'"),
        ({"t_min": -1}, "t_min must not be negative, got -1"),
        ({"slope": 3}, "pttq has no option 'slope'"),
        ({"t_max": 9}, "conv1: the threshold at .* sigma .* leaves no positive weight"),
        ({"granularity": "per_channel"}, "granularity must be default or out_channel"),
    ],
)
def test_options_that_cannot_be_leave_the_model_as_it_was(options, message):
    model = net()
    with pytest.raises(InputError, match=message):
        ternarize(model, LAYERS, **options)
    assert not any(parametrize.is_parametrized(m) for m in model.modules())


def test_an_nni_wrapped_layer_is_refused():
    from tests.nni_adapter import nets
    from ttq_plugin.nni_adapter import PTTQQuantizer

    model = nets.Net()
    PTTQQuantizer(model, nets.config("conv2"))
    with pytest.raises(InputError, match=r"conv2: is wrapped by an NNI compressor; call its unwrap_model\(\) first"):
        ternarize(model, LAYERS)
    assert not parametrize.is_parametrized(model.conv1)


def test_a_clipped_threshold_is_told():
    with pytest.warns(UserWarning, match="conv1: thresholds lowered to t_min = 1, t_max = "):
        ternarize(net(), LAYERS, t_max=9, on_empty="clip")


def test_core_attach_knows_no_framework():
    code = (
        "import sys, ttq_plugin.core.model.attach; print([m for m in ('nni', 'optuna', 'mlflow') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


# Groups --------------------------------------------------------------------------------------------------------------


@NAMES
@pytest.mark.parametrize("learn_alpha", [False, True])
def test_groups_hold_each_parameter_once(name, learn_alpha):
    model = ternarize(net(), LAYERS, name, **({"learn_alpha": True} if learn_alpha else {}))
    groups = parameter_groups(model, 2e-3, 3e-4, weight_decay=0.1)
    ids = [id(p) for group in groups for p in group["params"]]
    assert len(ids) == len(set(ids)) and set(ids) == {id(p) for p in model.parameters()}
    assert groups[0]["weight_decay"] == 0.1 and "lr" not in groups[0]
    learned = {"scales": 2e-3, "thresholds": 3e-4, "alpha": 3e-4}
    for group in groups[1:]:
        assert group["weight_decay"] == 0.0
        for p in group["params"]:
            (key,) = {n for layer in LAYERS for n, q in state(model, layer).named_parameters() if q is p}
            assert group["lr"] == learned[key]
    rates = {learned[n] for n in state(model, "conv1").method.learnable}
    assert {group["lr"] for group in groups[1:]} == rates and len(groups) == 1 + len(rates)


def test_groups_of_a_full_precision_model_and_without_rates():
    model = net()
    (group,) = parameter_groups(model)
    assert [id(p) for p in group["params"]] == [id(p) for p in model.parameters()] and set(group) == {"params"}
    ternarize(model, LAYERS)
    assert all("lr" not in group for group in parameter_groups(model, None, None))
    optimizer = torch.optim.Adam(parameter_groups(model, None), lr=0.5)
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.5, 1e-4]


@pytest.mark.parametrize("rate", [-1.0, float("nan"), "fast", True])
def test_rates_that_cannot_be(rate):
    with pytest.raises(InputError, match="lr_scale must be a number of at least 0"):
        parameter_groups(net(), lr_scale=rate)


# Projection ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LEARNING)
def test_what_a_step_took_out_of_range_comes_back_before_it_is_used(name):
    model = ternarize(net(), LAYERS, name)
    attached = state(model, "conv1")
    with torch.no_grad():
        for parameter in attached.parameters():
            parameter.fill_(-1.0)
    twin, baked = copy.deepcopy(model), bake(model)
    assert attached.scales.tolist() == [-1.0, -1.0]  # bake changes its copy only
    assert baked.conv1.weight.abs().max().item() == pytest.approx(1e-8)
    assert torch.equal(twin.conv1.weight, baked.conv1.weight)
    assert all(bool((p == 1e-8).all()) for p in state(twin, "conv1").parameters())


def test_a_layer_used_twice_before_the_backward_pass():
    """The projection of the second use must not spoil what autograd saved at the first."""
    torch.manual_seed(0)
    model = ternarize(nn.Sequential(nn.Linear(8, 8)), ["0"])
    x = torch.randn(3, 8)
    model(model(x)).square().sum().backward()
    twice, scales = latent(model, "0").grad.clone(), state(model, "0").scales.grad.clone()
    attached = state(model, "0")
    w = latent(model, "0").detach().requires_grad_()
    leaves = {k: v.detach().requires_grad_(v.requires_grad) for k, v in attached.params.items()}
    weight = attached.method.weights(w, leaves)
    F.linear(F.linear(x, weight, model[0].bias), weight, model[0].bias).square().sum().backward()
    assert torch.allclose(twice, w.grad, rtol=1e-5) and torch.allclose(scales, leaves["scales"].grad, rtol=1e-5)


# Bake ----------------------------------------------------------------------------------------------------------------


@NAMES
def test_bake_gives_the_plain_model_and_leaves_the_other_trainable(name):
    plain, model = net(), ternarize(net(), LAYERS, name)
    optimizer = torch.optim.SGD(parameter_groups(model), lr=1e-2)
    train(model, optimizer)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    baked = bake(model.eval())
    assert [(n, type(m)) for n, m in baked.named_modules()] == [(n, type(m)) for n, m in plain.named_modules()]
    assert list(baked.state_dict()) == list(plain.state_dict())
    assert [n for n, _ in baked.named_parameters()] == [n for n, _ in plain.named_parameters()]
    assert all(isinstance(p, nn.Parameter) and p.requires_grad and p.is_leaf for p in baked.parameters())
    assert baked.training is False and model.training is False
    x, _ = batch()
    assert torch.equal(baked(x), model(x))
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    with torch.no_grad():
        for parameter in baked.parameters():
            parameter.zero_()
    train(model.train(), optimizer)
    assert not torch.equal(before["conv2.parametrizations.weight.original"], latent(model, "conv2"))
    again = bake(model)
    assert torch.equal(again.conv2.weight, model.conv2.weight)


def test_a_baked_model_pickles_loads_and_can_be_ternarised_again():
    baked = bake(ternarize(net(), LAYERS))
    buffer = io.BytesIO()
    torch.save(baked, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=False)
    assert torch.equal(loaded.conv1.weight, baked.conv1.weight)
    again = bake(ternarize(copy.deepcopy(baked), LAYERS, t_min=0.1, t_max=0.1))
    assert torch.equal(again.conv1.weight.sign(), baked.conv1.weight.sign())


def test_bake_refuses_what_it_cannot_make_plain():
    with pytest.raises(
        InputError, match=r"the model has no ternary layer to bake; call ternarize\(model, layers\) first"
    ):
        bake(net())

    class Half(nn.Module):
        def forward(self, w):
            return w / 2

    for tensor in ("weight", "bias"):
        model = ternarize(net(), LAYERS)
        parametrize.register_parametrization(model.conv2, tensor, Half())
        with pytest.raises(InputError, match="conv2: has other parametrizations besides the ternary one"):
            bake(model)


def test_other_layers_keep_their_own_parametrizations():
    model = net()
    nn.utils.parametrizations.weight_norm(model.fc)
    baked = bake(ternarize(model, LAYERS))
    assert parametrize.is_parametrized(baked.fc) and not parametrize.is_parametrized(baked.conv1)
    x, _ = batch()
    assert torch.equal(baked.eval()(x), model.eval()(x))


# Copies and files ----------------------------------------------------------------------------------------------------


@NAMES
def test_deep_copies_train_alone_and_alike(name):
    model = ternarize(net(), LAYERS, name)
    twin = copy.deepcopy(model)
    train(twin, torch.optim.Adam(parameter_groups(twin), lr=1e-2))
    assert not torch.equal(latent(model, "conv1"), latent(twin, "conv1"))
    train(model, torch.optim.Adam(parameter_groups(model), lr=1e-2))
    for key, value in model.state_dict().items():
        assert torch.equal(value, twin.state_dict()[key]), key


@NAMES
def test_training_resumed_from_files_is_training_never_stopped(name):
    model = ternarize(net(), LAYERS, name)
    optimizer = torch.optim.Adamax(parameter_groups(model, 0.05, 0.05), lr=1e-2)
    train(model, optimizer)
    buffer = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, buffer)
    train(model, optimizer)
    buffer.seek(0)
    file = torch.load(buffer, weights_only=True)
    other = ternarize(net(seed=1), LAYERS, name)
    other.load_state_dict(file["model"])
    resumed = torch.optim.Adamax(parameter_groups(other, 0.05, 0.05), lr=1e-2)
    resumed.load_state_dict(file["optimizer"])
    train(other, resumed)
    for key, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[key]), key


# The fused encoder layer ---------------------------------------------------------------------------------------------


def test_the_fused_path_of_an_encoder_layer_uses_the_current_ternary_weight(monkeypatch):
    torch.manual_seed(0)
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.0), 2)
    names = [f"layers.{i}.linear{j}" for i in range(2) for j in (1, 2)]
    ternarize(encoder, names)
    x = torch.randn(3, 5, 16)
    fused, calls = torch._transformer_encoder_layer_fwd, []
    monkeypatch.setattr(torch, "_transformer_encoder_layer_fwd", lambda *a: calls.append(1) or fused(*a))
    optimizer = torch.optim.SGD(parameter_groups(encoder, lr_scale=0.1), lr=0.5)
    for _ in range(2):
        encoder.train()
        encoder(x).square().sum().backward()
        optimizer.step()
        slow = encoder(x)
        with torch.no_grad():
            calls.clear()
            fast = encoder.eval()(x)
            assert len(calls) == 2
            assert torch.allclose(fast, slow, atol=1e-5)
            assert torch.equal(fast, bake(encoder)(x))


# torch.compile -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, options", [*[(n, {}) for n in METHODS], ("pttq", CHANNELS), ("ttq", CHANNELS)])
def test_a_compiled_model_trains_as_the_eager_one(name, options):
    """One graph without breaks; values and gradients equal up to the rounding of sums in another order."""
    torch._dynamo.reset()
    models = [ternarize(net().double(), LAYERS, name, **options) for _ in range(2)]
    compiled = torch.compile(models[1], backend="aot_eager", fullgraph=True)
    optimizers = [torch.optim.SGD(parameter_groups(m, 0.1, 0.1), lr=0.1) for m in models]
    for seed in range(3):
        x, y = batch(seed)
        for model, optimizer in zip((models[0], compiled), optimizers, strict=True):
            optimizer.zero_grad()
            F.cross_entropy(model(x.double()), y).backward()
        for (key, p), q in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
            assert torch.allclose(p.grad, q.grad, rtol=1e-9, atol=1e-12), key
        for optimizer in optimizers:
            optimizer.step()
    baked = [bake(models[0]), bake(compiled)]
    assert list(baked[1].state_dict()) == list(net().state_dict())
    assert torch.allclose(baked[0].conv1.weight, baked[1].conv1.weight, rtol=1e-9, atol=0)


@pytest.mark.parametrize("called", [False, True], ids=["not called", "called"])
@pytest.mark.parametrize("prefix", ["", "_orig_mod."])
def test_a_compiled_model_is_made_ternary_like_the_eager_one(prefix, called):
    models = [net(), net()]
    compiled = torch.compile(models[1], backend="aot_eager", fullgraph=True)
    if called:
        compiled(batch()[0])
    assert ternarize(compiled, [f"{prefix}{name}" for name in LAYERS]) is compiled
    ternarize(models[0], LAYERS)
    for model in (models[0], compiled):
        train(model, torch.optim.SGD(parameter_groups(model), lr=0.1))
    baked = [bake(models[0]), bake(compiled)]
    for name in LAYERS:
        assert torch.equal(baked[0].get_submodule(name).weight, baked[1].get_submodule(name).weight)


@pytest.mark.parametrize("scale", [1.0, -1.0], ids=["as it is", "not yet projected"])
@pytest.mark.parametrize(
    "name, granularity", [("pttq", "default"), ("ttq", "out_channel"), ("twn", "default"), ("pttq-released", "default")]
)
def test_an_exported_model_computes_what_the_eager_one_does(name, granularity, scale):
    model = ternarize(net(), LAYERS, name, granularity=granularity, on_empty="clip").eval()
    with torch.no_grad():
        state(model, "conv1").scales.view(-1)[0] *= scale
    x = batch()[0]
    exported = torch.export.export(model, (x,))
    # On the way to ONNX; what in-place changes had left in the graph ended the process here.
    decomposed = exported.run_decompositions()
    expected = model(x)
    for program in (exported, decomposed):
        assert torch.equal(program.module()(x), expected)


@pytest.mark.parametrize("name", LEARNING)
def test_a_compiled_model_projects_too(name):
    torch._dynamo.reset()
    model = ternarize(net(), LAYERS, name)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        state(model, "conv1").scales.fill_(-1.0)
    compiled(batch()[0]).sum().backward()
    assert state(model, "conv1").scales.tolist() == pytest.approx([1e-8, 1e-8])
    assert all(isinstance(m, AttachedTernary) for m in (state(model, "conv1"), state(model, "conv2")))
