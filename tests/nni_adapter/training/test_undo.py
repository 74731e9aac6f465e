"""Whatever fails, in a constructor or in a training, leaves the model unwrapped, with the very parameters it had."""

from __future__ import annotations

import nni
import pytest
import torch
from nni.compression.quantization import LsqQuantizer
from nni.compression.utils import TorchEvaluator

from tests.nni_adapter.nets import Net, batches, config, make_evaluator, make_loop, training_step
from ttq_plugin.errors import InputError
from ttq_plugin.nni_adapter import PTTQPruner, PTTQQuantizer, TTQQuantizer
from ttq_plugin.nni_adapter.training.recipes import groups_of


def content(model):
    """Every module's registries and attributes, by identity."""
    return {
        name: {key: dict(v) if isinstance(v, dict) else v for key, v in vars(module).items()}
        for name, module in model.named_modules()
    }


def same(one, other):
    return one.keys() == other.keys() and all(
        one[n].keys() == other[n].keys() and all(_is(one[n][k], other[n][k]) for k in one[n]) for n in one
    )


def _is(a, b):
    return list(a) == list(b) and all(a[k] is b[k] for k in a) if isinstance(a, dict) else a is b or a == b


class Stubborn(torch.optim.lr_scheduler.StepLR):
    """A user's scheduler that knows one group only."""

    def __init__(self, optimizer):
        if len(optimizer.param_groups) != 1:
            raise ValueError("one group, please")
        super().__init__(optimizer, 1)


def test_a_scheduler_that_cannot_take_more_groups_is_refused_in_the_constructor():
    model = Net()
    evaluator = make_evaluator(model, schedule=(Stubborn, {}))
    before = content(model)
    with pytest.raises(InputError, match=r"the scheduler Stubborn cannot be built .* \(one group, please\)"):
        PTTQQuantizer(model, config("conv1"), evaluator)
    assert same(before, content(model))
    PTTQQuantizer(model, config("conv1")).export_model()


def test_the_recipes_of_the_evaluator_are_put_back_too(monkeypatch):
    torch.manual_seed(0)  # a layer of 36 weights has one without a negative weight beyond a sigma now and then
    model = Net()
    evaluator = make_evaluator(model)
    with monkeypatch.context() as patched:
        patched.setattr("ttq_plugin.nni_adapter.training.groups.rehearse", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            PTTQQuantizer(model, config("conv1"), evaluator)
    groups = groups_of(evaluator._optimizer_helpers[0])
    assert [group["params"] for group in groups] == [[name for name, _ in model.named_parameters()]]
    PTTQQuantizer(model, config("conv1"), evaluator).compress(None, 1)


@pytest.mark.parametrize("joined", [PTTQPruner, TTQQuantizer])
@pytest.mark.parametrize("first_class", [PTTQQuantizer, LsqQuantizer])
def test_a_compressor_that_fails_to_join_leaves_the_first_one_at_work(first_class, joined, monkeypatch):
    model = Net()
    entry = {"op_names": ["conv1"], "target_names": ["weight"], "quant_dtype": "int8"}
    first = first_class(model, [entry], make_evaluator(model))
    before = content(model)
    spaces = dict(vars(model.conv1._nni_wrapper)["pruning_target_spaces"])
    layer = "conv1" if joined is PTTQPruner else "conv2"
    with monkeypatch.context() as patched:
        patched.setattr("ttq_plugin.nni_adapter.compressor.add_groups", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            joined.from_compressor(first, [{"op_names": [layer]}])
    assert same(before, content(model)) and first._is_wrapped
    assert model.conv1._nni_wrapper.pruning_target_spaces == spaces
    joined.from_compressor(first, [{"op_names": [layer]}]).compress(None, 1)


class Broken(torch.optim.SGD):
    """An optimiser that fails only when a training builds it again."""

    fail = False

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if Broken.fail:
            raise RuntimeError("made to fail")


def test_a_training_that_cannot_begin(monkeypatch):
    model = Net()
    before = content(model)
    quantizer = PTTQQuantizer(model, config("conv1"), make_evaluator(model, optimizer=Broken))
    with monkeypatch.context() as patched:
        patched.setattr(Broken, "fail", True)
        with pytest.raises(RuntimeError, match="made to fail"):
            quantizer.compress(None, 1)
    assert same(before, content(model))
    quantizer.compress(None, 1)
    assert hasattr(model.conv1, "_nni_wrapper") and quantizer.steps == 4


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_training_that_ends_early_keeps_its_work(error, tmp_path):
    """The same steps as one that ran through: exported, saved and gone on with."""

    def trained(fail):
        torch.manual_seed(0)
        model = Net()
        optimizer = nni.trace(torch.optim.SGD)(model.parameters(), lr=0.1)
        whole = make_loop()

        def loop(*args):
            whole(*args)
            if fail.pop(0):
                raise error("made to fail")

        return PTTQQuantizer(model, config("conv1", "conv2"), TorchEvaluator(loop, optimizer, training_step))

    through, stopped = trained([False, False]), trained([True, False])
    parameters = list(stopped._originals._parameters)
    assert parameters
    through.compress(None, 2)
    weight = stopped.bound_model.fc.weight
    with pytest.raises(error):
        stopped.compress(None, 2)
    model = stopped.bound_model
    assert not any(hasattr(m, "_nni_wrapper") for m in model.modules()) and model.fc.weight is weight
    assert list(model.state_dict()) == list(Net().state_dict())
    assert torch.equal(model.conv1.weight, through.bound_model.conv1._nni_wrapper.weight)
    for got, expected in zip(stopped.export_model().parameters(), through.export_model().parameters(), strict=True):
        assert torch.equal(got, expected)
    assert stopped.health().step == 8
    stopped.compress(None, 1)
    through.compress(None, 1)
    for got, expected in zip(stopped.export_model().parameters(), through.export_model().parameters(), strict=True):
        assert torch.equal(got, expected)


def test_a_checkpoint_after_a_failure_has_what_was_trained(tmp_path):
    model, data = Net(), batches()

    def loop(model, optimizer, step, scheduler=None, max_steps=None, max_epochs=None):
        for batch in data:
            optimizer.zero_grad()
            step(batch, model).backward()
            optimizer.step()
        raise RuntimeError("made to fail")

    optimizer = nni.trace(torch.optim.Adam)(model.parameters(), lr=0.1)
    quantizer = PTTQQuantizer(model, config("conv1"), TorchEvaluator(loop, optimizer, training_step))
    with pytest.raises(RuntimeError, match="made to fail"):
        quantizer.compress(None, 1)
    quantizer.save_checkpoint(tmp_path / "c.pt")
    assert not hasattr(model.conv1, "_nni_wrapper")
    model = Net()
    optimizer = nni.trace(torch.optim.Adam)(model.parameters(), lr=0.1)
    again = PTTQQuantizer(model, config("conv1"), TorchEvaluator(make_loop(), optimizer, training_step))
    again.load_checkpoint(tmp_path / "c.pt")
    assert torch.equal(again.states()["conv1"].scales, quantizer.states()["conv1"].scales) and again.steps == 4
    again.compress(None, 1)


def test_unwrapping_gives_the_layers_their_own_parameters_back():
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    names, own = list(model.state_dict()), list(model.parameters())
    quantizer = PTTQQuantizer(model, config("conv1", "conv2"), make_evaluator(model))
    quantizer.compress(None, 1)
    latent = model.conv1._nni_wrapper.weight.detach().clone()
    quantizer.unwrap_model()
    assert list(model.state_dict()) == names and all(a is b for a, b in zip(own, model.parameters(), strict=True))
    assert torch.equal(model.conv1.weight, latent)
    training_step(batches()[0], model).backward()
    optimizer.step()
    assert not torch.equal(model.conv1.weight, latent)
