"""The equations against the tables of the papers: compression gains from the published zeros."""

import json
from pathlib import Path

import pytest
import torch

from ttq_plugin.measures import measure
from ttq_plugin.measures.storage import binary, coo34

from .nets import BlockCNN, MnistCNN, binary_twin, ternary_twin

TABLES = Path(__file__).parents[3] / "shared" / "paper" / "reported_results.json"
# parameters, quantised weights, quantised layers (methods.md)
MODELS = {
    "mnist-cnn": (9_840, 5_250, 2),
    "esr-2dcnn": (1_555_842, 1_548_288, 3),
    "hits-2dcnn": (1_681_923, 1_548_288, 3),
    "esr-cnn-transformer": (109_942, 26_624, 5),
    "hits-cnn-transformer": (766_271, 114_688, 9),
}
# Where the published SRQW is the share of zeros among ALL convolution and linear weights (found here: only so do the
# four rows fit their CR): quantised / all such weights.
OVER_ALL_WEIGHTS = {
    "hits-2dcnn": 1_548_288 / (1_548_288 + 3 * 64 * 9 + 3 * 43_008),
    "esr-2dcnn": 1_548_288 / (1_548_288 + 64 * 9 + 2 * 2_048),
}


def rows():
    if not TABLES.exists():
        return []
    tables = json.loads(TABLES.read_text())["main_results"]
    return [(m, k, r) for m, methods in tables.items() for k, r in methods.items() if k != "fp"]


@pytest.mark.skipif(not TABLES.exists(), reason="needs ../shared/paper")
@pytest.mark.parametrize(("model", "method", "row"), rows())
def test_compression_gain_follows_from_the_published_zeros(model, method, row):
    parameters, n, layers = MODELS[model]
    full = 32 * n
    if method == "dorefa":
        bits = binary(n, layers)
    else:
        zeros = row["srqw"]["mean"] / 100
        if model in OVER_ALL_WEIGHTS and method in ("ttq", "attq"):
            zeros /= OVER_ALL_WEIGHTS[model]
        bits = coo34(round(n * (1 - zeros)), 2 * layers)
    gain_quantized = 100 * (1 - bits / full)
    gain_total = 100 * (full - bits) / (32 * parameters)
    assert gain_quantized == pytest.approx(row["cr_gain_quantized"]["mean"], abs=0.06)
    assert gain_total == pytest.approx(row["cr_gain_total"]["mean"], abs=0.06)


@pytest.mark.parametrize(
    ("zeros", "quantized", "total"), [(57.08, 54.32, 28.98), (30.40, 25.97, 13.86), (65.79, 63.58, 33.92)]
)
def test_mnist_cnn_measured(zeros, quantized, total):
    model = MnistCNN()
    twin = ternary_twin(model, ["conv1", "conv2"], round(52.50 * zeros))
    report = measure(model, twin, torch.randn(3, 1, 20, 20))
    assert [row.name for row in report.selected] == ["conv1", "conv2"]
    assert report.srqw == pytest.approx(zeros / 100, abs=1e-4)
    assert 100 * report.cr_gain_quantized == pytest.approx(quantized, abs=0.011)
    assert 100 * report.cr_gain_total == pytest.approx(total, abs=0.011)
    assert report.bits_fp32 == 32 * 9_840


def test_mnist_cnn_dorefa_exactly():
    model = MnistCNN()
    report = measure(model, binary_twin(model, ["conv1", "conv2"]), torch.randn(1, 1, 20, 20))
    assert report.cr_gain_quantized == 1 - (5_250 + 64) / (32 * 5_250)
    assert f"{100 * report.cr_gain_quantized:.2f} {100 * report.cr_gain_total:.2f}" == "96.84 51.67"
    assert report.srqw is None


def test_2d_cnn_has_the_papers_size():
    model = BlockCNN(1, 2_048, 2)
    layers = ["convs.1", "convs.2", "convs.3"]
    report = measure(model, ternary_twin(model, layers, round(0.9417 * 1_548_288)), torch.randn(1, 1, 32, 37))
    assert report.bits_fp32 == 32 * 1_555_842
    assert sum(row.weights for row in report.selected) == 1_548_288
    assert 100 * report.cr_gain_quantized == pytest.approx(93.80, abs=0.02)
