"""Bad input: one sentence, and the model left as it was."""

from __future__ import annotations

import nni
import pytest
import torch
from nni.compression.utils import TorchEvaluator
from torch import nn

from tests.nni_adapter.nets import Net, config, make_evaluator, make_loop, training_step
from ttq_plugin.errors import InputError
from ttq_plugin.nni_adapter import ATTQQuantizer, PTTQQuantizer, TTQQuantizer


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Net()


@pytest.fixture
def untouched(model):
    """After the test: the very same parameters, no wrapper."""
    before = [(name, p, p.detach().clone()) for name, p in model.named_parameters()]
    yield
    after = dict(model.named_parameters())
    assert list(after) == [name for name, _, _ in before]
    for name, parameter, value in before:
        assert after[name] is parameter and torch.equal(parameter, value)
    assert not any(hasattr(m, "_nni_wrapper") or "forward" in m.__dict__ for m in model.modules())


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize(
    "config_list, message",
    [
        ([], r"config_list selects no layer .* the model's layers are conv1, conv2, fc\."),
        ([{"op_types": ["Conv3d"]}], "selects no layer"),
        ([{"op_names_re": ["block.*"]}], "selects no layer"),
        ([{"op_names": ["conv1"], "exclude_op_names": ["conv1"]}], "selects no layer"),
        (config("conv9"), "names the layer 'conv9', which the model does not have; its layers are conv1, conv2, fc"),
        (
            [{"op_names": ["conv1"], "target_names": ["_input_", "weight"]}],
            "only weights can be ternary, .* asks for _input_",
        ),
        ([{"op_names": ["conv1"], "target_names": ["bias"]}], "only weights can be ternary, .* asks for bias"),
        (
            [
                {
                    "op_names": ["conv1"],
                    "target_names": ["weight"],
                    "target_settings": {"_output_": {"quant_dtype": "int8"}},
                }
            ],
            "only weights can be ternary, .* asks for _output_",
        ),
        ([{"op_names": ["conv1"], "target_names": []}], "empty target_names"),
        (config("relu"), "selects 'relu', of the class ReLU; only convolutions, linear layers, .* can be ternary"),
        ([{"op_names": ["conv1"], "t_min": 1.0}], "is not in NNI's format: Wrong key 't_min'"),
        ([{"quant_dtype": "int2"}], "is not in NNI's format"),
        ({"op_names": ["conv1"]}, "config_list must be a list of dicts, got dict"),
    ],
)
def test_config_lists(model, config_list, message):
    with pytest.raises(InputError, match=message):
        PTTQQuantizer(model, config_list, make_evaluator(model))


@pytest.mark.usefixtures("untouched")
def test_an_optimiser_of_another_model(model):
    evaluator = make_evaluator(Net())
    message = r"parameter group 0 of the optimiser \(SGD\) holds no parameter of this model"
    with pytest.raises(InputError, match=message):
        PTTQQuantizer(model, config("conv1"), evaluator)


def test_an_optimiser_or_scheduler_that_is_not_traced(model):
    plain = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(
        InputError, match=r"the optimiser must be traced by NNI, got a plain SGD; make it with nni\.trace"
    ):
        TorchEvaluator(make_loop(), plain, training_step)
    traced = nni.trace(torch.optim.SGD)(model.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.StepLR(traced, 1)
    with pytest.raises(InputError, match="the learning-rate scheduler must be traced by NNI, got a plain StepLR"):
        TorchEvaluator(make_loop(), traced, training_step, schedule)


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize(
    "quantizer_class, options, message",
    [
        (ATTQQuantizer, {"t_min": 1.0, "t_max": 0.0}, "t_min must not exceed t_max, got t_min = 1 and t_max = 0"),
        (TTQQuantizer, {"t": 2}, r"t must lie in \(0, 1\), got 2"),
        (PTTQQuantizer, {"t_max": 50.0}, r"conv2: the threshold at .* sigma .* leaves no positive weight"),
        (PTTQQuantizer, {"alpha": -1}, "alpha must be positive"),
        (PTTQQuantizer, {"lr_scale": -1.0}, "lr_scale must be a number of at least 0"),
        (PTTQQuantizer, {"lr_threshold": "fast"}, "lr_threshold must be a number or None, got .fast."),
        (PTTQQuantizer, {"beta": 1.0}, "pttq has no option 'beta'"),
    ],
)
def test_options(model, quantizer_class, options, message):
    with pytest.raises(InputError, match=message):
        quantizer_class(model, config("conv2"), make_evaluator(model), **options)


@pytest.mark.usefixtures("untouched")
def test_weights_that_are_not_finite(model):
    value = model.conv1.weight.detach().clone()
    with torch.no_grad():
        model.conv1.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(InputError, match="conv1: weights must be finite"):
        PTTQQuantizer(model, config("conv1"), make_evaluator(model))
    with torch.no_grad():
        model.conv1.weight.copy_(value)


def test_a_failure_inside_nni_unwraps_the_model(model, monkeypatch):
    def fail(*_):
        raise RuntimeError("made to fail")

    monkeypatch.setattr("ttq_plugin.nni_adapter.compressor.add_groups", fail)
    with pytest.raises(RuntimeError, match="made to fail"):
        PTTQQuantizer(model, config("conv1"), make_evaluator(model))
    assert not any(hasattr(m, "_nni_wrapper") for m in model.modules())
    assert isinstance(model.conv1.weight, torch.nn.Parameter)


def test_a_model_that_is_wrapped_already(model):
    first = PTTQQuantizer(model, config("conv1"), make_evaluator(model))
    with pytest.raises(InputError, match="layer 'conv1' is already wrapped by another compressor"):
        PTTQQuantizer(model, config("conv2"))
    assert hasattr(model.conv1, "_nni_wrapper")
    first.compress(None, 1)


def test_compress_needs_a_limit(model):
    quantizer = PTTQQuantizer(model, config("conv1"), make_evaluator(model))
    with pytest.raises(InputError, match="compress needs max_steps or max_epochs, got neither"):
        quantizer.compress(None, None)
    for length in ((-1, None), (None, -1)):
        with pytest.raises(InputError, match="max_(steps|epochs) must be at least 0, got -1"):
            quantizer.compress(*length)


def test_channels_of_a_grouped_transposed_convolution():
    model = nn.Sequential(nn.ConvTranspose1d(4, 6, 3, groups=2))
    before = {name: id(parameter) for name, parameter in model.named_parameters()}
    with pytest.raises(InputError) as caught:
        PTTQQuantizer(model, [{"op_names": ["0"], "granularity": "out_channel"}])
    assert str(caught.value) == (
        "granularity out_channel is not possible for a grouped transposed convolution; use default."
    )
    assert {name: id(parameter) for name, parameter in model.named_parameters()} == before
    assert len(PTTQQuantizer(model, [{"op_names": ["0"]}]).export_model()[0].weight.unique()) == 3
