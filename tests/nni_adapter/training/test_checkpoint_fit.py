"""A checkpoint that does not fit, or a file that was damaged, is refused before a byte of the model changes."""

from __future__ import annotations

import copy
import random

import nni
import pytest
import torch
from nni.compression.utils import TorchEvaluator
from torch.optim.lr_scheduler import ExponentialLR, StepLR

from tests.nni_adapter.nets import Net, config, make_loop, training_step
from ttq_plugin.errors import InputError
from ttq_plugin.nni_adapter import PTTQPruner, PTTQQuantizer


def made(optimizer="Adam", schedule=StepLR, groups=None, joined=False, lr=1e-3, **options):
    torch.manual_seed(0)
    model = Net()
    parameters = model.parameters() if groups is None else groups(model)
    optimizers = nni.trace(getattr(torch.optim, optimizer))(parameters, lr=lr)
    schedulers = (
        None
        if schedule is None
        else nni.trace(schedule)(optimizers, **{"gamma": 0.9, **({"step_size": 2} if schedule is StepLR else {})})
    )
    evaluator = TorchEvaluator(make_loop(), optimizers, training_step, schedulers)
    quantizer = PTTQQuantizer(model, config("conv1"), evaluator, **options)
    return PTTQPruner.from_compressor(quantizer, [{"op_names": ["conv2"]}]) if joined else quantizer


@pytest.fixture(scope="module")
def state():
    quantizer = made()
    quantizer.compress(None, 2)
    return quantizer.state_dict()


def everything(compressor):
    return {k: v.clone() for k, v in compressor.bound_model.state_dict().items()}, compressor.steps


def assert_refused(compressor, load, message):
    before, steps = everything(compressor)
    with pytest.raises(InputError, match=message):
        load(compressor)
    after, now = everything(compressor)
    assert all(torch.equal(before[k], after[k]) for k in before) and steps == now
    compressor.compress(None, 1)


class Twins(torch.nn.Module):
    """Two layers that only their names tell apart."""

    def __init__(self):
        super().__init__()
        self.one, self.two = torch.nn.Linear(25, 25), torch.nn.Linear(25, 25)

    def forward(self, x):
        return self.two(self.one(torch.nn.functional.adaptive_avg_pool2d(x, 5).flatten(1)).relu())


def test_moments_of_other_parameters_of_the_same_shapes_are_refused():
    def twins(*order):
        torch.manual_seed(0)
        model = Twins()
        groups = [{"params": list(getattr(model, name).parameters())} for name in order]
        optimizer = nni.trace(torch.optim.Adam)(groups, lr=1e-3)
        return PTTQQuantizer(model, config("one"), TorchEvaluator(make_loop(), optimizer, training_step))

    first = twins("one", "two")
    first.compress(None, 1)
    kept = first.state_dict()
    message = "state of Adam is that of 'one.bias' where the evaluator's optimiser has 'two.weight'; pass the"
    assert_refused(twins("two", "one"), lambda c: c.load_state_dict(kept), message)
    del kept["training"]["optimizers"][0]["names"]  # as checkpoints were before they had them
    twins("one", "two").load_state_dict(kept)


OTHERS = {
    "another optimiser": (dict(optimizer="SGD"), "the checkpoint's optimisers are Adam, the evaluator's SGD"),
    "a sister of the optimiser": (dict(optimizer="AdamW"), "the checkpoint's optimisers are Adam, .* AdamW"),
    "another scheduler": (dict(schedule=ExponentialLR), "schedulers are StepLR, the evaluator's ExponentialLR"),
    "no scheduler": (dict(schedule=None), "schedulers are StepLR, the evaluator's none"),
    "other groups": (
        dict(groups=lambda m: [{"params": [p]} for p in m.parameters()]),
        "the checkpoint's state of Adam does not fit the evaluator's",
    ),
    "a learned slope": (dict(learn_alpha=True), "made with learn_alpha = False, this compressor has True"),
    "another threshold": (dict(t_min=0.5), "made with t_min = 1.0, this compressor has 0.5"),
    "another dead zone": (dict(dead_zone="zero"), "made with dead_zone = 'pass', this compressor has 'zero'"),
    "an ablation": (dict(method="pttq-fixed"), "the checkpoint belongs to 'pttq', not to 'pttq-fixed'"),
    "one more compressor": (
        dict(joined=True),
        "the checkpoint belongs to other compressors than PTTQPruner, PTTQQuantizer",
    ),
}


@pytest.mark.parametrize("arguments, message", OTHERS.values(), ids=OTHERS.keys())
def test_a_compressor_that_was_built_otherwise(state, arguments, message):
    assert_refused(made(**arguments), lambda c: c.load_state_dict(state), message)


def changed(*path, value=None, drop=False):
    def change(state):
        inner = state
        for key in path[:-1]:
            inner = inner[key]
        if drop:
            del inner[path[-1]]
        else:
            inner[path[-1]] = value(inner[path[-1]]) if callable(value) else value

    return change


SPOILT = {
    "no steps": (changed("steps", drop=True), "this is not a checkpoint of this version"),
    "steps below zero": (changed("steps", value=-1), "steps must be a number of at least 0"),
    "no tensor": (changed("model", "fc.bias", value=3.0), "which differ in 'fc.bias'"),
    "another precision": (changed("model", "fc.bias", value=lambda b: b.double()), "which differ in 'fc.bias'"),
    "a model that is a list": (changed("model", value=[]), "does not fit this model"),
    "random state cut": (changed("training", "random", "cpu", value=lambda s: s[:10]), "is not complete"),
    "no random state": (changed("training", "random", drop=True), "is not complete"),
    "no scheduler state": (changed("training", "schedulers", 0, "state", value={}), "of StepLR .* lacks"),
    "a parameter short": (
        changed("training", "optimizers", 0, "state", "param_groups", 0, "params", value=lambda p: p[:-1]),
        "of Adam does not fit",
    ),
    "no betas": (
        changed("training", "optimizers", 0, "state", "param_groups", 0, "betas", drop=True),
        "a parameter group differs in betas",
    ),
    "a moment of another shape": (
        changed("training", "optimizers", 0, "state", "state", 0, "exp_avg", value=lambda m: m[:1]),
        "exp_avg has shape",
    ),
}


@pytest.mark.parametrize("change, message", SPOILT.values(), ids=SPOILT.keys())
def test_a_state_that_was_spoilt(state, change, message):
    spoilt = copy.deepcopy(state)
    change(spoilt)
    assert_refused(made(), lambda c: c.load_state_dict(spoilt), message)


def test_options_that_no_longer_matter_may_differ(state):
    quantizer = made(on_empty="clip", scale_init="one")
    quantizer.load_state_dict(state)
    quantizer.compress(None, 1)
    assert quantizer.steps == 12


def test_a_checkpoint_without_an_evaluator_is_for_export(state):
    torch.manual_seed(1)
    quantizer = PTTQQuantizer(Net(), config("conv1"))
    quantizer.load_state_dict(state)
    assert torch.equal(quantizer.states()["conv1"].scales, state["model"]["conv1._nni_wrapper.ternary.scales"])


def test_no_bit_of_the_file_can_change_unnoticed(tmp_path):
    quantizer, path = made(), tmp_path / "c.pt"
    quantizer.compress(None, 1)
    quantizer.save_checkpoint(path)
    whole, before = path.read_bytes(), everything(quantizer)[0]
    chance = random.Random(0)
    places = [
        *range(40),
        *(len(whole) - 1 - i for i in range(120)),
        *(chance.randrange(len(whole)) for _ in range(300)),
    ]
    damaged = [whole[:i] + bytes([whole[i] ^ 1 << chance.randrange(8)]) + whole[i + 1 :] for i in places]
    damaged += [whole[: chance.randrange(len(whole))] for _ in range(20)] + [whole + b"x", b"", whole * 2]
    for data in damaged:
        path.write_bytes(data)
        with pytest.raises(InputError, match="c.pt is damaged or not a checkpoint"):
            quantizer.load_checkpoint(path)
    assert all(torch.equal(v, before[k]) for k, v in everything(quantizer)[0].items())
    path.write_bytes(whole)
    quantizer.load_checkpoint(path)
