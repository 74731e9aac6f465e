"""NNI's documented quantisation quick start with the class changed, compressors by name, and legacy config lists."""

from __future__ import annotations

import copy
import subprocess
import sys

import nni
import pytest
import torch
import torch.nn.functional as F
from nni.compression.base.compressor import Pruner, Quantizer
from nni.compression.quantization import QATQuantizer
from nni.compression.utils import TorchEvaluator
from sklearn.datasets import load_digits
from torch import nn

import ttq_plugin
from tests.nni_adapter.nets import Net, make_evaluator
from ttq_plugin.errors import InputError
from ttq_plugin.nni_adapter import PRUNERS, QUANTIZERS, ATTQQuantizer, PTTQQuantizer, TTQQuantizer
from ttq_plugin.nni_adapter.config import weight_config

# By name


@pytest.mark.parametrize("module, base, table", [("quantization", Quantizer, QUANTIZERS), ("pruning", Pruner, PRUNERS)])
def test_pipelines_find_the_classes_by_name(module, base, table):
    home = getattr(__import__("nni.compression", fromlist=[module]), module)
    assert table
    for compressor in table.values():
        assert getattr(home, compressor.__name__) is compressor and issubclass(compressor, base)
    names = copy.copy(getattr(home, "__all__", None))
    before = dict(vars(home))
    ttq_plugin.register()
    assert dict(vars(home)) == before and getattr(home, "__all__", None) == names
    assert names is None or len(names) == len(set(names))


def test_in_a_fresh_interpreter_registering_is_enough():
    code = (
        "import ttq_plugin; ttq_plugin.register()\n"
        "from nni.compression.quantization import *\n"
        "from nni.compression.pruning import PTTQPruner\n"
        "print(TTQQuantizer.__name__, ATTQQuantizer.__name__, PTTQQuantizer.__name__, QATQuantizer.__module__)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)
    expected = "TTQQuantizer ATTQQuantizer PTTQQuantizer nni.compression.quantization.qat_quantizer"
    assert result.stdout.strip() == expected, result.stderr


# The quick start


class Digits(nn.Module):
    """A convolution with BatchNorm and ReLU6, a plain one, two linear layers: the quick start's kind of net."""

    def __init__(self):
        super().__init__()
        self.conv1, self.batchnorm1, self.relu1 = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU6()
        self.conv2, self.relu2 = nn.Conv2d(8, 16, 3, padding=1), nn.ReLU6()
        self.max_pool1, self.max_pool2 = nn.MaxPool2d(2), nn.MaxPool2d(2)
        self.fc1, self.relu3, self.fc2 = nn.Linear(64, 32), nn.ReLU6(), nn.Linear(32, 10)

    def forward(self, x):
        x = self.max_pool1(self.relu1(self.batchnorm1(self.conv1(x))))
        x = self.max_pool2(self.relu2(self.conv2(x)))
        return F.log_softmax(self.fc2(self.relu3(self.fc1(x.flatten(1)))), dim=1)


LAYERS = ["conv1", "conv2", "fc1", "fc2"]
AFFINE = {"quant_dtype": "int8", "quant_scheme": "affine", "granularity": "default"}
WEIGHTS = [{"op_names": LAYERS, "target_names": ["weight"], **AFFINE}]
ACTIVATIONS = [
    {"op_names": LAYERS, "target_names": ["_input_", "_output_"], **AFFINE},
    {"op_names": ["relu1", "relu2", "relu3"], "target_names": ["_output_"], **AFFINE},
]


@pytest.fixture(scope="module")
def digits():
    images, labels = load_digits(return_X_y=True)
    x, y = torch.as_tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16, torch.as_tensor(labels)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    return x[order], y[order]


N_TRAIN = 1400


def training_step(batch, model):
    return F.nll_loss(model(batch[0]), batch[1])


def accuracy(model, digits):
    with torch.no_grad():
        return (model.eval()(digits[0][N_TRAIN:]).argmax(1) == digits[1][N_TRAIN:]).float().mean().item()


def make_training(digits):
    def training_model(model, optimizer, training_step, scheduler=None, max_steps=None, max_epochs=None):
        model.train()
        for _ in range(max_epochs):
            for batch in torch.randperm(N_TRAIN).split(32):
                optimizer.zero_grad()
                training_step((digits[0][batch], digits[1][batch]), model).backward()
                optimizer.step()

    return training_model


@pytest.fixture(scope="module")
def trained(digits):
    torch.manual_seed(0)
    model = Digits()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    make_training(digits)(model, optimizer, training_step, max_epochs=5)
    assert accuracy(model, digits) > 0.93
    return model


def evaluator_of(model, digits):
    optimizer = nni.trace(torch.optim.SGD)(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    return TorchEvaluator(make_training(digits), optimizer, training_step)


@pytest.mark.parametrize("quantizer_class", [TTQQuantizer, ATTQQuantizer, PTTQQuantizer])
def test_the_quick_start_with_the_class_changed(digits, trained, quantizer_class):
    torch.manual_seed(1)
    model = copy.deepcopy(trained)
    quantizer = quantizer_class(model, WEIGHTS, evaluator_of(model, digits))
    quantizer.track_forward(digits[0][:32])
    returned, calibration = quantizer.compress(None, max_epochs=5)
    assert returned is model and accuracy(model, digits) > 0.85
    assert set(calibration) == set(LAYERS)
    for name in LAYERS:
        entry = calibration[name]["weight"]
        assert (entry["quant_dtype"], entry["quant_bits"], entry["quant_scheme"]) == ("int2", 2, "affine")
        assert len(quantizer.export_model().get_submodule(name).weight.unique()) <= 3
    assert accuracy(quantizer.export_model(), digits) == accuracy(model, digits)


@pytest.mark.parametrize("ternary_first", [True, False])
def test_the_quick_start_with_int8_activations(digits, trained, ternary_first):
    torch.manual_seed(1)
    model = copy.deepcopy(trained)
    warm_up = -(-N_TRAIN // 32)
    if ternary_first:
        quantizer = PTTQQuantizer(model, WEIGHTS, evaluator_of(model, digits))
        last = QATQuantizer.from_compressor(quantizer, ACTIVATIONS, warm_up)
    else:
        qat = QATQuantizer(model, ACTIVATIONS, evaluator_of(model, digits), warm_up)
        last = quantizer = PTTQQuantizer.from_compressor(qat, WEIGHTS)
    last.track_forward(digits[0][:32])
    _, calibration = last.compress(None, max_epochs=5)
    assert {n for n, targets in calibration.items() if "weight" in targets} == set(LAYERS)
    for name, target in [*((n, "_input_0") for n in LAYERS), ("relu1", "_output_0"), ("relu3", "_output_0")]:
        entry = calibration[name][target]
        assert entry["quant_dtype"] == "int8" and entry["scale"] > 0 and entry["tracked_max"] > 0
    for name, state in quantizer.states().items():
        entry = calibration[name]["weight"]
        assert (entry["scale"], entry["scale_negative"]) == tuple(state.scales), "whichever quantizer is asked"
    assert accuracy(model, digits) > 0.85
    with torch.no_grad():
        assert len(model.relu1(torch.linspace(0, 6, 5000)).unique()) <= 255, "outputs really are int8"


# Legacy and foreign config lists


ALL = ["conv1", "conv2", "fc"]


def selected(config_list):
    configs = weight_config(Net(), config_list)
    assert all(c["target_names"] == ["weight"] and c["quant_dtype"] == "int2" for c in configs)
    return sorted(PTTQQuantizer(Net(), config_list).states())


@pytest.mark.parametrize(
    "config_list, names",
    [
        ([{"quant_types": ["weight"], "quant_bits": 2, "op_types": ["Conv2d"]}], ["conv1", "conv2"]),
        ([{"quant_types": ["weight"], "quant_bits": {"weight": 2}, "op_names": ["fc"]}], ["fc"]),
        ([{"quant_types": ["weight"], "quant_bits": {"weight": 8}, "op_types": ["Linear"]}], ["fc"]),
        (
            [
                {"quant_types": ["weight"], "quant_bits": 2, "op_types": ["Conv2d", "Linear"]},
                {"exclude": True, "op_names": ["conv1"]},
            ],
            ["conv2", "fc"],
        ),
        ([{"op_types": ["Conv2d", "Linear"]}, {"exclude": True, "op_names": ["conv1"]}], ["conv2", "fc"]),
        ([{"exclude": True, "op_names": ["conv1"]}, {"op_types": ["Conv2d", "Linear"]}], ["conv2", "fc"]),
        ([{"op_types": ["Conv2d", "Linear"]}, {"exclude": False, "op_names": ["conv1"]}], ["conv1", "conv2", "fc"]),
        ([{"op_types": ["Conv2d"]}, {"exclude": True, "op_types": ["Conv2d"], "op_names": ["conv1", "fc"]}], ["conv2"]),
        ([{"op_types": ["Conv2d", "Linear"]}, {"exclude": True, "op_partial_names": ["onv"]}], ["fc"]),
        ([{"op_types": ["Conv2d"]}, {"op_types": ["Linear"], "quant_types": ["weight"], "quant_bits": 2}], ALL),
        ([{"quant_types": ["weight"], "quant_bits": 2, "op_partial_names": ["conv"]}], ["conv1", "conv2"]),
        ([{"op_types": ["Conv2d"], "exclude_op_names": ["conv2"]}], ["conv1"]),
        ([{"op_names": ["fc"], "target_names": ["weight"], "quant_dtype": "int8"}], ["fc"]),
        ([{"op_names": ["fc"], "target_names": ["weight"], "quant_dtype": "uint8"}], ["fc"]),
        ([{"op_names": ["fc"], "target_names": ["weight"], "target_settings": {"weight": AFFINE}}], ["fc"]),
    ],
)
def test_config_lists_of_other_ages_and_quantizers(config_list, names):
    given = copy.deepcopy(config_list)
    assert selected(config_list) == names
    assert config_list == given


def test_a_legacy_list_trains_and_calibrates():
    torch.manual_seed(0)
    model = Net()
    quantizer = TTQQuantizer(
        model, [{"quant_types": ["weight"], "quant_bits": 8, "op_types": ["Conv2d"]}], make_evaluator(model)
    )
    _, calibration = quantizer.compress(None, 1)
    assert {targets["weight"]["quant_dtype"] for targets in calibration.values()} == {"int2"}
    space = model.conv1._nni_wrapper.quantization_target_spaces["weight"]
    assert (space.qmin, space.qmax) == (-1, 1)


@pytest.mark.parametrize(
    "config_list, message",
    [
        ([{"quant_types": ["weight", "output"], "quant_bits": 8, "op_types": ["Conv2d"]}], "asks for _output_"),
        ([{"op_names": ["fc"], "quant_dtype": "float8"}], "quant_dtype must be int2 .* got 'float8'"),
        ([{"op_names": ["fc"], "quant_dtype": None}], "quant_dtype must be int2 .* got None"),
    ],
)
def test_what_they_may_not_ask(config_list, message):
    with pytest.raises(InputError, match=message):
        PTTQQuantizer(Net(), config_list)
