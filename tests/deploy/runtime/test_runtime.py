"""The runtime: the model's outputs, whatever runs each layer."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.measures.nets import set_codes
from ttq_plugin import InputError, TernaryRuntime, bake, latency, ternarize
from ttq_plugin.deploy.runtime import compiled, int8, runtime, tuning
from ttq_plugin.deploy.runtime.compiled import Choice
from ttq_plugin.deploy.runtime.forms import as_graph, as_layers
from ttq_plugin.deploy.runtime.fused import INT8, TORCH, FusedLayer
from ttq_plugin.native import build as native_build
from ttq_plugin.native import inference as native
from ttq_plugin.tasks import get_task

built = pytest.mark.skipif(native.RUN is None, reason="the kernels are switched off or were not built here")
KERNELS = [Choice("dense", v, c) for v in (1, 2) for c in (1, 3)]
KERNELS += [Choice("sparse", v, c) for v in (1, 2, 4) for c in (1, 3)]


def close(ours, theirs):
    """Within 1e-5 of the largest output."""
    return ours.shape == theirs.shape and float((ours - theirs).abs().max()) <= 1e-5 * float(theirs.abs().max())


def settled(model, shape, batch=6):
    """In evaluation, with BatchNorm statistics of its own."""
    torch.manual_seed(1)
    for _ in range(2):
        model(torch.randn(batch, *shape))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and module.affine:
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    return model.eval()


def ternary(model, zeros=0.8):
    for module in model.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Linear) and module.weight.numel() > 30:
            set_codes(module.weight, round(zeros * module.weight.numel()))
    return model


def forced(model, choice, make=as_graph):
    """The fused copy of a model with one choice for every layer and batch."""
    form = make(model, torch.zeros(1))
    for _, layer in form.fused:
        layer.choices = dict.fromkeys((1, 2, 4, 8, 16), choice)
    return form.run, form.fused


NETS = {
    "blocks": lambda: (
        nn.Sequential(
            *(nn.Conv2d(2, 9, 3, padding=1), nn.BatchNorm2d(9), nn.LeakyReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(9, 21, 3, padding=(1, 2)), nn.BatchNorm2d(21), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(21, 6, 3, padding=1), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(6 * 2 * 3, 5)),
        ),
        (2, 17, 21),
    ),
    "overlapping pools, strides, dilation": lambda: (
        nn.Sequential(
            *(nn.Conv2d(3, 8, (5, 3), stride=(2, 1), padding=(2, 0)), nn.ReLU(), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(8, 7, 3, dilation=(1, 2), bias=False), nn.BatchNorm2d(7), nn.MaxPool2d((2, 1))),
            *(nn.Conv2d(7, 5, 1, stride=2), nn.LeakyReLU(0.3)),
        ),
        (3, 23, 30),
    ),
    "signals": lambda: (
        nn.Sequential(
            *(nn.Conv1d(2, 16, 7, padding=3), nn.BatchNorm1d(16, affine=False), nn.ReLU(), nn.MaxPool1d(2)),
            *(nn.Conv1d(16, 12, 3, stride=2), nn.Dropout(), nn.MaxPool1d(3, 2), nn.LeakyReLU(0.1)),
            *(nn.Conv1d(12, 4, 3, padding=1), nn.Identity()),
        ),
        (2, 90),
    ),
    "rows": lambda: (nn.Sequential(nn.Linear(33, 20), nn.ReLU(), nn.Linear(20, 7)), (11, 33)),
    "long rows": lambda: (
        nn.Sequential(nn.Conv2d(1, 5, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(5, 5, 2)),
        (1, 6, 150),
    ),
}  # fmt: skip


@built
@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("choice", KERNELS, ids=str)
def test_every_kernel_gives_what_float64_gives(name, choice, monkeypatch):
    """Alone and in chains that hand padded planes on; one row of pooling at a time, or all."""
    torch.manual_seed(0)
    model, shape = NETS[name]()
    model = ternary(settled(model, shape))
    oracle = copy.deepcopy(model).double()
    for cached in (1 << 16, 1):
        monkeypatch.setattr(compiled, "CACHED", cached)
        fast, layers = forced(model, choice)
        assert len(layers) == sum(isinstance(m, nn.Conv1d | nn.Conv2d | nn.Linear) for m in model.modules())
        with torch.inference_mode():
            for batch in (1, 3, 8, 5):  # smaller again: what an earlier batch left behind must not show
                x = torch.randn(batch, *shape)
                assert close(fast(x).double(), oracle(x.double()))


@built
@pytest.mark.parametrize("zeros", [0.0, 0.5, 0.97, 1.0])
@pytest.mark.parametrize("vectors", [1, 2, 4])
def test_sparse_lists_of_any_length_and_scales_of_each_channel(zeros, vectors):
    torch.manual_seed(0)
    model = ternary(nn.Sequential(nn.Conv2d(5, 33, 3, padding=1)).eval(), zeros)
    with torch.no_grad():
        model[0].weight *= torch.rand(33, 1, 1, 1)
    fast, _ = forced(model, Choice("sparse", vectors))
    x = torch.randn(2, 5, 7, 9)
    with torch.inference_mode():
        assert close(fast(x), model(x))


@built
def test_not_a_number_passes_the_pools_as_in_torch():
    model = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)).eval()
    x = torch.randn(1, 1, 12, 40)
    x[0, 0, 5, 17] = float("nan")
    for choice in (Choice("dense", 1), Choice("dense", 2)):
        with torch.inference_mode():
            assert torch.equal(forced(model, choice)[0](x).isnan(), model(x).isnan())


class Residual(nn.Module):
    """A convolution whose output is used twice, one that is called twice, and things that must stay as they are."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(2, 8, 3, padding=1)
        self.again = nn.Conv2d(8, 8, 3, padding=1)
        self.groups = nn.Conv2d(8, 8, 3, groups=2)
        self.same = nn.Conv2d(8, 8, 3, padding="same")
        self.circular = nn.Conv2d(8, 8, 3, padding=1, padding_mode="circular")
        self.up = nn.ConvTranspose2d(8, 4, 2)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x):
        x = self.first(x)
        x = F.relu(self.again(x)) + x
        x = torch.relu(self.again(x)).relu()
        x = F.gelu(self.groups(x)) * 2
        x = F.max_pool2d(self.same(x), 3, padding=1)
        x = F.max_pool2d(self.circular(x), 2, ceil_mode=True)
        return self.norm(F.leaky_relu(self.up(x), negative_slope=-0.5))


class Untraceable(Residual):
    def forward(self, x):
        if float(x.sum()) > 1e9:
            return x
        return super().forward(x)


@built
@pytest.mark.parametrize("net", [Residual, Untraceable])
@pytest.mark.parametrize("choice", [Choice("sparse", 2), Choice("dense", 1)], ids=str)
def test_what_is_no_chain_stays_right(net, choice):
    torch.manual_seed(0)
    model = ternary(settled(net(), (2, 13, 11)))
    fast, layers = forced(model, choice, as_graph if net is Residual else as_layers)
    assert {name for name, _ in layers} == {"first", "again"}
    x = torch.randn(3, 2, 13, 11)
    with torch.inference_mode():
        assert close(fast(x), model(x))
    assert not any(isinstance(m, FusedLayer) for m in model.modules())


@pytest.mark.parametrize("task", ["mnist-cnn", "esr-2dcnn", "esr-cnn-transformer"])
def test_builtin_models_give_the_same_outputs_for_any_batch_and_threads(task):
    torch.manual_seed(0)
    described = get_task(task)
    model = described.model()
    names = [n for n, m in model.named_modules() if isinstance(m, nn.Conv1d | nn.Conv2d) and m.weight.numel() > 1000]
    ternarize(model, names, method="ttq", t=0.3)
    model = settled(bake(model), described.shape)
    x = torch.randn(5, *described.shape)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    fast, two = TernaryRuntime(model, x[:1]), TernaryRuntime(model, x[:2], threads=2)
    with torch.inference_mode():
        assert len(fast.fused) >= 4
        for count in (1, 5):
            assert close(fast(x[:count]), model(x[:count]))
            assert close(two(x[:count]), model(x[:count]))
        assert fast(x[:0]).shape == model(x[:0]).shape
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert set(fast.table) == {1, 8} and set(two.table) == {1, 4}
    assert "runs as" in str(fast) and names[0] in str(fast)


@pytest.mark.parametrize("name", NETS)
def test_layers_in_eight_bits_are_near_and_only_where_allowed(name):
    """Beside an oracle in float64 whose weights and inputs are rounded to the same codes."""
    torch.manual_seed(0)
    model, shape = NETS[name]()
    model = settled(model, shape)
    x = torch.randn(40, *shape)
    fast = TernaryRuntime(model, x, int8=True)
    if fast.fused[0][1].int8 is None:
        pytest.skip("this torch or this processor has no int8 operations")
    assert all(layer.int8 is not None for _, layer in fast.fused)
    for _, layer in fast.fused:
        layer.choices = dict.fromkeys((1, 64), INT8)
    inputs = fast._form.inputs(x)
    with torch.inference_mode():
        for _, layer in fast.fused:
            made, spec = layer.int8, layer.spec
            codes = made._codes(inputs[layer]).double() - 128
            assert (codes - (inputs[layer].double() / made.input_scale).clamp(-128, 127)).abs().max() < 0.5001
            scales = made.scales.reshape(-1, 1, 1, 1)
            weight = (torch.from_numpy(spec.weight) / scales).round().double() * scales
            expected = int8._with(layer.layer, spec, codes * made.input_scale, weight)
            ours = made(inputs[layer]).double()
            assert (ours - expected).abs().max() <= 1e-5 * expected.abs().max()
        fast.runs, fast._ready = dict.fromkeys(fast.runs, "ours"), {}
        assert float((fast(x) - model(x)).abs().max() / model(x).abs().max()) < 0.1
    names = [name for name, _ in fast.fused]
    one = TernaryRuntime(model, x, int8=names[:1])
    assert [layer.int8 is not None for _, layer in one.fused] == [name == names[0] for name in names]
    assert all(layer.int8 is None for _, layer in TernaryRuntime(model, x).fused)
    with pytest.raises(InputError, match="int8 must name layers among .*, got nowhere"):
        TernaryRuntime(model, x, int8=["nowhere"])


def test_a_layer_that_would_be_wrong_in_eight_bits_stays_out(monkeypatch):
    model = NETS["rows"]()[0].eval()
    x = torch.randn(40, 11, 33)
    monkeypatch.setattr(int8.Int8Layer, "__call__", lambda self, x: torch.zeros(*x.shape[:-1], len(self.scales)))
    assert all(layer.int8 is None for _, layer in TernaryRuntime(model, x, int8=True).fused)


def test_outputs_are_the_callers_to_keep():
    """No later call writes into what an earlier one returned."""
    model = get_task("mnist-cnn").model().eval()
    fast = TernaryRuntime(model, torch.randn(1, 1, 20, 20))
    xs = torch.randn(4, 1, 1, 20, 20)
    outputs = [fast(x) for x in xs]
    assert all(close(y, model(x)) for x, y in zip(xs, outputs, strict=True))


def test_the_fastest_is_chosen_and_torch_where_all_else_is_slower(monkeypatch):
    """By a clock that the test makes."""
    model = ternary(nn.Sequential(nn.Conv2d(4, 8, 3)).eval())
    now = itertools.count()
    monkeypatch.setattr(runtime, "race", lambda ways: {"torch": 2.0, "ours": 1.0})
    for favourite in (TORCH, Choice("sparse", 2), Choice("dense", 1)):
        clock = [0.0]

        def tick(clock=clock):
            return clock[0] + 0 * next(now)

        def by_kernel(self, x, choice, *_, clock=clock, favourite=favourite):
            clock[0] += 1 if choice == favourite else 3
            return self.by_torch_really(x)

        def by_torch(self, x, clock=clock, favourite=favourite):
            clock[0] += 1 if favourite is TORCH else 2
            return self.by_torch_really(x)

        with monkeypatch.context() as patch:
            patch.setattr(FusedLayer, "by_torch_really", FusedLayer.by_torch, raising=False)
            patch.setattr(FusedLayer, "by_kernel", by_kernel)
            patch.setattr(FusedLayer, "by_torch", by_torch)
            patch.setattr(tuning.time, "perf_counter", tick)
            patch.setattr(tuning, "RUN", object())
            patch.setattr(tuning, "_additions", lambda *_: 7)
            [row] = TernaryRuntime(model, torch.randn(1, 4, 9, 9)).table[1]
        assert row.choice == favourite and row.seconds == 1
    for least in ("ours", "torch", "onnxruntime"):
        monkeypatch.setattr(runtime, "race", lambda ways, least=least: {way: 1.0 + (way != least) for way in ways})
        assert TernaryRuntime(model, torch.randn(1, 4, 9, 9)).runs == {1: least}


def test_without_kernels_torch_does_all(monkeypatch):
    monkeypatch.setattr(tuning, "RUN", None)
    model = get_task("mnist-cnn").model().eval()
    fast = TernaryRuntime(model, torch.randn(2, 1, 20, 20))
    assert {row.choice for rows in fast.table.values() for row in rows} == {TORCH}
    x = torch.randn(3, 1, 20, 20)
    assert close(fast(x), model(x))


def test_a_library_of_another_source_is_not_used(tmp_path, monkeypatch):
    source = tmp_path / "kernels.c"
    source.write_text(native_build.INFERENCE.read_text())
    if reason := native_build.build(native_build.library_of(source), source):
        pytest.skip(reason)
    monkeypatch.setattr(native, "INFERENCE", source)
    assert native.load() is not None
    source.write_text(source.read_text() + "\n")
    with pytest.warns(UserWarning, match="was built from another source; torch is used instead, which is slower"):
        assert native.load() is None
    other = tmp_path / "other" / "kernels.c"
    other.parent.mkdir()
    native_build.library_of(other).write_bytes(b"no library")
    monkeypatch.setattr(native, "INFERENCE", other)
    with pytest.warns(UserWarning, match="cannot be used"):
        assert native.load() is None
    monkeypatch.setenv("TTQ_NATIVE", "0")
    assert native.load() is None


def test_sums_are_counted():
    model = ternary(get_task("mnist-cnn").model().eval())
    fast = TernaryRuntime(model, torch.randn(1, 1, 20, 20))
    if fast.table[1][1].choice.kind == "sparse":
        first = fast.table[1][0].additions
        assert fast.additions() - first == int(torch.count_nonzero(model.conv2.weight)) * 16


def test_latency_is_a_time():
    model = get_task("mnist-cnn").model().eval()
    assert 1e-6 < latency(model, torch.randn(1, 1, 20, 20), turns=5) < 1


def test_wrong_inputs_are_named():
    model = get_task("mnist-cnn").model()
    x = torch.randn(2, 1, 20, 20)
    with pytest.raises(InputError, match=r"in training mode; call .eval\(\)"):
        TernaryRuntime(model, x)
    model.eval()
    with pytest.raises(InputError, match="example input .* of float32 .* on the CPU, got float64"):
        TernaryRuntime(model, x.double())
    with pytest.raises(InputError, match="does not take the example input"):
        TernaryRuntime(model, torch.randn(1, 3, 20, 20))
    with pytest.raises(InputError, match="threads must be at least 1, got 0"):
        TernaryRuntime(model, x, threads=0)
    fast = TernaryRuntime(model, x)
    for wrong, message in (
        (torch.randn(2, 1, 20, 25), r"got float32 \(2, 1, 20, 25\), which the model does not take: mat1 and mat2"),
        (x.double(), r"got float64 \(2, 1, 20, 20\)\."),
        ((x, x), r"got tuple \(0: float32"),
        ({"x": x}, r"got dict \(x: float32"),
        (torch.zeros(()), "got float32"),
    ):
        with pytest.raises(InputError, match=rf"made for float32 \(batch, 1, 20, 20\) on the CPU, {message}"):
            fast(wrong)
