"""A mixed plan: NNI's own QATQuantizer and this plugin's quantizers, one training, one plain model."""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass, field

import pytest
import torch
from nni.compression.quantization import QATQuantizer
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, OneCycleLR

from tests.nni_adapter.nets import Net, batches, config, make_evaluator
from ttq_plugin.curvature.plan import Link as PlannedLink
from ttq_plugin.curvature.plan import chain_from_json, chain_to_json
from ttq_plugin.errors import InputError
from ttq_plugin.measures import measure
from ttq_plugin.nni_adapter import PTTQQuantizer
from ttq_plugin.nni_adapter.chain import QuantizerChain, compress_chain
from ttq_plugin.nni_adapter.links import TERNARY, IntegerQuantizer

X = batches(1)[0][0]


@dataclass(frozen=True)
class Link:
    compressor: str
    config_list: tuple
    options: dict = field(default_factory=dict)


class Deep(nn.Module):
    """Convolutions with BatchNorm, one of them called twice, and an output layer."""

    def __init__(self):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.conv2, self.norm2 = nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.conv3 = nn.Conv2d(6, 8, 3)
        self.fc1 = nn.Linear(8, 12)
        self.fc2 = nn.Linear(12, 5)

    def forward(self, x):
        x = self.norm1(self.conv1(x)).relu()
        x = self.norm2(self.conv2(self.conv2(x).relu())).relu()
        return self.fc2(self.fc1(self.conv3(x).mean(dim=(2, 3))).relu())


def made(cls=Deep, seed=0):
    torch.manual_seed(seed)
    return cls()


def entry(dtype, *names, **more):
    kind = {"quant_dtype": dtype, "quant_scheme": "symmetric", "granularity": "default"}
    return {"op_names": list(names), "target_names": ["weight"], **kind, **more}


def integers(*entries, **options):
    return Link("QATQuantizer", entries, options)


def ternary(*names, by="PTTQQuantizer", **options):
    return Link(by, tuple(config(*names)), options)


PLAN = [
    integers(entry("int8", "conv2"), entry("int4", "fc1")),
    ternary("conv3"),
    ternary("fc2", by="TTQQuantizer", t=0.1),
]


def outputs(model):
    with torch.no_grad():
        return model.eval()(X)


def grid(space, latent):
    """What NNI's QAT computes from a latent weight."""
    most = 2 ** (space.quant_bits - 1) - 1
    return (latent / space.scale).round().clamp(-most, most) * space.scale


def test_learned_steps_beside_ternary_layers():
    model = made()
    plan = [Link("LsqQuantizer", (entry("int4", "fc1"), entry("int2", "conv2"))), ternary("conv3")]
    result = compress_chain(model, plan, make_evaluator(model), max_epochs=3)
    assert result.widths == {"fc1": 4, "conv2": 2} and result.chain.quantizers[0].current_step == 12
    for name, bits in result.widths.items():
        wrapper = model.get_submodule(name)._nni_wrapper
        step = wrapper.quantization_target_spaces["weight"].scale
        codes = (result.model.get_submodule(name).weight / step).round()
        assert step.item() != pytest.approx(0.01) and codes.abs().max() <= 2 ** (bits - 1) - 1
        torch.testing.assert_close(codes * step, result.model.get_submodule(name).weight)
    torch.testing.assert_close(outputs(result.model), outputs(model))


class WithToken(Deep):
    """Has a parameter of its own, as a transformer has its class token: NNI fails there by itself."""

    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return super().forward(x + self.token)


def test_learned_steps_beside_a_parameter_of_the_model_itself():
    model = made(WithToken)
    plan = [Link("LsqQuantizer", (entry("int4", "fc1"),)), ternary("conv3")]
    result = compress_chain(model, plan, make_evaluator(model), max_epochs=2)
    step = model.fc1._nni_wrapper.quantization_target_spaces["weight"].scale
    assert step.item() != pytest.approx(0.01) and result.model.token.item() != 0.0


def test_a_mixed_chain_trains_all_layers_and_leaves_one_plain_model():
    model = made()
    before = copy.deepcopy(model)
    result = compress_chain(model, PLAN, make_evaluator(model), max_epochs=3)
    plain = result.model
    assert result.layers == ("conv2", "conv3", "fc1", "fc2") and result.widths == {"conv2": 8, "fc1": 4}
    assert set(result.states) == {"conv3", "fc2"} and result.notes == ()
    assert set(result.calibration) == set(result.layers)
    assert type(plain) is Deep and not any(hasattr(m, "_nni_wrapper") for m in plain.modules())
    assert [(k, v.shape) for k, v in plain.state_dict().items()] == [
        (k, v.shape) for k, v in before.state_dict().items()
    ]
    for name, state in result.states.items():
        positive, negative = state.scales.tolist()
        assert set(plain.get_submodule(name).weight.unique().tolist()) == {-negative, 0.0, positive}
    for name in result.widths:
        wrapper = model.get_submodule(name)._nni_wrapper
        space = wrapper.quantization_target_spaces["weight"]
        weight = plain.get_submodule(name).weight
        assert torch.equal(weight, grid(space, wrapper.weight)) and not torch.equal(weight, wrapper.weight)
        assert result.calibration[name]["weight"]["scale"] == space.scale
        assert not torch.equal(wrapper.weight, before.get_submodule(name).weight), "the latent weight was trained"
    for name in ("norm1", "norm2"):
        norm, wrapped = plain.get_submodule(name), model.get_submodule(name)
        assert not torch.equal(norm.running_mean, before.get_submodule(name).running_mean)
        assert all(torch.equal(a, b) for a, b in zip(norm.buffers(), wrapped.buffers(), strict=True))
        assert torch.equal(norm.weight, wrapped.weight)
    assert torch.equal(outputs(model), outputs(plain)), "in eval mode both compute the same, to the last bit"


def test_the_report_of_a_mixed_chain_counts_true_bits():
    model = made()
    full = copy.deepcopy(model)
    result = compress_chain(model, PLAN, make_evaluator(model), max_epochs=2)
    report = measure(full, result.model, X, layers=result.layers, widths=result.widths)
    assert report.kinds == {"conv2": "int8", "conv3": "ternary", "fc1": "int4", "fc2": "ternary"}
    rest = 54 + 2 * 12 + 6 + 6 + 8 + 12 + 5  # conv1, both norms, biases
    integer = (8 * 324 + 32) + (4 * 96 + 32)
    assert report.bits("dense2") == integer + (2 * 432 + 64) + (2 * 60 + 64) + 32 * rest
    assert report.bits("base3") == integer + (8 * 87 + 64) + (8 * 12 + 64) + 32 * rest
    zeros = sum(int((getattr(result.model, n).weight == 0).sum()) for n in ("conv3", "fc2"))
    assert report.srqw == zeros / 492


@pytest.mark.parametrize("by", TERNARY)
@pytest.mark.parametrize(
    "schedule", [None, (CosineAnnealingLR, {"T_max": 2}), (OneCycleLR, {"max_lr": 0.02, "total_steps": 9})]
)
def test_a_chain_of_one_ternary_link_is_that_quantizer_bit_for_bit(by, schedule):
    model, twin = made(), made()
    chain = QuantizerChain(model, [ternary("conv2", "fc1", by=by)], make_evaluator(model, schedule=schedule))
    alone = TERNARY[by](twin, config("conv2", "fc1"), make_evaluator(twin, schedule=schedule))
    (_, one), (_, other) = chain.compress(max_epochs=2), alone.compress(max_epochs=2)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))
    exported, expected = chain.export_model().state_dict(), alone.export_model().state_dict()
    assert list(exported) == list(expected) and all(torch.equal(exported[k], expected[k]) for k in expected)
    assert one.keys() == other.keys() and chain.health() == alone.health()
    assert chain.layers == tuple(alone.states()) and chain.widths == {} and chain.notes == alone.notes


@pytest.mark.parametrize("granularity", ["default", "out_channel"])
@pytest.mark.parametrize("dtype", ["int2", "int3", "int4", "int8", "int16"])
def test_a_chain_of_integers_is_nnis_quantizer_bit_for_bit_and_its_weights_lie_on_a_grid(dtype, granularity):
    model, twin = made(), made()
    entries = [entry(dtype, "conv2", "fc1", granularity=granularity)]
    result = compress_chain(model, [integers(*entries)], make_evaluator(model), max_epochs=2)
    QATQuantizer(twin, entries, make_evaluator(twin)).compress(None, 2)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))
    assert torch.equal(outputs(twin), outputs(result.model)), "the export is what NNI's own forward uses in eval mode"
    report = measure(made(), result.model, X, layers=result.layers, widths=result.widths)
    bits = int(dtype[3:])
    assert [(row.kind, row.scales) for row in report.selected] == [
        (dtype, 6 if granularity == "out_channel" else 1),
        (dtype, 12 if granularity == "out_channel" else 1),
    ]
    assert report.selected[0].bits_base3 == 324 * bits + 32 * report.selected[0].scales
    assert result.chain.health().layers == () and result.chain.health().step == 8


def test_the_last_forward_in_eval_mode_used_exactly_the_exported_weights():
    model = made()
    result = compress_chain(model, PLAN, make_evaluator(model), max_epochs=2)
    outputs(model)
    slots = [f"{name}.weight" for name in result.layers]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    for slot in slots:
        # NNI leaves the weight of the last forward there, as a buffer.
        assert torch.equal(state[slot], result.model.get_parameter(slot))
    result.chain.export_model()
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items() if name not in slots)


def test_links_may_come_in_any_order():
    results = []
    for plan in (PLAN, PLAN[::-1], [PLAN[1], PLAN[0], PLAN[2]]):
        model = made()
        chain = QuantizerChain(model, plan, make_evaluator(model))
        assert isinstance(chain.quantizers[0], IntegerQuantizer)
        chain.compress(max_epochs=1)
        results.append(chain.export_model().state_dict())
    assert all(torch.equal(results[0][k], other[k]) for other in results[1:] for k in other)


def test_layers_keep_the_order_of_their_parameters():
    model = made()
    for layer in (model.conv3, model.fc1):
        weight = layer.weight
        del layer.weight
        layer.weight = weight
    keys = list(model.state_dict())
    assert keys.index("fc1.bias") < keys.index("fc1.weight")
    result = compress_chain(model, PLAN, make_evaluator(model), max_steps=1)
    assert list(result.model.state_dict()) == keys


def test_layers_that_an_entry_excludes_are_free_for_another_link():
    model = made()
    legacy = {"op_types": ["Conv2d"], "quant_types": ["weight"], "quant_bits": 8}
    links = [Link("TTQQuantizer", (legacy, {"op_names": ["conv2"], "exclude": True})), integers(entry("int8", "conv2"))]
    chain = QuantizerChain(model, links, make_evaluator(model))
    assert set(chain.states()) == {"conv1", "conv3"} and chain.widths == {"conv2": 8}


def test_a_plan_from_json():
    links = [PlannedLink(link.compressor, link.config_list, link.options) for link in PLAN]
    results = []
    for plan in (PLAN, chain_from_json(chain_to_json(links))):
        model = made()
        results.append(compress_chain(model, plan, make_evaluator(model), max_epochs=1).model.state_dict())
    assert all(torch.equal(results[0][k], results[1][k]) for k in results[0])


def test_learning_rates_and_what_to_do_with_empty_signs_are_for_links_that_do_not_say():
    model = made()
    links = [ternary("conv3", t_min=9.0, t_max=9.0, lr_scale=0.5), ternary("fc2", by="TTQQuantizer")]
    with pytest.raises(InputError, match="PTTQQuantizer: conv3"):
        QuantizerChain(model, links, make_evaluator(model), on_empty="error")
    chain = QuantizerChain(model, links, make_evaluator(model), lr_scale=0.25, lr_threshold=0.125)
    assert chain.notes and "conv3: thresholds lowered" in chain.notes[0]
    assert [(q.lr_scale, q.lr_threshold) for q in chain.ternary] == [(0.5, 0.125), (0.25, 0.125)]


def test_health_during_the_training_sees_all_ternary_layers():
    looks = []
    model = made()
    evaluator = make_evaluator(model)
    inner = evaluator.training_func

    def loop(*arguments):
        for _ in range(2):
            inner(*arguments[:5], 1)
            looks.append(chain.health())

    evaluator.training_func = loop
    chain = QuantizerChain(model, PLAN, evaluator)
    chain.compress(max_epochs=2)
    assert [look.step for look in looks] == [4, 8]
    assert [layer.name for layer in looks[0].layers] == ["conv3", "fc2"]
    assert looks[0].to_dict() != looks[1].to_dict()


def test_training_goes_on():
    model = made()
    result = compress_chain(model, PLAN, make_evaluator(model), max_epochs=1)
    model.train()
    result.chain.compress(max_epochs=1)
    again = result.chain.export_model()
    assert not torch.equal(again.conv2.weight, result.model.conv2.weight)
    assert not torch.equal(again.conv3.weight, result.model.conv3.weight)
    assert torch.equal(outputs(model), outputs(again)) and result.chain.health().step == 8


@pytest.mark.parametrize("plan", [PLAN, PLAN[:1]])
def test_schedulers_do_not_warn_of_nnis_steps(plan):
    model = made()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*optimizer.step.*")
        compress_chain(model, plan, make_evaluator(model, schedule=(CosineAnnealingLR, {"T_max": 2})), max_epochs=2)


def test_integers_that_were_not_reached_are_not_passed_off_as_such():
    model = made()
    plan = [integers(entry("int8", "conv2"), quant_start_step=6), ternary("conv3")]
    chain = QuantizerChain(model, plan, make_evaluator(model))
    message = "the integer layer 'conv2' has not been quantised in training yet; call compress, for more steps"
    for _ in range(2):
        with pytest.raises(InputError, match=message):
            chain.export_model()
        chain.compress(max_epochs=1)
    assert len(chain.export_model().conv2.weight.unique()) <= 255


BAD = [
    ([], "a chain needs a list of at least one link, got \\[\\]"),
    (
        [Link("DoReFaQuantizer", (entry("int8", "fc1"),))],
        "a link.s compressor must be one of QATQuantizer, LsqQuantizer,",
    ),
    (
        [Link("LsqQuantizer", (entry("int8", "fc1"),), {"quant_start_step": 1})],
        "LsqQuantizer takes no option, got 'quant_start_step'",
    ),
    ([Link("PTTQQuantizer", ())], r"the config_list of PTTQQuantizer must be a list of NNI's config entries, got \(\)"),
    ([ternary("conv3"), ternary("conv2", "conv3", by="TTQQuantizer")], "'conv3' is in PTTQQuantizer and again in TTQQ"),
    (
        [integers(entry("int8", "conv2")), ternary("conv2")],
        "the layer 'conv2' is in QATQuantizer and again in PTTQQuant",
    ),
    ([integers(entry("int8", "fc1"), entry("int4", "fc1"))], "the layer 'fc1' is in QATQuantizer and again in QATQuan"),
    ([integers(entry("int8", "fc1")), integers(entry("int4", "fc1"))], "'fc1' is in QATQuantizer and again in QATQuan"),
    (
        [integers(entry("int8", "fc9")), ternary("fc2")],
        "QATQuantizer: config_list names the layer 'fc9', which the mod",
    ),
    ([integers(entry("int8", "fc1")), ternary("fc9")], "PTTQQuantizer: config_list names the layer 'fc9', which the m"),
    ([integers(entry("int8", "norm1"))], "config_list selects 'norm1', of the class BatchNorm2d"),
    ([integers(entry("uint8", "fc1"))], "quant_dtype must be int2 to int16, such as int8, got 'uint8'"),
    ([integers(entry("int32", "fc1"))], "quant_dtype must be int2 to int16, such as int8, got 'int32'"),
    ([integers({"op_names": ["fc1"]})], "quant_dtype must be int2 to int16, such as int8, got None"),
    (
        [integers(entry("int8", "fc1", quant_scheme="affine"))],
        "quant_scheme must be symmetric for weights, got 'affine'",
    ),
    ([integers(entry("int8", "fc1", granularity="in_channel"))], "granularity must be default or out_channel"),
    ([integers(entry("int8", "fc1", target_names=["_input_", "weight"]))], 'target_names must be \\["weight"\\], got'),
    ([integers(entry("int8", "fc1", fuse_names=[("conv1", "norm1")]))], "fuse_names is for ternary weights only"),
    ([integers(entry("int8", "fc1"), steps=3)], "QATQuantizer takes the option quant_start_step, got 'steps'"),
    ([integers(entry("int8", "fc1")), ternary("fc2", bogus=1)], "PTTQQuantizer: pttq has no option 'bogus'"),
    ([integers(entry("int8", "fc1")), ternary("fc2", t_min=9.0, on_empty="error")], "PTTQQuantizer: fc2"),
    ([integers(entry("int8", "fc1")), ternary("fc2", by="TTQQuantizer", t=2)], r"TTQQuantizer: t must lie in \(0, 1\)"),
]


@pytest.mark.parametrize("plan, message", BAD, ids=range(len(BAD)))
def test_bad_plans_are_one_sentence_and_leave_the_model_alone(plan, message):
    model = made()
    evaluator = make_evaluator(model)
    parameters, state = list(model.named_parameters()), copy.deepcopy(model.state_dict())
    with pytest.raises(InputError, match=message) as caught:
        compress_chain(model, plan, evaluator, max_epochs=1)
    assert "\n" not in str(caught.value)
    assert all(a is b and n == m for (n, a), (m, b) in zip(parameters, model.named_parameters(), strict=True))
    assert all(torch.equal(state[k], v) for k, v in model.state_dict().items()) and model.training
    assert not any("forward" in m.__dict__ or hasattr(m, "_nni_wrapper") for m in model.modules())
    compress_chain(model, PLAN, evaluator, max_steps=1)


def test_models_and_evaluators_that_cannot_be_used():
    wrapped = made(Net)
    evaluator = make_evaluator(wrapped)
    PTTQQuantizer(wrapped, config("conv1"), evaluator)
    with pytest.raises(InputError, match="the model's layer 'conv1' is already wrapped; call its unwrap_model"):
        QuantizerChain(wrapped, [ternary("conv2")], evaluator)
    model = made(Net)
    with pytest.raises(InputError, match="evaluator must be an Evaluator, got None"):
        QuantizerChain(model, [ternary("conv2")], None)
    with pytest.raises(InputError, match="holds no parameter of this model: it was built for another model"):
        QuantizerChain(model, [integers(entry("int8", "conv2"))], make_evaluator(made(Net)))
    with pytest.raises(InputError, match="compress_chain needs max_steps or max_epochs, got neither"):
        compress_chain(model, [ternary("conv2")], make_evaluator(model))
    chain = QuantizerChain(model, [ternary("conv2")], make_evaluator(model))
    with pytest.raises(InputError, match="compress needs max_steps or max_epochs, got neither"):
        chain.compress()
    with pytest.raises(InputError, match="max_epochs must be at least 0, got -1"):
        chain.compress(max_epochs=-1)


@pytest.mark.parametrize(
    "layer, plan, message",
    [
        (
            nn.ConvTranspose2d(1, 4, 3),
            entry("int8", "0", granularity="out_channel"),
            "for embeddings and transposed convolutions, .* for '0'",
        ),
        (nn.Conv2d(1, 4, 3).half(), entry("int8", "0"), "0: a float16 weight loses small updates"),
        (nn.Conv2d(1, 4, 3).requires_grad_(False), entry("int8", "0"), "0: the weight is frozen"),
    ],
)
def test_layers_that_cannot_be_integers(layer, plan, message):
    model = nn.Sequential(layer, nn.Conv2d(4, 5, 3))
    with pytest.raises(InputError, match=message):
        QuantizerChain(model, [integers(plan)], make_evaluator(model))
