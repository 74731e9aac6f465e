"""What the adapter leans on in NNI 3.0, pinned: if one of these fails, the adapter must change."""

from __future__ import annotations

import nni
import pytest
import torch
from nni.compression.base.apply_method import quant_apply_methods
from nni.compression.base.config import default_config_schema, select_modules_by_config
from nni.compression.quantization import LsqQuantizer
from schema import SchemaError

from tests.nni_adapter.nets import Net, batches, config, make_evaluator
from ttq_plugin import register
from ttq_plugin.nni_adapter import PTTQQuantizer
from ttq_plugin.nni_adapter.register import APPLY_METHOD, apply_ternary


def test_the_method_is_registered_once_however_often_asked():
    register()
    from nni.compression.utils import TorchEvaluator

    patched = TorchEvaluator.__init__
    register()
    assert quant_apply_methods[APPLY_METHOD] is apply_ternary
    assert TorchEvaluator.__init__ is patched


def test_unmatched_types_select_nothing_silently():
    modules, _, _ = select_modules_by_config(Net(), {"op_types": ["Conv3d"]})
    assert modules == {}


def test_an_unknown_name_is_a_bare_key_error():
    with pytest.raises(KeyError):
        LsqQuantizer(Net(), config("conv9"), None)


def test_other_keys_and_other_apply_methods_are_refused_by_the_schema():
    schema = default_config_schema("quantization")
    with pytest.raises(SchemaError):
        schema.validate({"op_names": ["conv1"], "quant_dtype": "int2", "t_min": 1.0})
    with pytest.raises(SchemaError):
        schema.validate({"op_names": ["conv1"], "quant_dtype": "int2", "apply_method": APPLY_METHOD})


def test_the_latent_weight_lives_on_the_wrapper():
    model = Net()
    quantizer = PTTQQuantizer(model, config("conv1"), make_evaluator(model))
    latent = model.conv1._nni_wrapper.weight
    assert isinstance(latent, torch.nn.Parameter) and "weight" in model.conv1._buffers
    quantizer.compress(None, 1)
    quantizer.unwrap_model()
    assert torch.equal(model.conv1.weight, latent), "unwrapping leaves the latent weights: exporting must bake"
    assert len(model.conv1.weight.unique()) > 3


def test_a_wrapper_without_scale_applies_nothing():
    model = Net()
    PTTQQuantizer(model, config("conv1"))
    space = model.conv1._nni_wrapper.quantization_target_spaces["weight"]
    model(batches(1)[0][0])
    assert len(model.conv1.weight.unique()) == 3
    space._set_wrapper_attr("weight_scale", None)
    model(batches(1)[0][0])
    assert len(model.conv1.weight.unique()) > 3


def test_parameters_of_another_model_are_dropped_silently():
    evaluator = make_evaluator(Net())
    evaluator._init_optimizer_helpers(Net())
    helper = evaluator._optimizer_helpers[0]
    groups = helper.kwargs["params"] if "params" in helper.kwargs else helper.args[0]
    assert [group["params"] for group in groups] == [[]]


def test_int2_is_minus_one_to_one():
    model = Net()
    PTTQQuantizer(model, config("conv1"))
    space = model.conv1._nni_wrapper.quantization_target_spaces["weight"]
    assert (space.qmin, space.qmax, space.quant_bits) == (-1, 1, 2)


def test_nni_version():
    assert nni.__version__ == "3.0"
