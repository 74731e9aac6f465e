"""What each method would make of a layer, and HAWQ-v2's Omega, against plain loops, NNI and the report."""

import copy
import math
import warnings
from dataclasses import replace

import pytest
import torch
from nni.compression.quantization import QATQuantizer
from torch import nn

from tests.nni_adapter.nets import make_evaluator
from ttq_plugin import bake, measure, ternarize
from ttq_plugin.core import METHODS
from ttq_plugin.curvature import Budget, LayerTrace, generate_config, select
from ttq_plugin.curvature.candidates import integer_weight
from ttq_plugin.errors import InputError
from ttq_plugin.measures import SCHEMES, EnergyModel

from .nets import ConvNet, example

CE = nn.CrossEntropyLoss()
ALL = ("int8", "int4", *METHODS)


def traces_of(model, per_weight=1.0, error=0.25):
    """Made-up traces of every layer."""
    return [
        LayerTrace(name, type(module).__name__, module.weight.numel(), per_weight * module.weight.numel(), error, 8)
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d))
    ]


def options_of(selection):
    return {(row.layer, option.method): option for row in selection.rows for option in row.options}


@pytest.mark.parametrize("bits", [8, 4])
def test_integer_weights_are_those_of_nni(bits):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 24, bias=False))
    with torch.no_grad():
        model[0].weight[0, 0] = 0.7  # an asymmetric weight, so that a wrong range would show
    w = model[0].weight.detach().clone()
    config = [{"op_names": ["0"], "target_names": ["weight"], "quant_dtype": f"int{bits}"}]
    config[0] |= {"quant_scheme": "symmetric", "granularity": "default"}
    QATQuantizer(model, config, make_evaluator(model))
    model.train()(torch.eye(32))  # NNI finds its scale in the first training step
    with torch.no_grad():
        seen = model.eval()(torch.eye(32)).T
    ours = integer_weight(w, bits)
    assert torch.equal(ours, seen)
    assert len(ours.unique()) <= 2**bits - 1
    assert (ours - w).abs().max() <= 0.7 / (2 ** (bits - 1) - 1) / 2 * (1 + 1e-5)


def test_integer_weights_of_a_layer_of_zeros():
    assert torch.equal(integer_weight(torch.zeros(3, 2), 4), torch.zeros(3, 2))


def naive_distance(w, q):
    pairs = zip(w.double().flatten().tolist(), q.double().flatten().tolist(), strict=True)
    return math.fsum((a - b) ** 2 for a, b in pairs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_omega_against_a_plain_loop(dtype):
    model, x, y = example(ConvNet, dtype=dtype)
    selection = generate_config(model, CE, [(x, y)], methods=ALL, max_probes=8)
    traces = {layer.name: layer for layer in selection.traces}
    found = options_of(selection)
    assert {method for _, method in found} == {"fp32", *ALL}
    for name, layer in traces.items():
        w = model.get_submodule(name).weight
        for method in ALL:
            if method.startswith("int"):
                q = integer_weight(w.detach(), int(method[3:]))
            else:
                q = bake(ternarize(copy.deepcopy(model), [name], method, on_empty="clip")).get_submodule(name).weight
            distance = naive_distance(w, q)
            option = found[name, method]
            assert option.distance == pytest.approx(distance, rel=1e-12)
            assert option.sensitivity == pytest.approx(layer.trace / layer.weights * distance, rel=1e-12)
            assert option.standard_error == pytest.approx(layer.standard_error / layer.weights * distance, rel=1e-12)
        assert found[name, "fp32"].sensitivity == found[name, "fp32"].distance == 0


def test_totals_are_those_of_the_choice():
    model, *_ = example(ConvNet)
    selection = select(model, traces_of(model), 0.9, methods=("pttq", "int4"))
    chosen = [row.chosen for row in selection.rows]
    assert selection.sensitivity == math.fsum(option.sensitivity for option in chosen) > 0
    assert selection.sensitivity_error == math.fsum(option.standard_error for option in chosen) > 0
    assert selection.methods == {row.layer: row.method for row in selection.rows}


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("granularity", [None, "out_channel"])
def test_bits_and_energy_are_those_that_measure_finds(scheme, granularity):
    model, x, _ = example(ConvNet, dtype=torch.float32)
    energy_model = EnergyModel(2e-12, 5e-10)
    options = {"pttq": {"t_min": 0.8, "granularity": granularity}} if granularity else {"pttq": {"t_min": 0.8}}
    selection = select(
        model,
        traces_of(model),
        1.0,
        methods=("pttq",),
        options=options,
        scheme=scheme,
        energy_model=energy_model,
        example_input=x,
    )
    twin = copy.deepcopy(model)
    with warnings.catch_warnings(action="ignore"):  # a threshold lowered: a note of the selection too
        ternarize(twin, selection.layers, "pttq", t_min=0.8, on_empty="clip", granularity=granularity or "default")
    report = measure(model, bake(twin).eval(), x, selection.layers, energy_model)
    assert set(selection.layers) == {"conv", "up", "fc"}
    assert selection.bits == pytest.approx(report.bits(scheme), rel=1e-12)
    assert selection.bits_fp32 == report.bits_fp32
    assert selection.energy == pytest.approx(report.ec_total, rel=1e-12)
    assert selection.energy_fp32 == pytest.approx(report.ec_total_fp32, rel=1e-12)


def baked(model, selection):
    """The model as the selection's methods quantise it before any training."""
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for layer, bits in selection.widths.items():
            weight = twin.get_submodule(layer).weight
            weight.copy_(integer_weight(weight, bits))
    for layer in set(selection.layers) - set(selection.widths):
        ternarize(twin, [layer], selection.methods[layer], on_empty="clip")
    return bake(twin).eval()


@pytest.mark.parametrize("budget", [Budget(bits=1000), Budget(energy=2.8e-8)])
def test_bits_and_energy_of_a_mixed_choice_are_those_that_measure_finds(budget):
    model, x, _ = example(ConvNet, dtype=torch.float32)
    traces = [
        replace(trace, trace=trace.trace * weight) for trace, weight in zip(traces_of(model), (9, 1e-2, 1), strict=True)
    ]
    selection = select(model, traces, budget, methods=("int8", "pttq"), example_input=x)
    assert selection.methods == {"conv": "fp32", "up": "int8", "fc": "pttq"}
    ternary = set(selection.layers) - set(selection.widths)
    report = measure(model, baked(model, selection), x, ternary, widths=selection.widths)
    assert selection.bits == report.bits("base3")
    assert selection.energy == pytest.approx(report.ec_total, rel=1e-12)


def test_the_model_is_left_as_it_was():
    model, x, y = example(ConvNet)
    before, mode = copy.deepcopy(model.state_dict()), model.training
    state = torch.get_rng_state()
    generate_config(model, CE, [(x, y)], methods=("pttq", "int8"), max_probes=4, example_input=x)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert model.training is mode and torch.equal(torch.get_rng_state(), state)
    assert all(p.grad is None for p in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


class Awkward(nn.Module):
    """Layers that some or all methods cannot take: constant, one sign only, one weight, frozen, tied."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.constant, self.positive, self.single = nn.Linear(3, 4), nn.Linear(3, 4), nn.Linear(1, 1)
        self.frozen, self.tied, self.plain = nn.Linear(3, 4), nn.Linear(3, 4), nn.Linear(3, 4)
        self.other = nn.Linear(3, 4)
        self.other.weight = self.tied.weight
        with torch.no_grad():
            self.constant.weight.fill_(0.5)
            self.positive.weight.abs_()
        self.frozen.weight.requires_grad_(False)


def test_layers_that_are_no_candidates_are_told():
    model = nn.Sequential(*(nn.Linear(3, 3) for _ in range(4)), nn.LSTM(3, 3))
    nn.utils.parametrizations.orthogonal(model[1])
    nn.utils.prune.l1_unstructured(model[2], "weight", 0.5)
    model[4].weight_hh_l0.requires_grad_(False)
    traces = [trace for trace in traces_of(model) if trace.name in ("0", "3", "4.weight_ih_l0")]
    computed = "stays in full precision, the weight is computed from other tensors (parametrized, or by a hook)."
    assert select(model, traces, 1.0, methods=("attq",), options={"attq": {"t_min": -0.1, "t_max": 0.1}}).notes == (
        f"1: {computed}",
        f"2: {computed}",
        "4.weight_hh_l0: stays in full precision, the weight is frozen (requires_grad is False).",
    )


def test_what_cannot_be_quantised_stays_and_is_told():
    model = Awkward()
    traces = [trace for trace in traces_of(model) if trace.name != "other"]
    selection = select(model, traces, 1.0, methods=("pttq", "int8"), options={"pttq": {"t_min": 3.0}})
    offered = {row.layer: {option.method for option in row.options} for row in selection.rows}
    assert offered == {
        "constant": {"fp32", "int8"},
        "positive": {"fp32", "int8"},
        "single": {"fp32", "int8"},
        "tied": {"fp32", "pttq"},
        "plain": {"fp32", "int8", "pttq"},
    }
    assert selection.share == 1
    assert selection.methods["frozen"] == "fp32" and selection.methods["tied"] == "pttq"
    notes = "\n".join(selection.notes)
    for text in (
        "frozen: stays in full precision, the weight is frozen",
        "tied: int8 is not a candidate, NNI's quantizers of integers cannot wrap it",
        "constant: pttq is not a candidate, all weights are equal",
        "positive: pttq is not a candidate, no weight is negative",
        "single: pttq is not a candidate, needs at least two weights",
        "plain: pttq, thresholds lowered to t_min",
    ):
        assert text in notes
    unfrozen = [trace for trace in traces if trace.name != "frozen"]
    found = select(model, unfrozen, 1.0, methods=("int8",))
    assert "frozen: stays in full precision, the weight is frozen (requires_grad is False)." in found.notes
    with pytest.raises(InputError, match="'frozen' cannot be: frozen: stays in full precision, the weight is frozen"):
        select(model, traces, 1.0, include=["frozen"])
    with pytest.raises(InputError, match="'constant' cannot be"):
        select(model, [t for t in traces if t.name == "constant"], 1.0)
    one = [trace for trace in traces if trace.name == "plain"]
    with pytest.raises(InputError, match="'plain' cannot be: .*leaves no negative weight"):
        select(model, one, 1.0, options={"pttq": {"t_min": 3.0, "on_empty": "error"}})
