"""The chain: which compressors run a choice, as NNI and this plugin take them, and its JSON."""

import json

import pytest
import torch
from nni.compression.base.config import default_config_schema
from torch import nn

import ttq_plugin
from ttq_plugin.core import METHODS
from ttq_plugin.curvature import LayerTrace, Link, chain_from_json, chain_to_json, generate_config, select
from ttq_plugin.errors import InputError
from ttq_plugin.methods import quantizers
from ttq_plugin.nni_adapter.config import weight_config

from .nets import AttentionNet, ConvNet, example

CE = nn.CrossEntropyLoss()


def forced(methods, options=None):
    """A model with one layer for each method, and a selection that gives each layer its own."""
    torch.manual_seed(0)
    model = nn.ModuleDict({f"layer{i}": nn.Linear(40, 5) for i in range(len(methods))})
    parts = []
    for name, method in zip(model, methods, strict=True):
        own = {method: options[method]} if options and method in options else None
        traces = [LayerTrace(name, "Linear", 200, 1.0, 0.1, 8)]
        parts.append(select(model, traces, 1.0, methods=(method,), options=own))
    return model, parts


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_its_quantizer(method):
    model, [selection] = forced([method], {method: {"scale_init": "one"}})
    [link] = selection.chain
    quantizer = getattr(ttq_plugin, link.compressor)
    assert (link.options.get("method") or quantizer.method_name) == method
    assert link.options["scale_init"] == "one"
    assert (
        selection.config_list
        == list(link.config_list)
        == [{"op_names": ["layer0"], "target_names": ["weight"], "quant_dtype": "int2"}]
    )
    quantizer(model, selection.config_list, None, **link.options).unwrap_model()


@pytest.mark.parametrize("method", ["int8", "int4"])
def test_integer_weights_go_to_qat(method):
    _, [selection] = forced([method])
    kind = {"quant_dtype": method, "quant_scheme": "symmetric", "granularity": "default"}
    entry = {"op_names": ["layer0"], "target_names": ["weight"], **kind}
    assert selection.chain == (Link("QATQuantizer", (entry,), {}),)
    assert selection.config_list == [entry]
    assert selection.widths == {"layer0": int(method[3:])}


def mixed():
    """Five layers whose traces ask for five different methods within 5 000 bits."""
    torch.manual_seed(0)
    model = nn.ModuleDict({name: nn.Linear(100, 10, bias=False) for name in "abcde"})
    scales = (1e4, 1.0, 1e-2, 1e-5, 0.0)
    traces = [LayerTrace(n, "Linear", 1000, t, 0.1 * t, 8) for n, t in zip(model, scales, strict=True)]
    return model, traces


def test_a_mixed_choice_is_a_chain_with_qat_first():
    from ttq_plugin.curvature import Budget

    model, traces = mixed()
    options = {"pttq-symmetric": {"t": 0.7}, "pttq": {"granularity": "out_channel"}}
    methods = ("dorefa", "pttq-symmetric", "int8", "int4", "pttq")
    selection = select(model, traces, Budget(bits=48_000), methods=methods, options=options)
    assert selection.methods["a"] == "fp32"
    assert len(set(selection.methods.values())) >= 4, selection.methods
    first, *rest = selection.chain
    assert first.compressor == "QATQuantizer" and first.options == {}
    assert {link.compressor for link in rest} <= {"BinaryQuantizer", "PTTQQuantizer"}
    named = [name for link in selection.chain for entry in link.config_list for name in entry["op_names"]]
    assert sorted(named) == sorted(selection.layers), "each quantised layer in one link"
    dtypes = [entry["quant_dtype"] for entry in selection.config_list]
    assert len(dtypes) == len(set(dtypes)), "one entry a type"
    assert selection.widths == {n: int(m[3:]) for n, m in selection.methods.items() if m.startswith("int")}
    schema = default_config_schema("quantization")
    for link in selection.chain:
        for entry in link.config_list:
            schema.validate(entry)
        if link.compressor != "QATQuantizer":
            assert weight_config(model, list(link.config_list))
    assert chain_from_json(json.loads(json.dumps(chain_to_json(selection.chain)))) == selection.chain


def test_options_of_a_variant_and_granularity():
    _, parts = forced(["pttq-symmetric", "ttq"], {"pttq-symmetric": {"t": 0.7}, "ttq": {"granularity": "out_channel"}})
    [symmetric], [ttq] = parts[0].chain, parts[1].chain
    assert symmetric.compressor == "PTTQQuantizer" and symmetric.options == {"method": "pttq-symmetric", "t": 0.7}
    assert ttq.compressor == "TTQQuantizer" and ttq.options == {}
    assert ttq.config_list[0]["granularity"] == "out_channel"
    assert parts[1].config_list == list(ttq.config_list)


@pytest.mark.parametrize("make", [ConvNet, AttentionNet])
def test_nni_accepts_the_config_list(make):
    model, x, y = example(make)
    selection = generate_config(model, CE, [(x, y)], max_probes=4)
    assert selection.config_list == [
        {"op_names": list(selection.layers), "target_names": ["weight"], "quant_dtype": "int2"}
    ]
    schema = default_config_schema("quantization")
    for entry in selection.config_list:
        schema.validate(entry)
    names = dict(model.named_modules())
    assert all(isinstance(names[n], (nn.Linear, nn.Conv1d, nn.ConvTranspose1d)) for n in selection.layers)


def test_every_quantizer_of_the_plugin_is_named():
    assert set(quantizers().values()) == {name for name in dir(ttq_plugin) if name.endswith("Quantizer")}


ENTRY = {"op_names": ["a"], "quant_dtype": "int8"}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], r"must be a list with at least one compressor, got \[\]"),
        ({"compressor": "QATQuantizer"}, "must be a list with at least one compressor, got {"),
        (None, "got None"),
        ([ENTRY], "Each link of a chain must be an object with compressor, config_list, options; link 0 is"),
        ([{"compressor": "QATQuantizer"}], "Each link of a chain must be an object"),
        ([{"compressor": "X", "config_list": [ENTRY], "more": 1}], "Each link of a chain must be an object"),
        (
            [{"compressor": "LSQQuantizer", "config_list": [ENTRY]}],
            "must be one of QATQuantizer, .*, got 'LSQQuantizer'",
        ),
        ([{"compressor": ["QATQuantizer"], "config_list": [ENTRY]}], "`compressor` of link 0 must be one of"),
        ([{"compressor": "QATQuantizer", "config_list": []}], "`config_list` of link 0 must be a list of NNI config"),
        ([{"compressor": "QATQuantizer", "config_list": ["a"]}], "must be a list of NNI config entries, got"),
        ([{"compressor": "TTQQuantizer", "config_list": [ENTRY], "options": []}], "`options` of link 0 must be an obj"),
        ([{"compressor": "QATQuantizer", "config_list": [ENTRY], "options": {"t": 1}}], "must be empty for NNI's"),
    ],
)
def test_what_is_no_chain_is_refused(data, message):
    with pytest.raises(InputError, match=message):
        chain_from_json(data)


def test_options_may_be_left_out():
    assert chain_from_json([{"compressor": "TTQQuantizer", "config_list": [ENTRY]}]) == (
        Link("TTQQuantizer", (ENTRY,), {}),
    )
