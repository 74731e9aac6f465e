"""A prescribed share of zeros in NNI's compressors: exact with every evaluator, granularity and chain, and resumed."""

from __future__ import annotations

import copy
import warnings

import nni
import pytest
import torch
from nni.compression.quantization import QATQuantizer
from nni.compression.utils import TorchEvaluator
from torch import nn

from tests.nni_adapter.layers import test_attached as attached
from tests.nni_adapter.nets import Net, batches, config, make_evaluator, training_step
from tests.nni_adapter.training import test_evaluators as evaluators
from ttq_plugin.errors import InputError
from ttq_plugin.nni_adapter import (
    ATTQQuantizer,
    BinaryQuantizer,
    PTTQPruner,
    PTTQQuantizer,
    TTQPruner,
    TTQQuantizer,
    compress_chain,
)

LAYERS = ("conv1", "conv2", "fc")
SIZE = 36 + 288 + 40


def net():
    torch.manual_seed(0)
    return Net()


def found(model, names=LAYERS):
    weights = [model.get_submodule(name).weight for name in names]
    for name, w in zip(names, weights, strict=True):
        assert bool((w > 0).any()), f"{name} has no positive weight"
        assert bool((w < 0).any()), f"{name} has no negative weight"
    return sum(int((w == 0).sum()) for w in weights)


def quietly(quantizer, *limits):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        quantizer.compress(*limits)
    return quantizer


@pytest.mark.parametrize("zeros", [0.4, 0.75, 0.9])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (PTTQQuantizer, {}),
        (PTTQQuantizer, {"method": "pttq-global"}),
        (PTTQQuantizer, {"method": "pttq-fixed"}),
        (ATTQQuantizer, {}),
        (TTQQuantizer, {}),
    ],
)
def test_a_training_of_known_length_ends_with_it(kind, options, zeros):
    model = net()
    zeros = min(zeros, 0.75) if options.get("method") == "pttq-global" else zeros  # as wide as untrained layers are
    quantizer = quietly(kind(model, config(*LAYERS), make_evaluator(model), zeros=zeros, **options), 50, None)
    assert found(quantizer.export_model()) == round(zeros * SIZE)
    assert found(quantizer.export_model()) == sum(int((codes == 0).sum()) for codes in quantizer.codes().values())


def test_channels_have_it_together():
    model = net()
    configs = [{**config("conv2")[0], "granularity": "out_channel"}]
    quantizer = quietly(PTTQQuantizer(model, configs, make_evaluator(model), zeros=0.7), 40, None)
    plain = quantizer.export_model()
    assert found(plain, ("conv2",)) == round(0.7 * 288)
    assert all(bool((row > 0).any() and (row < 0).any()) for row in plain.conv2.weight)


def test_epochs_of_an_unknown_loop_need_their_steps():
    model = net()
    quantizer = PTTQQuantizer(model, config(*LAYERS), make_evaluator(model), zeros=0.9)
    with pytest.warns(UserWarning, match=r"zeros had risen only to .* after 12 steps.*set zeros_steps"):
        quantizer.compress(None, 3)
    assert found(quantizer.export_model()) == round(0.9 * SIZE)
    assert "zeros_steps" in quantizer.notes[-1]
    model = net()
    quantizer = PTTQQuantizer(model, config(*LAYERS), make_evaluator(model), zeros=0.9, zeros_steps=40)
    assert found(quietly(quantizer, None, 10).export_model()) == round(0.9 * SIZE)


def test_a_second_training_keeps_it():
    model = net()
    evaluator = make_evaluator(model, optimizer=torch.optim.Adam)
    quantizer = quietly(PTTQQuantizer(model, config(*LAYERS), evaluator, zeros=0.9), 40, None)
    first = [codes.clone() for codes in quantizer.codes().values()]
    quietly(quantizer, 25, None)
    assert found(quantizer.export_model()) == round(0.9 * SIZE)
    assert quantizer.steps == 65
    assert any(not torch.equal(a, b) for a, b in zip(first, quantizer.codes().values(), strict=True))


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.norm, self.fc = nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.Linear(6, 5)

    def forward(self, x):
        return self.fc(self.norm(self.conv1(x)).relu().mean(dim=(2, 3)))


def test_a_folded_weight_has_it():
    torch.manual_seed(0)
    model = Normed()
    nn.init.uniform_(model.norm.weight, 0.2, 2.0)
    configs = [{**config("conv1", "fc")[0], "fuse_names": [("conv1", "norm")]}]
    quantizer = quietly(PTTQQuantizer(model, configs, make_evaluator(model), zeros=0.8), 30, None)
    assert found(quantizer.export_model(), ("conv1", "fc")) == round(0.8 * 84)


@pytest.mark.parametrize("kind", [PTTQPruner, TTQPruner])
def test_a_pruner_masks_it(kind):
    zeros = 0.85 if kind is PTTQPruner else 0.7
    model = net()
    entries = [{"op_names": list(LAYERS), "target_names": ["weight"]}]
    _, masks = kind(model, entries, make_evaluator(model), zeros=zeros).compress(40, None)
    assert sum(int((mask["weight"] == 0).sum()) for mask in masks.values()) == round(zeros * SIZE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, masks = kind(net(), entries, zeros=zeros).compress()
    assert sum(int((mask["weight"] == 0).sum()) for mask in masks.values()) == round(zeros * SIZE)


@pytest.mark.parametrize("stop", [3, 17])
def test_a_resumed_training_is_the_same_bit_for_bit(stop, tmp_path):
    def build():
        model = net()
        return PTTQQuantizer(
            model, config(*LAYERS), make_evaluator(model, optimizer=torch.optim.Adam), zeros=0.9, zeros_steps=40
        )

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        half, kept = build(), {}

        def loop(model, optimizer, step, scheduler=None, max_steps=None, max_epochs=None):
            for _ in range(max_steps):
                if running.steps == stop and not kept:
                    kept["state"] = copy.deepcopy(running.state_dict())
                optimizer.zero_grad()
                step(batches()[running.steps % 4], model).backward()
                optimizer.step()

        half.evaluator.training_func = loop
        running = half
        half.compress(40, None)
        resumed = build()
        resumed.evaluator.training_func = loop
        torch.save(kept["state"], tmp_path / "state")
        resumed.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
        running = resumed
        resumed.compress(40 - stop, None)
    for name, value in half.export_model().state_dict().items():
        assert torch.equal(value, resumed.export_model().state_dict()[name]), name
    assert found(resumed.export_model()) == round(0.9 * SIZE)
    other = PTTQQuantizer(model := net(), config(*LAYERS), make_evaluator(model, optimizer=torch.optim.Adam))
    with pytest.raises(InputError, match="the checkpoint was made with|differ in"):
        other.load_state_dict(kept["state"])


@evaluators.lightning
def test_lightning_knows_its_steps():
    torch.manual_seed(0)
    model = evaluators.LitNet()
    names = config("net.conv1", "net.conv2", "net.fc")
    quantizer = PTTQQuantizer(model, names, evaluators.lightning_evaluator(), zeros=0.8)
    quantizer.compress(None, 6)
    assert quantizer.notes == []
    assert quantizer.course.owner.course.tolist() == [24, 24]
    assert found(quantizer.export_model(), ("net.conv1", "net.conv2", "net.fc")) == round(0.8 * SIZE)


def test_transformers_knows_its_steps(tmp_path):
    model = evaluators.bert()
    quantizer = PTTQQuantizer(model, evaluators.ENCODER, evaluators.hf_evaluator(model, tmp_path), zeros=0.9)
    quietly(quantizer, None, 5)
    assert quantizer.course.owner.course.tolist() == [20, 20]
    weights = [quantizer.export_model().get_submodule(name).weight for name in quantizer.states()]
    assert sum(int((w == 0).sum()) for w in weights) == round(0.9 * sum(w.numel() for w in weights))


def test_with_nnis_quantizer_beside_it():
    model = net()
    ternary = PTTQQuantizer(model, config("conv1", "conv2"), make_evaluator(model), zeros=0.8)
    entries = [{"op_names": ["fc"], "target_names": ["weight"], "quant_dtype": "int8", "granularity": "default"}]
    QATQuantizer.from_compressor(ternary, entries).compress(40, None)
    assert ternary.course.owner.course.tolist() == [40, 40]
    assert found(ternary.export_model(), ("conv1", "conv2")) == round(0.8 * 324)


@pytest.mark.parametrize("names", [attached.EVERYTHING, ["lstm", "attention"]])
def test_a_chain_has_it_with_and_without_layers_that_nni_cannot_wrap(names):
    model = attached.net()
    links = [attached.link(*names, options={"zeros": 0.8})]
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        result = compress_chain(model, links, attached.evaluator(model), max_steps=40)
    assert result.notes == ()
    states = result.chain.states()
    codes = [
        part
        for owner in (*result.chain.ternary, result.chain.attached)
        for part in owner.codes().values()
    ]  # fmt: skip
    assert len(codes) == len(states)
    zeros, size = sum(int((c == 0).sum()) for c in codes), sum(c.numel() for c in codes)
    assert abs(zeros - 0.8 * size) <= 1


def test_two_optimisers_count_one_step_each():
    model = net()

    def loop(model, optimizers, step, schedulers=None, max_steps=None, max_epochs=None):
        for index in range(max_steps):
            for optimizer in optimizers:
                optimizer.zero_grad()
            step(batches()[index % 4], model).backward()
            for optimizer in optimizers:
                optimizer.step()

    sgd, adam = nni.trace(torch.optim.SGD), nni.trace(torch.optim.Adam)
    rest = [*model.conv1.parameters(), *model.fc.parameters()]
    made = [sgd(rest, lr=1e-2), adam(model.conv2.parameters(), lr=1e-3)]
    quantizer = PTTQQuantizer(model, config(*LAYERS), TorchEvaluator(loop, made, training_step), zeros=0.9)
    quietly(quantizer, 30, None)
    assert quantizer.course.owner.course.tolist() == [30, 30]
    assert found(quantizer.export_model()) == round(0.9 * SIZE)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (PTTQQuantizer, {"zeros": 0.9, "t_max": 1.0}, "^zeros determines the thresholds, so t_max cannot"),
        (
            PTTQQuantizer,
            {"zeros": 0.999},
            "^zeros must be at most 0.98.* here, because each sign of each",
        ),
        (BinaryQuantizer, {"zeros": 0.5}, "^dorefa cannot meet a share of zeros, because its weights are never zero"),
        (TTQQuantizer, {"zeros": 1.5}, r"^zeros must lie in \(0, 1\), got 1.5"),
    ],
)
def test_refuses_before_anything_is_wrapped(kind, options, message):
    model = net()
    with pytest.raises(InputError, match=message):
        kind(model, config(*LAYERS), make_evaluator(model), **options)
    assert not any(hasattr(module, "_nni_wrapper") for module in model.modules())


def test_a_share_of_each_layer_contradicts_one_of_all():
    model = net()
    entries = [{"op_names": ["conv2"], "target_names": ["weight"], "sparse_ratio": 0.5}]
    with pytest.raises(InputError, match="^sparse_ratio sets the share of each layer and zeros that of all"):
        PTTQPruner(model, entries, make_evaluator(model), zeros=0.5)
