import copy
import json
import subprocess
import sys

import pytest
import torch
from torch import nn

from ttq_plugin.errors import InputError
from ttq_plugin.measures import EnergyModel, measure
from ttq_plugin.measures.energy import transfers
from ttq_plugin.measures.untouched import untouched

from .nets import Encoder, MnistCNN, binary_twin, set_codes, ternary_twin

KEYS = (
    "srqw cr_gain_total cr_gain_quantized bits_coo34 bits_dense2 bits_base3 bits_entropy bits_fp32 cr_gain_dense2 "
    "cr_gain_base3 cr_gain_entropy mult_adds mult_adds_fp32 ec_total ec_total_fp32 ec_gain_total energy_model"
).split()


@pytest.fixture
def report():
    model = MnistCNN()
    return measure(model, ternary_twin(model, ["conv1", "conv2"], 3_000), torch.randn(2, 1, 20, 20))


def test_keys_are_flat_json(report):
    values = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert list(values) == KEYS
    assert all(isinstance(v, (int, float, str)) for v in values.values())
    assert values["energy_model"] == "3.7e-12 J a mult-add, 1e-09 J a transfer"
    assert values["bits_entropy"] < values["bits_base3"] < values["bits_dense2"] < values["bits_coo34"]


def test_what_was_written_stands_beside_the_schemes(report):
    assert "disk" not in str(report)
    written = report.written(20_000, {"conv1": 60, "conv2": 1_000, "fc1": 7})
    values = written.to_dict()
    assert list(values) == [*KEYS, "bits_disk", "cr_gain_disk", "cr_gain_quantized_disk"]
    assert values["bits_disk"] == 160_000 and values["cr_gain_disk"] == 1 - 160_000 / (32 * 9_840)
    assert values["cr_gain_quantized_disk"] == 1 - 1_060 / (4 * 5_250)
    assert "coo34 kB  disk kB  dense2 kB" in str(written) and "file 20.00 kB: compression gain 49.19 %" in str(written)
    assert [line.split()[5] for line in str(written).splitlines()[1:3]] == ["0.06", "1.00"]
    partly = report.written(20_000, {"conv1": 60})
    assert "cr_gain_quantized_disk" not in partly.to_dict() and "of the quantised weights" in str(partly)


def test_binary_only_has_no_srqw():
    model = MnistCNN()
    report = measure(model, binary_twin(model, ["conv2"]), torch.randn(2, 1, 20, 20))
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False))["srqw"] is None
    assert "none (binary)" in str(report)


def test_totals_are_by_hand(report):
    rest = 9_840 - 5_250
    assert report.bits("dense2") == 2 * 5_250 + 2 * 64 + 32 * rest
    assert report.bits("coo34") == 34 * 2_250 + 2 * 64 + 32 * rest
    words = sum(-(-2 * row.nonzeros // 32) + 2 for row in report.selected) + rest
    assert report.ec_total == pytest.approx(report.mult_adds * 3.7e-12 + words * 1e-9)
    assert report.ec_total_fp32 == pytest.approx(report.mult_adds_fp32 * 3.7e-12 + 9_840 * 1e-9)
    assert report.ec_gain_total == pytest.approx(1 - report.ec_total / report.ec_total_fp32)


def test_worked_energy_example():
    """Slides: a full-precision layer with 5 non-zeros beside a ternary layer with 4: 8 transfers, 8e-9 J."""
    assert transfers(5, 32) + transfers(4, 2, 2) == 8
    model = nn.Sequential(nn.Linear(3, 2, bias=False), nn.Linear(2, 3, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 2, 3], [4, 5, 0]]))
    twin = copy.deepcopy(model)
    set_codes(twin[1].weight, 2)
    report = measure(model, twin, torch.randn(1, 3), energy_model=EnergyModel(mult_add=0.0))
    assert report.ec_total == pytest.approx(8e-9)
    assert report.ec_total_fp32 == pytest.approx(11e-9)
    assert report.ec_gain_total == pytest.approx(3 / 11)


def test_energy_gain_is_signed():
    model = nn.Linear(3, 1, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 0, 0]]))
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.weight.copy_(torch.tensor([[1.0, 1, -2]]))
    assert measure(model, twin, torch.randn(1, 3)).ec_gain_total < 0


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_energy_constants_are_checked(value):
    with pytest.raises(InputError, match="EnergyModel.transfer must be a finite number of joules >= 0, got"):
        EnergyModel(transfer=value)


def test_printed_table(report):
    text = str(report)
    assert "conv1" in text and "conv2" in text and "fc1" not in text
    assert "compression gain" in text and "3.7e-12 J a mult-add" in text


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_half_and_double_weights_count_alike(dtype):
    model = MnistCNN()
    twin = ternary_twin(model, ["conv1", "conv2"], 3_000)
    x = torch.randn(2, 1, 20, 20)
    assert measure(model.to(dtype), twin.to(dtype), x.to(dtype)).bits("coo34") == measure(
        model.float(), twin.float(), x
    ).bits("coo34")


class Restless(nn.Module):
    """Changes a buffer, its modules' flags and the random state in every forward."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.drop = nn.Dropout()
        self.encoder = Encoder()
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("kept", torch.zeros(2))

    def forward(self, x):
        self.calls += 1
        self.kept = torch.rand(2)
        return self.fc(x)


@pytest.mark.parametrize("fails", [False, True])
def test_models_come_back_as_they_were(fails):
    model = Restless().train()
    model.drop.eval()
    model.fc.weight.grad = torch.ones(4, 4)
    twin = copy.deepcopy(model)
    set_codes(twin.fc.weight, 7)
    for m in (model, twin):
        before = {k: v.clone() for k, v in m.state_dict().items()}
        flags = [x.training for x in m.modules()]
        kept, grad, random = m.kept, m.fc.weight.grad, torch.get_rng_state()
        if fails:
            with pytest.raises(InputError):
                measure(model, twin, torch.ones(2, 5))
        else:
            measure(model, twin, torch.ones(2, 4))
        assert all(torch.equal(v, before[k]) for k, v in m.state_dict().items())
        assert [x.training for x in m.modules()] == flags
        assert m.kept is kept and m.fc.weight.grad is grad and m.fc.bias.grad is None
        assert torch.equal(torch.get_rng_state(), random)
        assert not any(x._forward_hooks or x._forward_pre_hooks for x in m.modules())
        assert torch.backends.mha.get_fastpath_enabled()


def test_untouched_leaves_nan_buffers_alone():
    model = nn.BatchNorm1d(2)
    model.running_mean.fill_(float("nan"))
    with untouched(model):
        assert not model.training
    assert model.training and model.running_mean.isnan().all()


def test_needs_torch_only():
    code = "import sys, ttq_plugin.measures; print([m for m in sys.modules if m.split('.')[0] in sys.argv[1:]])"
    found = subprocess.run(
        [sys.executable, "-c", code, "nni", "optuna", "mlflow", "pyhessian"], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"
