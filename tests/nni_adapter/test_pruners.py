"""The pruners: masks are the methods' dead zones, one-shot or trained."""

from __future__ import annotations

import pytest
import torch
from nni.compression.base.compressor import Pruner

from tests.nni_adapter.nets import Net, batches, config, make_evaluator
from ttq_plugin.core import METHODS
from ttq_plugin.core.prune import prune
from ttq_plugin.errors import InputError
from ttq_plugin.nni_adapter import PRUNERS, QUANTIZERS, PTTQPruner, TTQPruner

ALL = pytest.mark.parametrize("name", PRUNERS)
LAYERS = [{"op_names": ["conv1", "conv2"], "target_names": ["weight"]}]


def net(seed=0):
    torch.manual_seed(seed)
    return Net()


@ALL
def test_one_shot_masks_are_the_dead_zone_and_the_quantizers_zeros(name):
    model, twin = net(), net()
    pruner = PRUNERS[name](model, LAYERS)
    assert isinstance(pruner, Pruner)
    _, masks = pruner.compress()
    quantizer = QUANTIZERS[name](twin, config("conv1", "conv2"))
    for layer, codes in quantizer.codes().items():
        assert torch.equal(masks[layer]["weight"] != 0, codes != 0)
        assert 0 < masks[layer]["weight"].mean() < 1
    kept = {layer: getattr(twin, layer).weight.clone() for layer in ("conv1", "conv2")}
    quantizer.unwrap_model()
    model(batches(1)[0][0])
    for layer in kept:
        latent = getattr(twin, layer).weight
        assert torch.equal(getattr(model, layer).weight, latent * masks[layer]["weight"])


@ALL
def test_trained_masks_follow_the_weights_and_freeze_at_the_end(name):
    model = net()
    pruner = PRUNERS[name](model, LAYERS, make_evaluator(model, lr=0.1))
    before = {layer: codes != 0 for layer, codes in pruner.codes().items()}
    thresholds = {layer: state.thresholds.clone() for layer, state in pruner.states().items()}
    model, masks = pruner.compress(None, 4)
    assert any(not torch.equal(before[layer], masks[layer]["weight"] != 0) for layer in before)
    for layer, codes in pruner.codes().items():
        assert torch.equal(masks[layer]["weight"] != 0, codes != 0)
        learned = not torch.equal(thresholds[layer], pruner.states()[layer].thresholds)
        assert learned == (name == "pttq")
    with torch.no_grad():
        model.conv1._nni_wrapper.weight.mul_(-1)
        model.eval()(batches(1)[0][0])
    assert torch.equal(model.conv1.weight != 0, masks["conv1"]["weight"] != 0)


def test_no_scales_are_trained():
    model = net()
    pruner = PTTQPruner(model, LAYERS, make_evaluator(model))
    names = [name for name, _ in model.named_parameters()]
    assert not [name for name in names if "scales" in name] and [name for name in names if "thresholds" in name]
    pruner.compress(None, 1)


@ALL
@pytest.mark.parametrize("ratio", [0.3, 0.8])
def test_a_sparse_ratio_sets_the_thresholds(name, ratio):
    model = net()
    _, masks = PRUNERS[name](model, [{"op_names": ["conv2"], "sparse_ratio": ratio}]).compress()
    mask = masks["conv2"]["weight"]
    assert (mask == 0).float().mean().item() == pytest.approx(ratio, abs=2 / mask.numel())


def test_nnis_legacy_sparsity_prunes_weights_only():
    model = net()
    _, masks = TTQPruner(model, [{"op_types": ["Conv2d"], "sparsity": 0.5}]).compress()
    assert set(masks) == {"conv1", "conv2"} and all(set(m) == {"weight"} for m in masks.values())
    assert (masks["conv2"]["weight"] == 0).float().mean().item() == pytest.approx(0.5, abs=0.01)


def test_an_entry_of_the_legacy_format_excludes_layers_after_any_other():
    old, new = {"op_types": ["Conv2d"], "sparsity": 0.5}, {"op_types": ["Conv2d"], "sparse_ratio": 0.5}
    for entry in (old, new):
        _, masks = TTQPruner(net(), [entry, {"op_names": ["conv1"], "exclude": True}]).compress()
        assert set(masks) == {"conv2"}
    with pytest.raises(InputError, match="exclude must be True in an entry with op_names, .*, got 'yes' with op_names"):
        TTQPruner(net(), [new, {"op_names": ["conv1"], "exclude": "yes"}])


def test_threshold_gradient_is_that_of_the_soft_mask():
    """Autograd of p = w (S(a (w - D_max)) + S(a (-w - D_min))) in float64."""
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(400, dtype=torch.float64, generator=generator) * 0.1
    g = torch.randn(400, dtype=torch.float64, generator=generator)
    method = METHODS["pttq"].configure(t_min=0.7, t_max=1.2, learn_alpha=True)
    params, _ = method.init(w)
    leaves = {k: v.clone().requires_grad_() for k, v in params.items()}
    x = w.clone().requires_grad_()
    pruned = prune(x, w, leaves, method)
    assert torch.equal(pruned, torch.where(method.codes(w, params) != 0, w, 0.0))
    (pruned * g).sum().backward()
    t, alpha = params["thresholds"].clone().requires_grad_(), params["alpha"].clone().requires_grad_()
    mu, sigma = w.mean(), w.std()
    low, high = (mu + t[0] * sigma).abs(), (mu + t[1] * sigma).abs()
    slope = alpha / sigma
    soft = w * (torch.sigmoid(slope * (w - high)) + torch.sigmoid(slope * (-w - low)))
    (soft * g).sum().backward()
    assert torch.allclose(leaves["thresholds"].grad, t.grad, rtol=0, atol=1e-10)
    assert leaves["alpha"].grad.item() == pytest.approx(alpha.grad.item(), rel=1e-9)
    assert torch.equal(x.grad, g)


@pytest.mark.parametrize(
    "config_list, message",
    [
        ([{"op_names": ["conv1"], "sparse_ratio": 1.0}], r"sparse_ratio must lie in \(0, 1\), got 1"),
        ([{"op_names": ["conv1"], "target_names": ["weight", "bias"]}], "only weights can be ternary"),
        ([{"op_names": ["conv9"]}], "names the layer 'conv9'"),
        ([], "selects no layer"),
        ("conv1", "config_list must be a list of dicts"),
    ],
)
def test_bad_config_lists_leave_the_model_unwrapped(config_list, message):
    model = net()
    with pytest.raises(InputError, match=message):
        TTQPruner(model, config_list)
    assert not any(hasattr(m, "_nni_wrapper") for m in model.modules())


def test_training_needs_an_evaluator():
    with pytest.raises(InputError, match="TTQPruner has no evaluator"):
        TTQPruner(net(), LAYERS).compress(None, 1)


def test_a_quantizer_and_a_pruner_of_one_method_on_one_layer():
    """Order quantise -> mask: with the same method and numbers the mask takes nothing more away."""
    model = net()
    quantizer = QUANTIZERS["ttq"](model, config("conv2"), make_evaluator(model))
    pruner = TTQPruner.from_compressor(quantizer, [{"op_names": ["conv2"], "target_names": ["weight"]}])
    pruner.compress(None, 2)
    exported = quantizer.export_model()
    positive, negative = quantizer.states()["conv2"].scales.tolist()
    assert set(exported.conv2.weight.unique().tolist()) == {-negative, 0.0, positive}
    assert torch.equal(exported.conv2.weight != 0, quantizer.codes()["conv2"] != 0)
