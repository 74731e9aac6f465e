"""The native kernels against torch: same decisions to the bit, same statistics and gradients to rounding."""

from __future__ import annotations

import gc
import itertools
import os
import re
import shutil
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
import torch

from ttq_plugin.core import METHODS
from ttq_plugin.core.statistics import Statistics
from ttq_plugin.core.ternary_step import decide, latent_gradient
from ttq_plugin.native import build as native_build
from ttq_plugin.native import training as native

off = native.BUILT is None or os.environ.get("TTQ_NATIVE") == "0"
built = pytest.mark.skipif(off, reason="native kernels are switched off or were not built here (no C compiler?)")
SIZES = [*range(2, 71), 4096, 100_003]
CASES = [
    ("ttq", {}),
    ("attq", {}),
    ("pttq", {}),
    ("ttq", {"dead_zone": "zero"}),
    ("attq", {"dead_zone": "zero", "normalize": True}),
    ("pttq", {"dead_zone": "zero", "learn_alpha": True}),
    ("pttq", {"normalize": True, "learn_alpha": True, "alpha": 50.0}),
    ("pttq-fixed", {}),
    ("pttq-symmetric", {"learn_alpha": True}),
    ("pttq-absolute", {"learn_alpha": True}),
    ("pttq", {"surrogate": "weak", "learn_alpha": True}),
    ("attq", {"learn_alpha": True}),
    ("ttq", {"learn_alpha": True}),
]
SCALES = torch.tensor([0.1, 0.7])


class Subclass(torch.Tensor):
    pass


def weights(n, seed=0):
    w = 0.1 * torch.randn(n, generator=torch.Generator().manual_seed(seed)) + 0.01
    w[:2] = torch.tensor([-0.4, 0.5])
    return w


def gradient(n, seed=1):
    return torch.randn(n, generator=torch.Generator().manual_seed(seed))


def whole(w, distances, g, alpha=1.0, soft=0, **options):
    """The two kernels at given distances: q, dL/dw, dL/dscales, dL/dthresholds."""
    method, distances = METHODS["pttq-absolute"].configure(**options), torch.tensor(distances)
    q, known = native.BUILT.forward(w, SCALES, distances, method)
    return q, *native.BUILT.backward(w, g, known, SCALES, distances, torch.tensor(alpha), method, soft)[:3]


def step(method, w, g, dtype=torch.float32, on=True):
    """(q, gradients by name) of one training step."""
    params = {k: v.to(dtype) for k, v in method.init(w.double())[0].items()}
    params["scales"] = params["scales"] * 1.1
    w = w.detach().to(dtype, copy=True).requires_grad_()
    leaves = {k: v.clone().requires_grad_(k in method.learnable) for k, v in params.items()}
    with native.switched(on):
        q = method.weights(w, leaves)
        q.backward(g.to(dtype))
    return q.detach(), {"w": w.grad, **{k: v.grad for k, v in leaves.items() if v.requires_grad}}


@built
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("name, options", CASES)
def test_a_step_equals_torch(name, options, n):
    method = METHODS[name].configure(on_empty="clip", **options)
    w, g = weights(n), gradient(n)
    q, grads = step(method, w, g)
    exact_q, exact = step(method, w, g, torch.float64)
    # A weight next to a threshold may part float32 from float64.
    if n < 1000 or torch.equal(q.sign(), exact_q.sign().float()):
        terms = g.double().abs().sum().item()
        for key, value in exact.items():
            close = 1e-5 * (value.abs() if key in ("w", "scales") else terms * (1 + value.abs()))
            assert ((grads[key].double() - value).abs() <= close + 1e-6 * terms / n).all(), key
    params = {k: v.float() for k, v in method.init(w.double())[0].items()}
    assert torch.equal(q.sign().to(torch.int8), method.codes(w, params))


@built
@pytest.mark.parametrize("largest, normalize", [(3e38, False), (0.37, True), (3e20, True), (1e-30, True)])
@pytest.mark.parametrize("n", [2, 17, 70, 4096])
def test_decisions_are_torchs_to_the_bit(n, largest, normalize):
    """Ties, both zeros, denormal numbers, the largest ones; each value is at some time the distance."""
    w = weights(n)
    special = [0.0, -0.0, 1e-45, -1e-45, 1e-39, 3e38, -3e38, 0.1, -0.1, 1 / 3, 0.05, -0.05, 1e-20]
    w[: min(n, len(special))] = torch.tensor(special[:n])
    w = (w.clamp(-largest, largest) if normalize else w).contiguous()
    w[0] = largest if normalize else w[0]
    x = w / w.abs().max() if normalize else w
    edges = [abs(v) for v in x[: len(special)].tolist()] + [0.1, 1 / 3, 0.1 + 1e-9, float("nan"), float("inf")]
    g = gradient(n)
    w_p, w_n = SCALES.tolist()
    for distances in itertools.product(torch.tensor(edges).tolist(), repeat=2):
        positive, negative = decide(x, distances)
        for dead_zone in ("pass", "zero"):
            q, d_w, d_scales, _ = whole(w, distances, g, dead_zone=dead_zone, normalize=normalize)
            assert torch.equal(q.view(torch.int32), (positive * w_p + negative * -w_n).view(torch.int32))
            expected = latent_gradient(g, positive.clone(), negative.clone(), (w_p, w_n), dead_zone)
            assert torch.equal(d_w, expected / w.abs().max() if normalize else expected)
            sums = (g * positive).double().sum().item(), -(g * negative).double().sum().item()
            assert d_scales.tolist() == pytest.approx(sums, rel=1e-6, abs=1e-12)


@built
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("normalize", [False, True])
def test_statistics_are_those_of_float64(n, normalize):
    w = weights(n)
    s = Statistics(w, None)
    exact = w.double()
    if normalize:
        s.normalise_()
        exact = (w / w.abs().max()).double()
    assert s.kernels is not None
    mu, sigma = s.moments
    assert mu == pytest.approx(exact.mean().item(), rel=1e-6, abs=1e-9)
    assert sigma == pytest.approx(exact.std().item(), rel=1e-6)
    assert s.peaks == (-exact.min().item(), exact.max().item())
    # What codes see is divided beforehand, and must decide alike.
    whole = Statistics(exact.float(), None)
    assert (whole.moments, whole.peaks) == (s.moments, s.peaks)


@built
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", METHODS)
def test_weights_that_are_not_finite_are_not_hidden(name, value):
    """A training that went astray shows it: no statistic is a number."""
    w = weights(300)
    w[123] = value
    s = Statistics(w, None)
    assert s.kernels is not None
    assert all(x != x for x in (*s.peaks, s.absmax, s.moments[1]))


@built
def test_the_slope_of_the_sigmoid_is_exact_to_4e_7():
    x = torch.linspace(-63.9, 63.9, 20_001)
    w = torch.tensor([0.0, 1.0])  # sigma = sqrt(1 / 2), so that the slope is 1
    for value in x[::97].tolist():
        # Only the first weight has a gradient; its distance to both thresholds is -value.
        *_, d_t = whole(w, (value, value), torch.tensor([1.0, 0.0]), alpha=0.5**0.5, soft=1)
        exact = torch.sigmoid(torch.tensor(value).double()) * torch.sigmoid(-torch.tensor(value).double())
        expected = (SCALES.double() * exact).flip(0) * torch.tensor([1.0, -1.0])
        assert d_t.tolist() == pytest.approx(expected.tolist(), rel=6e-7)
    for far in (65.0, 1e30, float("inf")):
        assert whole(w, (far, far), torch.tensor([1.0, 0.0]), alpha=0.5**0.5, soft=1)[3].abs().max() == 0


@built
def test_what_the_kernels_cannot_take_goes_to_torch():
    w = weights(40).reshape(4, 10)
    assert native.kernels_for(w) is native.BUILT and native.kernels_for(torch.nn.Parameter(w)) is native.BUILT
    for other in (w.t(), w[:, ::2], w.double(), w.half(), w.to("meta"), w.as_subclass(Subclass)):
        assert native.kernels_for(other) is None
    with native.switched(False):
        assert native.kernels_for(w) is None
    seen = []
    torch.func.vmap(lambda row: seen.append(native.kernels_for(row)) or row)(w)
    torch.compile(lambda x: x + float(native.kernels_for(x) is None), backend="eager", fullgraph=True)(w)
    assert seen == [None]
    assert Statistics(w, (1,)).kernels is None


@built
def test_strided_weights_and_gradients_give_the_same_step():
    w, g = weights(60).reshape(6, 10), gradient(60).reshape(6, 10)
    method = METHODS["pttq"]
    q, grads = step(method, w, g)
    for other_w, other_g in ((w.t().contiguous().t(), g), (w, g.t().contiguous().t())):
        same_q, same = step(method, other_w, other_g)
        assert torch.equal(q, same_q)
        for key, value in grads.items():
            assert torch.allclose(value, same[key], rtol=1e-5, atol=1e-6), key


@built
def test_a_surrogate_without_a_kernel_uses_torch(monkeypatch):
    w, g = weights(500), gradient(500)
    _, soft = step(METHODS["pttq"], w, g)
    monkeypatch.setattr(native, "SURROGATES", ())
    monkeypatch.setattr(native.Kernels, "backward", None)
    _, other = step(METHODS["pttq"], w, g)
    assert torch.allclose(other["thresholds"], soft["thresholds"], rtol=1e-4)
    assert torch.equal(other["w"], soft["w"])


@built
def test_frozen_parts_have_no_gradient_and_second_derivatives_are_refused():
    w, params = weights(100), METHODS["pttq"].init(weights(100))[0]
    scales = params["scales"].requires_grad_()
    METHODS["pttq"].weights(w, params | {"scales": scales}).sum().backward()
    assert w.grad is None and params["thresholds"].grad is None and scales.grad is not None
    w.requires_grad_()
    q = METHODS["pttq"].weights(w, params)
    (d_w,) = torch.autograd.grad((q**2).sum(), w, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        d_w.sum().backward()


@built
def test_codes_are_the_signs_of_the_step():
    """The step's distances come from the library, the codes' from Python: the same to the bit."""
    methods = [METHODS[name] for name in ("ttq", "attq", "pttq", "pttq-symmetric", "pttq-absolute")]
    for seed in range(400):
        w = weights(20_000, seed)
        for method in (*methods, METHODS["pttq"].configure(normalize=True)):
            params = method.init(w)[0]
            _, known = native.BUILT.forward(w, params["scales"], params["thresholds"], method)
            s = method.latent(w)
            distances = method.rule.distances(s, s.values(params["thresholds"]))
            assert native.values(known, False, 1)[3] == distances


@built
def test_a_weight_changed_before_the_backward_pass_is_noticed():
    w, params = weights(100).requires_grad_(), METHODS["pttq"].init(weights(100))[0]
    q = METHODS["pttq"].weights(w, params)
    with torch.no_grad():
        w.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        q.sum().backward()


@built
def test_threads_change_nothing():
    w, g = weights(200_000), gradient(200_000)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 4):
            torch.set_num_threads(threads)
            results.append(step(METHODS["pttq"], w, g))
    finally:
        torch.set_num_threads(before)
    with ThreadPoolExecutor(4) as pool:
        results += pool.map(lambda _: step(METHODS["pttq"], w, g), range(4))
    for q, grads in results[1:]:
        assert torch.equal(q, results[0][0])
        assert all(torch.equal(grads[key], value) for key, value in results[0][1].items())


@built
def test_no_memory_is_lost():
    method, w, g = METHODS["pttq"], weights(1000).requires_grad_(), gradient(1000)
    leaves = {k: v.clone().requires_grad_(k in method.learnable) for k, v in method.init(w)[0].items()}

    def steps(n):
        for _ in range(n):
            method.weights(w, leaves).backward(g)
        gc.collect()
        return psutil.Process().memory_info().rss

    steps(1000)
    before = steps(100)
    assert steps(10_000) - before < 2**20


# Installation --------------------------------------------------------------------------------------------------------


def test_without_a_library_there_is_no_kernel_and_no_warning(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert native.load(tmp_path / "_training.so") is None


@built
def test_a_library_of_another_source_is_ignored_with_a_warning(tmp_path, monkeypatch):
    library = tmp_path / "_training.so"
    monkeypatch.setattr(native_build, "fingerprint", lambda *_: 12345)
    assert native_build.build(library) is None
    with pytest.warns(UserWarning, match="_training.so was built from another source; torch is used instead"):
        assert native.load(library) is None


def test_a_file_that_is_no_library_is_ignored_with_a_warning(tmp_path):
    library = tmp_path / "_training.so"
    library.write_text("not ELF")
    with pytest.warns(UserWarning, match="_training.so cannot be used"):
        assert native.load(library) is None


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_the_library_is_built_from_the_source(tmp_path):
    assert native_build.build(tmp_path / "k.so") is None
    assert native.load(tmp_path / "k.so").source == native_build.fingerprint()
    assert [p.name for p in tmp_path.iterdir()] == ["k.so"]


@pytest.mark.parametrize(
    "compiler, message",
    [("no-such-compiler", r"no C compiler \(no-such-compiler\) was found"), ("false", "false ended with 1")],
)
def test_why_it_was_not_built_is_said_in_one_line(tmp_path, monkeypatch, compiler, message):
    monkeypatch.setenv("CC", compiler)
    reason = native_build.build(tmp_path / "k.so")
    assert re.fullmatch(message, reason)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value, on", [("0", False), ("1", True), (None, True)])
def test_the_environment_switches_it_off(value, on):
    environment = {k: v for k, v in os.environ.items() if k != "TTQ_NATIVE"}
    environment |= {} if value is None else {"TTQ_NATIVE": value}
    code = (
        "import torch; from ttq_plugin.native import training as native; "
        "print(native.kernels_for(torch.ones(3)) is not None, native.BUILT is not None)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    used, there = (word == "True" for word in result.stdout.split())
    assert used == (on and there)
