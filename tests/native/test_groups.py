"""The kernels of many groups, in C and in CUDA, against torch in float64; CUDA's threads are emulated on the CPU."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess

import pytest
import torch

from ttq_plugin.core import METHODS
from ttq_plugin.core.statistics import Statistics
from ttq_plugin.native import cuda, groups
from ttq_plugin.native import training as native

off = native.BUILT is None or os.environ.get("TTQ_NATIVE") == "0"
built = pytest.mark.skipif(off, reason="native kernels are switched off or were not built here (no C compiler?)")
CASES = [
    ("ttq", {}),
    ("attq", {}),
    ("pttq", {}),
    ("ttq", {"dead_zone": "zero", "learn_alpha": True}),
    ("attq", {"learn_alpha": True}),
    ("pttq", {"dead_zone": "zero", "learn_alpha": True, "alpha": 50.0}),
    ("pttq-fixed", {}),
    ("pttq-symmetric", {"learn_alpha": True}),
    ("pttq-absolute", {"learn_alpha": True}),
]
SHAPES = [
    *[((n, 37), 0) for n in (1, 2, 16, 33)],
    *[((40, n), 1) for n in (1, 15, 16, 17, 33)],
    ((5, 4, 3, 3), 0),
    ((12, 18, 2, 2), 1),
    ((30, 4, 3), 2),
]
SHIM = """
#include <barrier>
#include <cmath>
#include <cstring>
#include <thread>
#include <vector>
#define __global__
#define __device__
#define __shared__ static
struct Index { int x; };
static thread_local Index threadIdx, blockIdx;
static std::barrier together(THREADS);
static void __syncthreads() { together.arrive_and_wait(); }
static float __fadd_rn(float a, float b) { return a + b; }
static float __fmul_rn(float a, float b) { return a * b; }
#include SOURCE
extern "C" int size() { return sizeof(Step); }
extern "C" void launch(const char *name, int blocks, const Step *step)
{
    void (*kernel)(Step) = !strcmp(name, "ttq_statistics") ? ttq_statistics
                           : !strcmp(name, "ttq_ternarise") ? ttq_ternarise
                           : !strcmp(name, "ttq_gradients") ? ttq_gradients : ttq_sums;
    std::vector<std::thread> threads;
    for (int t = 0; t < THREADS; t++)
        threads.emplace_back([=] {
            threadIdx.x = t;
            for (blockIdx.x = 0; blockIdx.x < blocks; blockIdx.x++)
                kernel(*step);
        });
    for (auto &thread : threads)
        thread.join();
}
"""


class Emulated(cuda.CudaKernels):
    """The kernels of ``training.cu``, a block after another, each thread of it a thread of the CPU."""

    def __init__(self, folder):
        (folder / "shim.cpp").write_text(SHIM)
        flags = ["-std=c++20", "-O1", "-ffp-contract=off", "-shared", "-fPIC", "-pthread", "-DTHREADS=8"]
        source = f'-DSOURCE="{cuda.SOURCE}"'
        subprocess.run(["c++", *flags, source, "shim.cpp", "-o", "shim.so"], cwd=folder, check=True, timeout=600)
        self.library = ctypes.CDLL(str(folder / "shim.so"))

    def _launch(self, kernels, argument):
        assert self.library.size() == cuda.ARGUMENT.size
        for name, blocks in kernels:
            self.library.launch(name.encode(), blocks, argument)


@pytest.fixture(scope="module", params=["C", "CUDA"])
def kernels(request, tmp_path_factory):
    if request.param == "C":
        return None if off else groups.ChannelKernels()
    return Emulated(tmp_path_factory.mktemp("emulated")) if shutil.which("c++") else None


@pytest.fixture(autouse=True)
def _there(request):
    if "kernels" in request.fixturenames and request.getfixturevalue("kernels") is None:
        pytest.skip("needs a compiler")


def weights(shape, channel):
    """Both signs in every group, and a mean that is not zero."""
    w = 0.1 * torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))) + 0.01
    rows = w.movedim(channel, 0).reshape(shape[channel], -1)
    rows[:, 0], rows[:, 1] = -0.4, 0.5
    moved = [shape[channel], *(n for d, n in enumerate(shape) if d != channel)]
    return rows.reshape(moved).movedim(0, channel).contiguous()


def oracle(method, w, g, params):
    """(q, gradients by name) by torch in float64."""
    leaves = {k: v.double().requires_grad_(k in method.learnable) for k, v in params.items()}
    w = w.double().requires_grad_()
    q = method.weights(w, leaves)
    q.backward(g.double())
    return q.detach(), {"w": w.grad, **{k: v.grad for k, v in leaves.items() if v.requires_grad}}


def forward(kernels, method, w, params, project=False):
    return kernels.forward(w, params["scales"], params["thresholds"], params["alpha"], method, project)


def by_kernels(kernels, method, w, g, params):
    soft = 2 if method.learn_alpha else 1 if method.learn_thresholds else 0
    q, known = forward(kernels, method, w, params)
    found = kernels.backward(w, g, known, params["scales"], params["alpha"], method, soft)
    grads = dict(zip(("w", "scales", "thresholds", "alpha"), found, strict=True))
    return q, {k: v for k, v in grads.items() if k in ("w", *method.learnable)}


def check(kernels, method, w, device="cpu"):
    """Two steps of kernels, the same to the bit, close to torch's in float64, whose signs are the codes."""
    g = torch.randn(w.shape, generator=torch.Generator().manual_seed(1))
    params = {k: v.float().contiguous() for k, v in method.init(w.double())[0].items()}
    params["scales"] = params["scales"] * 1.1
    exact_q, exact = oracle(method, w, g, params)
    w, g, params = w.to(device), g.to(device), {k: v.to(device) for k, v in params.items()}
    q, grads = by_kernels(kernels, method, w, g, params)
    torch.testing.assert_close(q.double().cpu(), exact_q, rtol=1e-7, atol=0)
    assert grads.keys() == exact.keys()
    size = g.double().abs().sum().item()
    for key, value in exact.items():
        assert grads[key].shape == value.shape
        torch.testing.assert_close(
            grads[key].double().cpu(), value, rtol=2e-5, atol=1e-7 * size, msg=lambda m, k=key: f"{k}: {m}"
        )
    for _ in range(2):
        same_q, same = by_kernels(kernels, method, w, g, params)
        assert torch.equal(same_q, q) and all(torch.equal(same[k], grads[k]) for k in grads)


@pytest.mark.parametrize("name, options", CASES)
@pytest.mark.parametrize("shape, channel", SHAPES)
def test_a_step_of_channels_is_torchs_of_float64(kernels, shape, channel, name, options):
    method = METHODS[name].configure(channel=channel, on_empty="clip", normalize=False, **options)
    check(kernels, method, weights(shape, channel))


@pytest.mark.parametrize("name, options", CASES)
@pytest.mark.parametrize("shape, channel", [((9000,), None), ((2, 5000), 0), ((100, 2, 50), 1)])
def test_groups_of_several_blocks_are_torchs_of_float64(kernels, shape, channel, name, options):
    if channel is None and isinstance(kernels, groups.ChannelKernels):
        pytest.skip("one group has kernels of its own in C")
    w = weights(shape, channel or 0) if channel is not None else weights((1, *shape), 0).reshape(shape)
    check(kernels, METHODS[name].configure(channel=channel, on_empty="clip", normalize=False, **options), w)


@pytest.mark.parametrize("shape, channel", SHAPES)
def test_moments_are_those_of_float64(kernels, shape, channel):
    w = weights(shape, channel) + 7.0
    mean, sigma = kernels.moments(w, channel)
    dims = [d for d in range(w.dim()) if d != channel]
    assert mean.shape == sigma.shape == groups.group_shape(w.shape, channel)
    torch.testing.assert_close(mean.double(), w.double().mean(dims, keepdim=True), rtol=1e-7, atol=0)
    torch.testing.assert_close(sigma.double(), w.double().std(dims, keepdim=True), rtol=1e-6, atol=0)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["ttq", "attq", "pttq"])
def test_a_weight_that_is_not_finite_shows_in_its_group_alone(kernels, name, value):
    """Its statistics are no numbers, so that no weight lies beyond its distances; other groups stay as they were."""
    method = METHODS[name].configure(channel=0, on_empty="clip", normalize=False)
    w = weights((3, 40), 0)
    params = {k: v.contiguous() for k, v in method.init(w)[0].items()}
    before, _ = forward(kernels, method, w, params)
    w[1, 7] = value
    q, known = forward(kernels, method, w, params)
    assert known.flatten()[-18:].reshape(6, 3)[2:4, 1].isnan().all() and (q[1] == 0).all()
    assert torch.equal(q[::2], before[::2]) and before[1].any()


@pytest.mark.parametrize("name, options", CASES)
def test_what_is_learned_is_brought_back_before_it_is_used(kernels, name, options):
    method = METHODS[name].configure(channel=0, on_empty="clip", normalize=False, **options)
    w = weights((5, 60), 0)
    low = {k: v.contiguous() for k, v in method.init(w)[0].items()}
    for value in low.values():
        value[..., 1:3, :] = torch.tensor([[-0.5], [1e-9]])
    raised = {k: v.clone() for k, v in low.items()}
    method.project_(raised)
    expected = forward(kernels, method, w, raised)
    before = {k: v.clone() for k, v in low.items()}
    forward(kernels, method, w, low)
    assert all(torch.equal(low[k], before[k]) for k in low)
    q, known = forward(kernels, method, w, low, project=True)
    assert torch.equal(q, expected[0]) and torch.equal(known, expected[1])
    assert all(torch.equal(low[k], raised[k]) for k in low)


@built
@pytest.mark.parametrize("name", ["ttq", "attq", "pttq", "pttq-symmetric", "pttq-absolute"])
@pytest.mark.parametrize("normalize", [False, True])
def test_codes_are_the_signs_of_the_step(name, normalize):
    """Distances come from the kernels in the step and from Python for the codes: the same to the bit."""
    method = METHODS[name].configure(channel=0, on_empty="clip", normalize=normalize)
    for seed in range(40):
        w = weights((64, 300 + seed), 0)
        params = method.init(w)[0]
        q = method.weights(w, params)
        assert torch.equal(q.sign().to(torch.int8), method.codes(w, params))
        if not normalize:
            _, known = forward(groups.ChannelKernels(), method, w, params)
            s = method.latent(w)
            distances = torch.stack(method.rule.distances(s, s.values(params["thresholds"])))
            assert torch.equal(known[2:4].reshape(distances.shape), distances)


@built
@pytest.mark.parametrize("name, options", [*CASES, ("pttq", {"surrogate": "weak"}), ("ttq", {"normalize": True})])
def test_training_with_channels_takes_the_kernels_and_equals_torch(name, options):
    """What they do not do, a surrogate or a division, torch does; a gradient may be strided."""
    method, w = METHODS[name].configure(channel=1, on_empty="clip", **options), weights((20, 12, 3), 1)
    g = torch.randn(3, 12, 20, generator=torch.Generator().manual_seed(1)).permute(2, 1, 0)
    found = []
    for on in (True, False):
        params = method.init(w)[0]
        leaves = {k: v.requires_grad_(k in method.learnable) for k, v in params.items()}
        latent = w.clone().requires_grad_()
        with native.switched(on):
            q = method.weights(latent, leaves)
            assert (type(q.grad_fn).__name__ == "GroupStepBackward") == (on and not method.normalize)
            q.backward(g)
        found.append((q.detach(), latent.grad, {k: v.grad for k, v in leaves.items() if v.requires_grad}))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)


@built
def test_channels_whose_weight_changed_or_whose_second_derivative_is_wanted_are_refused():
    w, method = weights((6, 20), 0).requires_grad_(), METHODS["pttq"].configure(channel=0)
    params = method.init(w)[0]
    (d_w,) = torch.autograd.grad((method.weights(w, params) ** 2).sum(), w, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        d_w.sum().backward()
    q = method.weights(w, params)
    with torch.no_grad():
        w.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        q.sum().backward()


@built
def test_what_the_kernels_of_channels_cannot_take_goes_to_torch():
    w = weights((6, 20), 0)
    assert isinstance(groups.group_kernels_for(0, w), groups.ChannelKernels)
    assert groups.group_kernels_for(None, w) is None
    for other in (w.t(), w.double(), w.half(), w.to("meta")):
        assert groups.group_kernels_for(0, other) is None
        assert Statistics(other, (1,)).groups is None
    with native.switched(False):
        assert groups.group_kernels_for(0, w) is None


def test_a_gpu_whose_kernels_cannot_be_made_is_told_once(monkeypatch):
    monkeypatch.setattr(cuda.ctypes, "CDLL", lambda name: (_ for _ in ()).throw(OSError(f"{name}: not found")))
    with pytest.warns(
        UserWarning, match=r"The kernels for a GPU cannot be used \(.*not found\); torch is used instead"
    ):
        assert cuda.load(0) is None
