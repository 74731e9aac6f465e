"""One compression, on the real digits."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ttq_plugin.core import METHODS
from ttq_plugin.curvature import select
from ttq_plugin.curvature.budget import Budget
from ttq_plugin.curvature.plan import Link
from ttq_plugin.errors import Diverged, InputError
from ttq_plugin.statistics.resampling import Interval
from ttq_plugin.tasks import get_task, training
from ttq_plugin.tasks.task import Data, Recipe, Split, Task
from ttq_plugin.trial import tested
from ttq_plugin.trial.run import Settings, prepare, run, score_on_test

CHAIN = (
    Link(
        "QATQuantizer",
        (
            {"op_names": ["conv2"], "target_names": ["weight"], "quant_dtype": "int8", "quant_scheme": "symmetric"},
            {"op_names": ["fc1"], "target_names": ["weight"], "quant_dtype": "int4", "quant_scheme": "symmetric"},
        ),
        {},
    ),
    Link("ATTQQuantizer", ({"op_names": ["conv1"], "target_names": ["weight"], "quant_dtype": "int2"},), {}),
    Link("PTTQQuantizer", ({"op_names": ["fc2"]},), {"method": "pttq-symmetric", "t": 0.5}),
)


@pytest.fixture(scope="module")
def ready(cache):
    torch.set_num_threads(1)
    return prepare("mnist-cnn", cache=cache)


def test_prepared_has_a_good_model_and_no_test_split(ready):
    assert ready.score > 0.93
    assert not hasattr(ready, "test")
    assert [trace.name for trace in ready.traces] == ["conv1", "conv2", "fc1", "fc2"]


class Untouchable(Split):
    """Stands where the test split would be."""

    def __init__(self):
        pass

    def __getattribute__(self, name):
        raise AssertionError("the test split was looked at")


def test_preparing_and_compressing_never_look_at_the_test_split(cache):
    def load(source, seed):
        return replace(get_task("mnist-cnn").load(source, seed), test=Untouchable())

    task = replace(get_task("mnist-cnn"), load=load)
    outcome = run(prepare(task, cache=cache), Settings("mnist-cnn", "pttq", epochs=1))
    assert outcome.metrics["mcc"] > 0.5
    with pytest.raises(InputError, match="looked at"):
        score_on_test(task, [outcome.model], seed=0)


def test_what_is_prepared_is_cached(ready, cache):
    def refuse(*_):
        raise AssertionError("trained again")

    again = prepare("mnist-cnn", cache=cache, on_epoch=refuse)
    assert again.score == ready.score and again.traces == ready.traces


@pytest.mark.parametrize("method", METHODS)
def test_a_compression_is_measured_and_leaves_the_model_alone(ready, method):
    before = {k: v.clone() for k, v in ready.model.state_dict().items()}
    outcome = run(ready, Settings("mnist-cnn", method, lr=2e-3, epochs=2, share=1.0))
    assert all(torch.equal(before[k], v) for k, v in ready.model.state_dict().items())
    assert outcome.layers == ("conv1", "conv2", "fc1", "fc2") and len(outcome.losses) == len(outcome.health) == 2
    last = {name: outcome.health[-1][f"{name}.zeros"] for name in outcome.layers}
    assert last == pytest.approx(
        {name: (getattr(outcome.model, name).weight == 0).double().mean().item() for name in outcome.layers}
    )
    zeros = sum((getattr(outcome.model, name).weight == 0).sum().item() for name in outcome.layers)
    assert outcome.metrics.get("srqw", 0.0) == pytest.approx(zeros / 9750) and (zeros == 0) == (method == "dorefa")
    # The released thresholds' drift and its scales of 1.0 are part of what it is.
    assert outcome.metrics["mcc"] > (0.0 if method == "pttq-released" else 0.75)
    for name in ("cr_gain_total", "cr_gain_quantized", "ec_gain_total", "mult_adds", "bits_entropy"):
        assert name in outcome.metrics
    [test] = score_on_test("mnist-cnn", [outcome.model], seed=0)
    assert test.value == pytest.approx(outcome.metrics["mcc"], abs=0.1)


def test_equal_settings_give_equal_models_whatever_the_global_generator(ready):
    settings = Settings("mnist-cnn", "pttq", lr=2e-3, epochs=1, share=0.6)
    state = torch.random.get_rng_state()
    one = run(ready, settings)
    assert torch.equal(state, torch.random.get_rng_state())
    torch.rand(7)
    other = run(ready, settings)
    for a, b in zip(one.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(a, b)
    different = run(ready, replace(settings, seed=1))
    assert not torch.equal(one.model.fc1.weight, different.model.fc1.weight)


def test_share_takes_the_layers_that_mind_least_with_the_methods_own_numbers(ready):
    outcome = run(ready, Settings("mnist-cnn", "ttq", t=0.2, epochs=1, share=0.6))
    selection = select(ready.model, ready.traces, 0.6, methods=("ttq",), options={"ttq": {"t": 0.2}})
    assert set(outcome.layers) == set(selection.layers)
    weights = {trace.name: trace.weights for trace in ready.traces}
    assert 0.6 * 9750 <= sum(weights[name] for name in outcome.layers) < 9750


def test_a_config_list_chooses_the_layers(ready):
    config_list = [{"op_types": ["Conv2d"]}]
    outcome = run(ready, Settings("mnist-cnn", "ttq", epochs=1), config_list=config_list)
    assert outcome.layers == ("conv1", "conv2")


@pytest.fixture(scope="module")
def short(ready):
    """A training of forty steps an epoch."""
    return replace(ready, train=Split(ready.train.x[:1280], ready.train.y[:1280]))


def mixed(**options):
    return Settings("mnist-cnn", "mixed", lr=2e-3, **options)


def test_a_mixed_chain_by_hand(short):
    before = {k: v.clone() for k, v in short.model.state_dict().items()}
    outcome = run(short, mixed(epochs=2), chain=CHAIN)
    assert all(torch.equal(before[k], v) for k, v in short.model.state_dict().items())
    assert outcome.layers == ("conv1", "conv2", "fc1", "fc2") and outcome.widths == {"conv2": 8, "fc1": 4}
    assert outcome.report.kinds == {"conv1": "ternary", "conv2": "int8", "fc1": "int4", "fc2": "ternary"}
    model = outcome.model
    assert [len(m.weight.unique()) <= n for m, n in ((model.conv2, 255), (model.fc1, 15))] == [True, True]
    assert len(model.conv2.weight.unique()) > 15 and len(model.fc1.weight.unique()) > 3
    assert len(model.conv1.weight.unique()) == len(model.fc2.weight.unique()) == 3
    integer = 8 * 5000 + 32 + 4 * 4000 + 32
    assert outcome.metrics["bits_base3"] == integer + 8 * 50 + 64 + 8 * 100 + 64 + 32 * 90
    assert outcome.metrics["cr_gain_base3"] == 1 - outcome.metrics["bits_base3"] / (32 * 9840)
    zeros = sum((getattr(model, name).weight == 0).sum().item() for name in ("conv1", "fc2"))
    assert outcome.metrics["srqw"] == zeros / 750
    assert {key.split(".")[0] for key in outcome.health[-1]} == {"conv1", "fc2"}
    assert len(outcome.losses) == len(outcome.health) == 2 and outcome.losses[1] < outcome.losses[0]
    assert outcome.metrics["mcc"] > 0.6


def test_a_chain_of_one_method_is_that_method(short):
    one = run(short, mixed(epochs=1), chain=[Link("TTQQuantizer", ({"op_names": ["fc1", "conv2"]},), {"t": 0.1})])
    settings = Settings("mnist-cnn", "ttq", t=0.1, lr=2e-3, epochs=1)
    other = run(short, settings, config_list=[{"op_names": ["conv2", "fc1"]}])
    assert one.metrics == other.metrics and one.layers == other.layers and one.widths == {}
    for a, b in zip(one.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_integers_alone(short):
    outcome = run(short, mixed(epochs=1), chain=CHAIN[:1])
    assert outcome.widths == {"conv2": 8, "fc1": 4} and outcome.health == [{}]
    assert "srqw" not in outcome.metrics and outcome.metrics["mcc"] > 0.8


def test_what_a_selection_chose_runs(short):
    methods = ("int8", "int4", "pttq", "ttq")
    selection = select(short.model, short.traces, Budget(bits=32 * 9840 * 0.2), methods=methods)
    outcome = run(short, mixed(epochs=1), chain=selection.chain)
    assert set(outcome.layers) == set(selection.layers) and outcome.widths == selection.widths
    assert outcome.metrics["bits_base3"] == selection.bits <= 32 * 9840 * 0.2


@pytest.mark.parametrize(
    "method, given",
    [
        ("mixed", {}),
        ("mixed", {"config_list": [{"op_names": ["fc1"]}]}),
        ("ttq", {"chain": "CHAIN"}),
        ("mixed", {"chain": "CHAIN", "config_list": [{"op_names": ["fc1"]}]}),
    ],
)
def test_the_method_mixed_goes_with_a_chain(short, method, given):
    given = given | ({"chain": CHAIN} if "chain" in given else {})
    with pytest.raises(
        InputError, match="the method 'mixed', and no other, goes with a chain and without a config list"
    ):
        run(short, Settings("mnist-cnn", method, epochs=1), **given)


def test_a_chain_of_other_layers(short):
    with pytest.raises(InputError, match="config_list names the layer 'conv9', which the model does not have"):
        run(short, mixed(epochs=1), chain=[Link("TTQQuantizer", ({"op_names": ["conv9"]},), {})])


def pair():
    """A task of two classes, one of them rare, with a schedule that steps each batch."""
    x = torch.randn(96, 4, generator=torch.Generator().manual_seed(0))
    split = Split(x, (x[:, 0] > 0.9).long())
    return Task(
        name="pair",
        description="two classes",
        load=lambda source, seed: Data(split, split, split, overlap=True),
        model=lambda: torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)),
        loss=torch.nn.functional.cross_entropy,
        recipe=Recipe(epochs=2, lr=1e-2, optimizer="adamw", schedule="one-cycle"),
        balanced=True,
    )


def test_a_compression_follows_the_tasks_recipe_and_its_loss_for_these_classes(monkeypatch, tmp_path):
    ready = prepare(pair(), cache=tmp_path)
    logits, labels = torch.randn(96, 2), ready.train.y
    assert torch.equal(ready.task.loss(logits, labels), pair().loss_for(ready.train)(logits, labels))
    assert not torch.isclose(ready.task.loss(logits, labels), pair().loss(logits, labels))
    seen = []
    real = training.train

    def spy(net, optimizer, schedule, *arguments, **options):
        real(net, optimizer, schedule, *arguments, **options)
        seen.extend((optimizer, schedule))

    monkeypatch.setattr(training, "train", spy)
    run(ready, Settings("pair", "pttq", lr=1e-2, epochs=3, share=1.0))
    optimizer, schedule = seen
    assert isinstance(optimizer, torch.optim.AdamW) and isinstance(schedule, torch.optim.lr_scheduler.OneCycleLR)
    assert schedule.last_epoch == schedule.total_steps == 9, "three batches an epoch"
    assert [group["max_lr"] for group in optimizer.param_groups] == [1e-2, 1e-3, 1e-4]


def test_thresholds_that_empty_a_layer_are_clipped_and_noted(ready):
    outcome = run(ready, Settings("mnist-cnn", "pttq", t_min=6.0, t_max=6.0, epochs=1))
    assert outcome.notes and "thresholds lowered to" in outcome.notes[0]
    assert 0.9 < outcome.metrics["srqw"] < 1


def test_a_training_that_diverges_says_so(ready):
    damaged = replace(ready, train=Split(ready.train.x * 1e38, ready.train.y))
    with pytest.raises(Diverged, match="the training loss became (nan|inf) in epoch 1 of 3"):
        run(damaged, Settings("mnist-cnn", "pttq", epochs=3))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"method": "pttq", "t": 0.1}, "pttq has no t; it takes alpha, t_max, t_min"),
        ({"method": "attq", "t_min": 1.0, "t_max": 0.0}, "t_min must not exceed t_max"),
        ({"method": "twist"}, "method must be one of"),
        ({"method": "ttq", "lr": 0.0}, "lr must be positive, got 0"),
        ({"method": "ttq", "epochs": 0}, "epochs must be at least 1, got 0"),
        (
            {"method": "mixed", "t_min": 1.0, "alpha": 2.0},
            "mixed has no alpha; set it in the options of the chain's links",
        ),
    ],
)
def test_settings_that_cannot_be(options, message):
    with pytest.raises(InputError, match=message):
        Settings("mnist-cnn", **options)


def test_a_device_that_is_not_there(cache):
    with pytest.raises(InputError, match="device 'nonsense' cannot be used here"):
        prepare("mnist-cnn", device="nonsense", cache=cache)


def test_looking_at_a_training_leaves_it_as_it_is_and_tells_what_it_would_be_if_it_ended(ready):
    settings = Settings("mnist-cnn", "pttq", epochs=3, lr=2e-3, share=1.0)
    plain = run(ready, settings)
    seen = []
    watched = run(ready, settings, on_look=lambda look: seen.append((look.epoch, look.dead, look.measure())))
    assert watched.metrics == plain.metrics and watched.losses == plain.losses
    for name, value in plain.model.state_dict().items():
        assert torch.equal(value, watched.model.state_dict()[name]), name
    assert [(epoch, dead) for epoch, dead, _ in seen] == [(1, ()), (2, ()), (3, ())]
    assert seen[-1][2] == plain.metrics, "the last look is the result"
    assert seen[0][2] != plain.metrics


def test_a_look_may_end_the_training(ready):
    class Enough(Exception):
        pass

    def on_look(look):
        if look.epoch == 2:
            raise Enough

    with pytest.raises(Enough):
        run(ready, Settings("mnist-cnn", "ttq", epochs=30), on_look=on_look)


def test_a_layer_without_a_weight_is_dead(ready):
    seen = []
    run(ready, Settings("mnist-cnn", "pttq", epochs=1, lr_threshold=20.0), on_look=lambda look: seen.append(look.dead))
    assert seen[0], "a threshold that ran away left a layer without a weight"


def test_a_budget_of_bits_gives_each_layer_a_method(ready):
    outcome = run(ready, Settings("mnist-cnn", "mixed", epochs=1, bits=0.15))
    assert outcome.metrics["bits_base3"] <= 0.15 * outcome.metrics["bits_fp32"] and outcome.metrics["mcc"] > 0.5
    assert outcome.widths, "some layers are on an integer grid"
    with pytest.raises(InputError, match=r"bits must lie in \(0, 1\] and requires mixed, got 0.5 with ttq"):
        Settings("mnist-cnn", "ttq", bits=0.5)


def test_a_change_is_read_from_the_numbers_that_mlflow_keeps():
    own, change = Interval(0.9, 0.01, 0.88, 0.92, 5, True), Interval(-0.01, 0.004, -0.02, 0.001, 5, True, grain=0.002)
    numbers = tested.Tested(0.9, {}, own, change).evidence("mcc")
    assert numbers["test_mcc_low"] == 0.88 and numbers["test_mcc_change_high"] == 0.001
    assert tested.change_of(numbers, "mcc") == change
    assert tested.change_of({"test_mcc": 0.9, "test_mcc_change": -0.01}, "mcc") is None, "an older record has no error"
    assert tested.Tested(0.9, {}).evidence("mcc") == {}
