"""A wrapped model is saved, copied and averaged like any other, also in the middle of a training."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys

import nni
import pytest
import torch
from nni.compression.quantization import LsqQuantizer
from nni.compression.utils import TorchEvaluator
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from tests.nni_adapter.nets import Net, batches, config, make_evaluator, training_step
from ttq_plugin.nni_adapter import QUANTIZERS, PTTQPruner, PTTQQuantizer, TTQQuantizer

X = batches(1)[0][0]


class Folded(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.norm, self.conv2 = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 5, 3)

    def forward(self, x):
        return self.conv2(self.norm(self.conv1(x)).relu()).mean(dim=(2, 3))


def folded(model):
    return PTTQQuantizer(model, [{"op_names": ["conv1"], "fuse_names": [("conv1", "norm")]}], make_evaluator(model))


def joined(model):
    first = PTTQQuantizer(model, config("conv1"), make_evaluator(model))
    return PTTQPruner.from_compressor(first, [{"op_names": ["conv1", "conv2"]}])


MAKE = {
    **{name: lambda m, q=q: q(m, config("conv1", "conv2"), make_evaluator(m)) for name, q in QUANTIZERS.items()},
    "a pruner": lambda m: PTTQPruner(m, [{"op_names": ["conv1"]}], make_evaluator(m)),
    "a fusion": joined,
    "a folded layer": folded,
}
EVERY = pytest.mark.parametrize("name", MAKE)


def made(name):
    torch.manual_seed(0)
    model = Folded() if name == "a folded layer" else Net()
    compressor = MAKE[name](model)
    compressor.compress(None, 1)
    return model, compressor


def state(model):
    """Without NNI's copies of the patched weights, which the next forward pass makes anew."""
    return {k: v for k, v in model.state_dict().items() if not k.endswith((".weight", ".bias")) or "_nni_wrapper" in k}


@EVERY
@pytest.mark.parametrize("after_a_graph", [False, True])
def test_saved_by_torch_and_read_back(name, after_a_graph, tmp_path):
    model, _ = made(name)
    if after_a_graph:
        model(X).sum().backward()
    torch.save(model, tmp_path / "w.pt")
    loaded = torch.load(tmp_path / "w.pt", weights_only=False)
    assert state(loaded).keys() == state(model).keys()
    assert all(torch.equal(value, state(model)[key]) for key, value in state(loaded).items())
    assert torch.equal(loaded.eval()(X), model.eval()(X))
    loaded.train()(X).sum().backward()
    assert all(torch.equal(p, q) for p, q in zip(loaded.parameters(), model.parameters(), strict=True))
    loaded.conv1._nni_wrapper.unwrap()
    assert isinstance(loaded.conv1.weight, nn.Parameter)


@EVERY
def test_copied_after_a_forward_pass(name):
    model, _ = made(name)
    model.train()(X).sum().backward()
    twin = copy.deepcopy(model)
    again = copy.deepcopy(twin)
    assert torch.equal(again.eval()(X), model.eval()(X))
    with torch.no_grad():
        twin.conv1._nni_wrapper.weight.neg_()
    assert not torch.equal(twin.eval()(X), model(X)) and torch.equal(again(X), model(X))


def test_a_copy_of_a_quantizer_trains_and_unwraps_without_the_original():
    model = Net()
    own = model.conv1.weight
    quantizer = PTTQQuantizer(model, config("conv1"), make_evaluator(model))
    twin = copy.deepcopy(quantizer)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    twin.compress(None, 1)
    twin.unwrap_model()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    quantizer.unwrap_model()
    assert model.conv1.weight is own and twin.bound_model.conv1.weight is not own
    assert list(twin.bound_model.state_dict()) == list(Net().state_dict())


def test_a_quantizer_is_pickled_like_nni_s_own():
    model = Net()
    quantizer = PTTQQuantizer(model, config("conv1"))
    again = pickle.loads(pickle.dumps(quantizer))
    assert torch.equal(again.export_model().conv1.weight, quantizer.export_model().conv1.weight)
    again.unwrap_model()
    assert list(again.bound_model.state_dict()) == list(Net().state_dict())


def test_nni_alone_cannot_be_copied_after_a_forward_pass():
    model = Net()
    LsqQuantizer(
        model, [{**config("conv1")[0], "quant_dtype": "int8", "quant_scheme": "symmetric"}], make_evaluator(model)
    )
    model(X).sum().backward()
    with pytest.raises(RuntimeError, match="created explicitly by the user"):
        copy.deepcopy(model)


def test_averages_hold_scales_and_thresholds_and_are_exported():
    torch.manual_seed(0)
    model, seen, kept = Net(), [], []

    def loop(model, optimizer, step, scheduler=None, max_steps=None, max_epochs=None):
        step(batches()[0], model).backward()
        average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5))
        for batch in batches():
            optimizer.zero_grad()
            step(batch, model).backward()
            optimizer.step()
            average.update_parameters(model)
            seen.append(quantizer.states()["conv1"].scales.detach().clone())
        kept.append(average)

    optimizer = nni.trace(torch.optim.SGD)(model.parameters(), lr=0.1)
    quantizer = TTQQuantizer(model, config("conv1"), TorchEvaluator(loop, optimizer, training_step), lr_scale=0.1)
    quantizer.compress(max_steps=4)
    expected = seen[0]
    for scales in seen[1:]:
        expected = 0.5 * expected + 0.5 * scales
    average = kept[0].module
    torch.testing.assert_close(average.conv1._nni_wrapper.ternary.scales, expected)
    exported = quantizer.export_model(average)
    torch.testing.assert_close(
        exported.conv1.weight.unique(), torch.stack((-expected[1], expected[0] * 0, expected[0]))
    )
    assert not torch.equal(exported.conv1.weight, quantizer.export_model().conv1.weight)


def test_a_fresh_process_reads_it(tmp_path):
    model, _ = made("a fusion")
    torch.save(model, tmp_path / "w.pt")
    torch.save(model.eval()(X), tmp_path / "y.pt")
    code = (
        "import sys, torch\n"
        "model = torch.load(sys.argv[1] + '/w.pt', weights_only=False)\n"
        "from tests.nni_adapter.training.test_saving import X\n"
        "assert torch.equal(model(X), torch.load(sys.argv[1] + '/y.pt'))\n"
    )
    run = subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=os.environ | {"PYTHONPATH": os.getcwd()})
    assert run.returncode == 0
