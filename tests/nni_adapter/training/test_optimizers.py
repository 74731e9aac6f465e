"""Scales and thresholds learn under every arrangement of optimisers, each in the one that trains its layer's weight."""

from __future__ import annotations

import copy
import warnings

import nni
import pytest
import torch
from nni.compression.utils import TorchEvaluator
from torch import nn
from torch.optim.lr_scheduler import StepLR

from tests.nni_adapter.nets import Net, batches, config, make_loop, training_step
from ttq_plugin.core import METHODS
from ttq_plugin.errors import InputError
from ttq_plugin.nni_adapter import PTTQQuantizer, TTQQuantizer, TWNQuantizer

SGD = nni.trace(torch.optim.SGD)
OWN = {"lr_scale": 3e-3, "lr_threshold": 2e-4}


class Gan(nn.Module):
    def __init__(self):
        super().__init__()
        self.d, self.g = nn.Linear(4, 1), nn.Linear(8, 4)

    def forward(self, z):
        return self.g(z)


NOISE = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))


def adversaries(log=None):
    """A loop whose first optimiser trains the discriminator on a graph that the generator's gradient still needs."""

    def loop(model, optimizers, step, schedulers=None, max_steps=None, max_epochs=None):
        for _ in range(max_steps):
            fake = model(NOISE)
            optimizers[0].zero_grad()
            model.d(fake.detach()).sum().backward()
            optimizers[0].step()
            optimizers[1].zero_grad()
            (-model.d(fake)).sum().backward()
            optimizers[1].step()
            if log is not None:
                log.append([[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers])
            for scheduler in schedulers or []:
                scheduler.step()

    return loop


def gan(quantizer=PTTQQuantizer, log=None, schedule=False, **options):
    torch.manual_seed(0)
    model = Gan()
    optimizers = [SGD(model.d.parameters(), lr=0.1), SGD(model.g.parameters(), lr=0.01)]
    schedulers = [nni.trace(StepLR)(optimizers[1], 1, gamma=0.1)] if schedule else None
    evaluator = TorchEvaluator(adversaries(log), optimizers, training_step, schedulers)
    return quantizer(model, [{"op_names": ["g"]}], evaluator, **options)


def test_the_second_optimiser_trains_the_scales_of_its_layer():
    quantizer = gan(lr_scale=0.1, lr_threshold=0.02)
    model, method = quantizer.bound_model, METHODS["pttq"]
    w = model.g._nni_wrapper.weight.detach().clone().requires_grad_()
    params = {k: v.detach().clone().requires_grad_() for k, v in quantizer.states()["g"].params.items()}
    fake = torch.nn.functional.linear(NOISE, method.weights(w, params), model.g.bias.detach())
    trained = model.d.weight.detach() - 0.1 * fake.detach().sum(0)  # what the discriminator is after its own step
    (-fake @ trained.T).sum().backward()
    quantizer.compress(max_steps=1)
    state = quantizer.states()["g"]
    torch.testing.assert_close(state.scales, (params["scales"] - 0.1 * params["scales"].grad).clamp_min(1e-8))
    expected = (params["thresholds"] - 0.02 * params["thresholds"].grad).clamp_min(1e-8)
    torch.testing.assert_close(state.thresholds, expected)
    assert quantizer.steps == 1


def test_rates_and_schedules_are_those_of_the_layers_optimiser():
    log = []
    gan(log=log, schedule=True, **OWN).compress(max_steps=2)
    assert log[0] == [[0.1], [0.01, 3e-3, 2e-4]]
    assert log[1][0] == [0.1] and log[1][1] == pytest.approx([1e-3, 3e-4, 2e-5])


def test_health_counts_the_steps_of_the_layers_optimiser_and_learned_values_stay_positive():
    seen = []
    quantizer = gan(on_health=seen.append, health_every=2, lr_scale=5.0, lr_threshold=5.0)
    with pytest.warns(UserWarning, match="g: a scale fell to zero"):
        quantizer.compress(max_steps=5)
    assert quantizer.steps == 5 and [health.step for health in seen] == [2, 4]
    state = quantizer.states()["g"]
    assert bool((state.scales >= 0.99e-8).all()) and bool((state.thresholds >= 0.99e-8).all())
    assert gan(TWNQuantizer).compress(max_steps=3) is not None


def test_layers_of_two_optimisers_learn_each_in_their_own():
    torch.manual_seed(0)
    model, log = Net(), []

    def loop(model, optimizers, step, schedulers=None, max_steps=None, max_epochs=None):
        for optimizer in optimizers:
            optimizer.zero_grad()
        step(batches()[0], model).backward()
        for optimizer in optimizers:
            optimizer.step()
            log.append([[p.numel() for p in group["params"]] for group in optimizer.param_groups])

    parts = [model.fc, model.conv1, model.conv2]
    evaluator = TorchEvaluator(loop, [SGD(part.parameters(), lr=0.1) for part in parts], training_step)
    quantizer = PTTQQuantizer(model, config("conv1", "conv2"), evaluator)
    before = {name: state.scales.detach().clone() for name, state in quantizer.states().items()}
    quantizer.compress(max_steps=1)
    assert log == [[[40, 5]], [[4, 36], [2], [2]], [[8, 288], [2], [2]]]
    assert all(not torch.equal(before[name], state.scales) for name, state in quantizer.states().items())


# How the optimiser was given its parameters


def later(parameters):
    first, *rest = parameters
    optimizer = SGD([first], lr=0.1)
    optimizer.add_param_group({"params": rest, "lr": 0.1})
    return optimizer


@pytest.mark.parametrize(
    "make",
    [
        lambda m: SGD(list(m.parameters()), lr=0.1),
        lambda m: SGD(filter(lambda p: p.requires_grad, m.parameters()), lr=0.1),
        lambda m: SGD(map(lambda p: p, m.parameters()), lr=0.1),
        lambda m: SGD(params=iter(m.parameters()), lr=0.1),
        lambda m: SGD(m.named_parameters(), lr=0.1),
        lambda m: SGD([{"params": filter(None.__ne__, m.parameters())}], lr=0.1),
        lambda m: SGD([{"params": m.named_parameters(), "lr": 0.1}]),
        lambda m: SGD(iter([{"params": list(m.parameters()), "lr": 0.1}])),
        lambda m: SGD(({"params": p} for p in m.parameters()), lr=0.1),
        lambda m: later(m.parameters()),
    ],
)
def test_parameters_may_come_in_any_form(make):
    def trained(make):
        torch.manual_seed(0)
        model = Net()
        optimizer = make(model)
        own = [p for group in optimizer.param_groups for p in group["params"]]
        quantizer = PTTQQuantizer(model, config("conv1"), TorchEvaluator(make_loop(), optimizer, training_step), **OWN)
        assert all(a is b for a, b in zip(own, (p for g in optimizer.param_groups for p in g["params"]), strict=True))
        quantizer.compress(None, 2)
        return {k: v for k, v in quantizer.bound_model.state_dict().items() if k != "conv1.weight"}

    expected = trained(lambda m: SGD(m.parameters(), lr=0.1))
    got = trained(make)
    assert got.keys() == expected.keys() and all(torch.equal(got[k], expected[k]) for k in expected)


def both(model, optimizers):
    def loop(model, optimizers, step, schedulers=None, max_steps=None, max_epochs=None):
        for batch in batches():
            for optimizer in optimizers:
                optimizer.zero_grad()
            step(batch, model).backward()
            for optimizer in optimizers:
                optimizer.step()

    return TorchEvaluator(loop, optimizers, training_step)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")
def test_muon_trains_the_weights_and_the_optimiser_of_the_biases_their_scales():
    torch.manual_seed(0)
    model = Net()
    muon = nni.trace(torch.optim.Muon)([model.fc.weight], lr=0.02)
    adam = nni.trace(torch.optim.AdamW)([p for p in model.parameters() if p is not model.fc.weight], lr=0.01)
    quantizer = TTQQuantizer(model, config("fc"), both(model, [muon, adam]))
    weight, scales = model.fc._nni_wrapper.weight.detach().clone(), quantizer.states()["fc"].scales.detach().clone()
    quantizer.compress(None, 1)
    assert not torch.equal(weight, model.fc._nni_wrapper.weight)
    assert not torch.equal(scales, quantizer.states()["fc"].scales)


# What cannot work is one true sentence before anything changes


def untrained_loss(model):
    return SGD([*model.parameters(), nn.Parameter(torch.zeros(3))], lr=0.1)


@pytest.mark.parametrize(
    "make, message",
    [
        (
            lambda m: nni.trace(torch.optim.LBFGS)(m.parameters()),
            r"the optimiser LBFGS trains the weight of 'conv1', but cannot take its scales and thresholds \(LBFGS "
            r"doesn't support per-parameter options .*use another optimiser, such as Adam",
        ),
        (untrained_loss, r"holds 1 parameters that are not of this model, the first of shape \(3,\)"),
        (
            lambda m: nni.trace(torch.optim.Muon)([m.fc.weight]),
            r"the optimiser Muon .* cannot take its scales and thresholds \(Muon only supports 2D",
        ),
    ],
)
def test_optimisers_that_cannot_take_scales(make, message):
    model = Net()
    before = dict(model.named_parameters())
    names = ["fc"] if "Muon" in message else ["conv1"]
    with pytest.raises(InputError, match=message):
        PTTQQuantizer(model, config(*names), TorchEvaluator(make_loop(), make(model), training_step))
    assert all(p is before[name] for name, p in model.named_parameters())
    assert not any(hasattr(m, "_nni_wrapper") for m in model.modules())


def test_closures_reach_an_optimiser_that_learns_nothing_of_ours():
    torch.manual_seed(0)
    model = Net()

    def loop(model, optimizer, step, scheduler=None, max_steps=None, max_epochs=None):
        def closure():
            optimizer.zero_grad()
            loss = step(batches()[0], model)
            loss.backward()
            return loss

        losses.extend(optimizer.step(closure).item() for _ in range(max_steps))

    losses = []
    evaluator = TorchEvaluator(loop, nni.trace(torch.optim.LBFGS)(model.parameters(), lr=0.1), training_step)
    TWNQuantizer(model, config("conv1"), evaluator).compress(max_steps=3)
    assert losses[-1] < losses[0]


def test_evaluators_that_cannot_train():
    model = Net()
    with pytest.raises(InputError, match="TorchEvaluator needs at least one optimiser"):
        TorchEvaluator(make_loop(), [], training_step)
    other = nni.trace(StepLR)(SGD(model.parameters(), lr=0.1), 1)
    with pytest.raises(InputError, match="StepLR belongs to an optimiser that was not passed"):
        TorchEvaluator(make_loop(), SGD(model.parameters(), lr=0.1), training_step, other)


def test_parameters_that_the_optimiser_was_given_too_late_are_told():
    model = Net()
    optimizer = SGD([*model.conv1.parameters(), *model.fc.parameters()], lr=0.1)
    quantizer = PTTQQuantizer(model, config("conv1"), TorchEvaluator(make_loop(), optimizer, training_step))
    quantizer.compress(1, None)
    optimizer.add_param_group({"params": list(model.conv2.parameters())})
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(InputError, match="was given 2 parameters after the evaluator was used, which NNI's own one"):
        quantizer.compress(1, None)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    copy.deepcopy(quantizer).compress(1, None)


def test_a_loop_that_steps_an_optimiser_of_its_own_is_told():
    model = Net()

    def loop(model, optimizer, step, scheduler=None, max_steps=None, max_epochs=None):
        own = torch.optim.SGD(model.parameters(), lr=0.1)
        step(batches()[0], model).backward()
        own.step()

    quantizer = PTTQQuantizer(model, config("conv1"), TorchEvaluator(loop, SGD(model.parameters()), training_step))
    with pytest.warns(UserWarning, match="without a step of the evaluator's optimisers, so that scales, thresholds"):
        quantizer.compress(3, None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        quantizer.compress(0, None)


@pytest.mark.parametrize(
    "make",
    [
        lambda m: nni.trace(torch.optim.AdamW)(m.parameters(), lr=0.01, fused=True),
        lambda m: nni.trace(torch.optim.Adam)(m.named_parameters(), lr=torch.tensor(0.01), foreach=False),
        lambda m: nni.trace(torch.optim.Adafactor)(m.parameters(), lr=0.01),
        lambda m: SGD(
            [
                {"params": [p for p in m.parameters() if p.dim() > 1], "weight_decay": 10.0},
                {"params": [p for p in m.parameters() if p.dim() == 1], "lr": 0.02},
            ],
            lr=0.01,
        ),
    ],
)
def test_rates_are_asked_and_nothing_of_ours_decays(make):
    torch.manual_seed(0)
    model, seen = Net(), []

    def loop(model, optimizer, step, scheduler=None, max_steps=None, max_epochs=None):
        make_loop()(model, optimizer, step, max_steps=max_steps)
        seen.extend((float(g["lr"]), g["weight_decay"], len(g["params"])) for g in optimizer.param_groups[-2:])

    quantizer = PTTQQuantizer(model, config("conv1", "fc"), TorchEvaluator(loop, make(model), training_step), **OWN)
    before = {n: [p.detach().clone() for p in (s.scales, s.thresholds)] for n, s in quantizer.states().items()}
    quantizer.compress(2, None)
    assert seen == [(3e-3, 0.0, 2), (2e-4, 0.0, 2)]
    for name, state in quantizer.states().items():
        assert all(not torch.equal(a, b) for a, b in zip(before[name], (state.scales, state.thresholds), strict=True))
