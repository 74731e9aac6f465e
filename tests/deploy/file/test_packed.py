"""Packed files: the same model again, in the bytes promised, or a clear error."""

from __future__ import annotations

import copy
import subprocess
import sys
from functools import partial

import pytest
import torch
from torch import nn

from tests.measures.nets import Encoder, Tied, binary_twin, set_codes, ternary_twin
from tests.measures.test_published import MODELS, OVER_ALL_WEIGHTS, TABLES, rows
from ttq_plugin import InputError, PTTQQuantizer, bake, load_packed, packed_info, save_packed, ternarize
from ttq_plugin.deploy.file.codes import SCHEMES
from ttq_plugin.support.weights import save_weights
from ttq_plugin.tasks import TASKS, get_task

LAYERS = {
    "mnist-cnn": ["conv1", "conv2"],
    "esr-2dcnn": ["conv2", "conv3", "conv4"],
    "hits-2dcnn": ["conv2", "conv3", "conv4"],
    "esr-cnn-transformer": [
        "conv2",
        "encoder.1.linear1",
        "encoder.1.linear2",
        "encoder.3.linear1",
        "encoder.3.linear2",
    ],
    "hits-cnn-transformer": ["conv2", *(f"encoder.{i}.linear{j}" for i in (1, 3, 5, 7) for j in (1, 2))],
}


def compressed(task="mnist-cnn", zeros=0.66):
    torch.manual_seed(0)
    model = get_task(task).model().eval()
    n = sum(model.get_submodule(name).weight.numel() for name in LAYERS[task])
    return ternary_twin(model, LAYERS[task], round(zeros * n))


def states_equal(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(
        x.dtype == b[name].dtype and torch.equal(x.contiguous().view(-1).view(torch.uint8),
                                                 b[name].contiguous().view(-1).view(torch.uint8))
        for name, x in a.items()
    )  # fmt: skip


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "small.safetensors"
    save_packed(compressed(), path, task="mnist-cnn", method="pttq", report={"srqw": 0.66})
    return path


@pytest.mark.parametrize("task", list(TASKS))
def test_every_builtin_model_comes_back_by_its_name_alone(tmp_path, task):
    torch.manual_seed(1)
    model = get_task(task).model().eval()
    for module in model.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d) and module.weight.numel() > 1000:
            set_codes(module.weight, module.weight.numel() // 2)
    before = torch.get_rng_state()
    info = save_packed(model, tmp_path / "m.safetensors", task=task)
    twin = load_packed(tmp_path / "m.safetensors")
    assert torch.equal(torch.get_rng_state(), before)
    assert states_equal(model, twin) and not twin.training
    assert info.packed_bytes and info.task == task
    assert info.nbytes == (tmp_path / "m.safetensors").stat().st_size


def test_outputs_are_the_same_bits(small):
    x = torch.randn(5, 1, 20, 20)
    assert torch.equal(load_packed(small)(x), compressed()(x))


@pytest.mark.parametrize("method", ["ttq", "attq", "pttq", "twn", "dorefa"])
@pytest.mark.parametrize("granularity", ["default", "out_channel"])
def test_what_the_methods_bake_comes_back(tmp_path, method, granularity):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv1d(2, 16, 5), nn.ConvTranspose1d(16, 12, 3), nn.BatchNorm1d(12), nn.Flatten(), nn.Linear(12 * 14, 9)
    )
    ternarize(model, ["0", "1", "4"], method=method, granularity=granularity, on_empty="clip")
    baked = bake(model)
    info = save_packed(baked, tmp_path / "m.safetensors")
    assert set(info.packed_bytes) >= {"1", "4"}
    assert {info.entries[f"{name}.weight"]["kind"] for name in "14"} <= {"ternary", "binary"}
    twin = copy.deepcopy(baked)
    for value in twin.state_dict().values():
        value.zero_()
    assert load_packed(tmp_path / "m.safetensors", twin) is twin
    assert states_equal(baked, twin)


def test_shared_weights_are_written_once(tmp_path):
    torch.manual_seed(0)
    model = Tied()
    save_packed(model, tmp_path / "m.safetensors")
    [same] = [e for e in packed_info(tmp_path / "m.safetensors").entries.values() if e["as"] == "same"]
    twin = load_packed(tmp_path / "m.safetensors", Tied())
    assert states_equal(model, twin)
    names = [n for n, p in twin.named_parameters(remove_duplicate=False) if n.endswith("weight")]
    assert same["of"] in names


def test_encoder_layers_of_torch_and_double_precision(tmp_path):
    model = Encoder().double()
    set_codes(model.layer.linear1.weight, 20)
    save_packed(model, tmp_path / "m.safetensors")
    assert states_equal(load_packed(tmp_path / "m.safetensors", Encoder().double()), model)
    with pytest.raises(InputError, match=r"is F32 .*, the file's F64"):
        load_packed(tmp_path / "m.safetensors", Encoder())


def test_a_model_that_is_still_in_training_is_refused(tmp_path):
    wrapped = nn.Sequential(nn.Linear(16, 8))
    PTTQQuantizer(wrapped, [{"op_names": ["0"]}])
    for model in (wrapped, ternarize(nn.Sequential(nn.Linear(16, 8)), ["0"])):
        with pytest.raises(InputError, match="needs a plain model, got one whose layer '0' is still made ternary"):
            save_packed(model, tmp_path / "m.safetensors")
    assert not list(tmp_path.iterdir())


def test_compiled_models_are_written_and_filled_like_plain_ones(tmp_path):
    plain = bake(ternarize(nn.Sequential(nn.Linear(16, 8)), ["0"]))
    save_packed(torch.compile(plain), tmp_path / "m.safetensors")
    for compiled in (False, True):
        other = nn.Sequential(nn.Linear(16, 8))
        load_packed(tmp_path / "m.safetensors", torch.compile(other) if compiled else other)
        assert torch.equal(other[0].weight, plain[0].weight)


def test_files_are_the_same_bytes_each_time(tmp_path):
    """In another process too, where hashes are seeded anew."""
    code = (
        "import sys; from tests.deploy.file.test_packed import compressed; from ttq_plugin import save_packed\n"
        "save_packed(compressed(), sys.argv[1], task='mnist-cnn', report={'b': 1.5, 'a': None})"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "a")], check=True)
    save_packed(compressed(), tmp_path / "b", task="mnist-cnn", report={"a": None, "b": 1.5})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("rest, size, error", [("float16", 0.62, 2**-11), ("int8", 0.42, 1 / 254)])
def test_the_rest_in_fewer_bits(tmp_path, rest, size, error):
    model = compressed()
    exact = save_packed(model, tmp_path / "exact.safetensors", task="mnist-cnn").nbytes
    small = save_packed(model, tmp_path / "small.safetensors", task="mnist-cnn", rest=rest).nbytes
    assert small < size * exact
    twin = load_packed(tmp_path / "small.safetensors")
    assert torch.equal(twin.conv2.weight, model.conv2.weight)
    for name, value in model.state_dict().items():
        peak = value.abs().amax() if value.dim() < 2 else value.flatten(1).abs().amax(1, keepdim=True)
        bound = error * (value.abs() if rest == "float16" else peak.reshape(-1, *[1] * (value.dim() - 1)))
        assert ((twin.state_dict()[name] - value).abs() <= bound * (1 + 1e-6) + 2**-25).all(), name
    model.fc1.weight.data[0, 0] = 1e6
    if rest == "float16":
        with pytest.raises(InputError, match="up to 65504, got 1e.06 in fc1.weight"):
            save_packed(model, tmp_path / "no.safetensors", rest=rest)
        assert not (tmp_path / "no.safetensors").exists()


@pytest.mark.skipif(not TABLES.exists(), reason="needs ../shared/paper")
@pytest.mark.parametrize("model, method, row", [r for r in rows() if MODELS[r[0]][1] > 10_000])
def test_real_bytes_of_the_published_rows(tmp_path, model, method, row):
    """CR_G^Q of the bytes written, codes and scales: >= 95 %, and >= 98.5 % from 94 % zeros on."""
    _, weights, layers = MODELS[model]
    net = get_task(model).model()
    chosen = LAYERS[model]
    assert (sum(net.get_submodule(n).weight.numel() for n in chosen), len(chosen)) == (weights, layers)
    if method == "dorefa":
        twin, zeros = binary_twin(net, chosen), 0.0
    else:
        zeros = row["srqw"]["mean"] / 100
        if model in OVER_ALL_WEIGHTS and method in ("ttq", "attq"):
            zeros /= OVER_ALL_WEIGHTS[model]
        twin = ternary_twin(net, chosen, round(zeros * weights))
    written = save_packed(twin, tmp_path / "m.safetensors").packed_bytes
    gain = 1 - sum(written[name] for name in chosen) / (4 * weights)
    published = row["cr_gain_quantized"]["mean"]
    print(f"{model} {method}: zeros {100 * zeros:.2f} %, CR_G^Q {100 * gain:.2f} % (published {published:.2f} %)")
    assert gain >= (0.985 if zeros >= 0.94 else 0.95)


def test_loading_takes_the_memory_of_a_layer(tmp_path):
    """12 layers of 4 MB of weights: reading them never holds a second model."""
    model = nn.Sequential(*(nn.Linear(1000, 1000, bias=False) for _ in range(12)))
    for layer in model:
        layer.weight.data = torch.where(layer.weight > 0.03, 0.1, 0.0)
    save_packed(model, tmp_path / "m.safetensors")
    save_packed(model[:1], tmp_path / "one.safetensors")
    code = (
        "import resource, sys; from ttq_plugin import load_packed; from torch import nn\n"
        "def net(n): return nn.Sequential(*(nn.Linear(1000, 1000, bias=False) for _ in range(n)))\n"
        "load_packed(sys.argv[1] + '/one.safetensors', net(1)); model = net(12)\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "load_packed(sys.argv[1] + '/m.safetensors', model)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 16_000  # KiB; the model has 48 000


def test_foreign_files_and_other_models_are_named(small, tmp_path):
    net = get_task("mnist-cnn").model()
    cases = {
        "missing.safetensors": (None, "does not exist"),
        "empty.safetensors": (b"", "0 bytes"),
        "text.safetensors": (b"hello, this is no model at all", "not a packed file"),
        "pickle.safetensors": (b"\x80\x04\x95" + bytes(60), "not a packed file"),
    }
    for name, (data, message) in cases.items():
        if data is not None:
            (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError, match=message):
            load_packed(tmp_path / name, net)
    save_weights(net, tmp_path / "plain.safetensors", {"task": "mnist-cnn"})
    with pytest.raises(InputError, match="no entry 'ttq_packed'"):
        load_packed(tmp_path / "plain.safetensors", net)
    with pytest.raises(InputError, match="holds a ttq_plugin.tasks.builtin.mnist.MnistCNN, .* got a CNN2D"):
        load_packed(small, get_task("esr-2dcnn").model())
    with pytest.raises(InputError, match="does not exist"):
        load_packed(tmp_path, net)


def test_without_a_model_only_builtin_tasks_are_rebuilt(small, tmp_path):
    save_packed(compressed(), tmp_path / "own.safetensors")
    with pytest.raises(InputError, match="does not name a built-in task; give load_packed a model"):
        load_packed(tmp_path / "own.safetensors")


def test_wrong_arguments(tmp_path):
    with pytest.raises(InputError, match="task must be one of"):
        save_packed(compressed(), tmp_path / "m.safetensors", task="cifar")
    with pytest.raises(InputError, match="rest must be one of exact, float16, int8, got 'int4'"):
        save_packed(compressed(), tmp_path / "m.safetensors", rest="int4")
    with pytest.raises(InputError, match="cannot be written"):
        save_packed(compressed(), "/proc/m.safetensors")
    with pytest.raises(InputError, match="plain tensors, got '0.weight' of torch.complex64"):
        save_packed(nn.Sequential(nn.Linear(2, 2)).to(torch.complex64), tmp_path / "m.safetensors")
    assert not list(tmp_path.iterdir())


def test_each_weight_is_decoded_once(tmp_path, monkeypatch):
    """Decoding takes most of the time of loading; that all is checked before anything changes costs no second turn."""
    model = nn.Sequential(*(nn.Linear(40, 40) for _ in range(3)))
    for layer in model:
        layer.weight.data = torch.where(layer.weight > 0.1, 0.25, torch.where(layer.weight < -0.13, -0.5, 0.0))
    info = save_packed(model, tmp_path / "m.safetensors")
    schemes = [entry["as"] for entry in info.entries.values() if "kind" in entry]
    turns = []
    for scheme, (encode, decode) in SCHEMES.items():
        monkeypatch.setitem(
            SCHEMES, scheme, (encode, partial(lambda own, *more: turns.append(1) or own(*more), decode))
        )
    twin = load_packed(tmp_path / "m.safetensors", nn.Sequential(*(nn.Linear(40, 40) for _ in range(3))))
    assert len(turns) == len(schemes) == 3
    assert all(torch.equal(a, b) for a, b in zip(twin.parameters(), model.parameters(), strict=True))
