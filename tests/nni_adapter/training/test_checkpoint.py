"""Training stopped at any epoch and resumed equals training never stopped, bit for bit."""

from __future__ import annotations

import os
import subprocess
import sys

import nni
import pytest
import torch
from nni.compression.utils import TorchEvaluator

from tests.nni_adapter.nets import Net, batches, config, training_step
from ttq_plugin.errors import InputError
from ttq_plugin.nni_adapter import QUANTIZERS, ATTQQuantizer, PTTQPruner, PTTQQuantizer

DATA = batches(6)
SCHEDULES = {
    "none": None,
    "cosine": (torch.optim.lr_scheduler.CosineAnnealingLR, {"T_max": 6}),
    "steps": (torch.optim.lr_scheduler.MultiStepLR, {"milestones": [2, 4]}),
    "plateau": (torch.optim.lr_scheduler.ReduceLROnPlateau, {"patience": 0}),
}


def build(compressor_class, schedule="cosine", on_epoch=None):
    torch.manual_seed(0)
    model = Net()
    optimizer = nni.trace(torch.optim.Adamax)(model.parameters(), lr=1e-2)
    scheduler = None
    if SCHEDULES[schedule]:
        kind, options = SCHEDULES[schedule]
        scheduler = nni.trace(kind)(optimizer, **options)

    def loop(net, optim, step, sched, _, epochs):
        net.train()
        for _ in range(epochs):
            for index in torch.randperm(len(DATA)).tolist():  # the global generator: its state matters too
                optim.zero_grad()
                loss = step(DATA[index], net)
                loss.backward()
                optim.step()
            if sched is not None:
                sched.step(loss.item()) if schedule == "plateau" else sched.step()
            if on_epoch is not None:
                on_epoch()

    evaluator = TorchEvaluator(loop, optimizer, training_step, scheduler)
    return compressor_class(model, [{"op_names": ["conv1", "conv2"], "target_names": ["weight"]}], evaluator)


def numbers(compressor):
    """All state but NNI's copies of the patched weights, which the next forward pass makes anew."""
    copies = {"conv1.weight", "conv2.weight"}
    return {k: v.clone() for k, v in compressor.bound_model.state_dict().items() if k not in copies}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("compressor_class", [*QUANTIZERS.values(), PTTQPruner])
def test_stopped_and_resumed_is_never_stopped(compressor_class, schedule, tmp_path):
    whole = build(compressor_class, schedule)
    torch.manual_seed(1)
    whole.compress(None, 6)
    first = build(compressor_class, schedule)
    torch.manual_seed(1)
    first.compress(None, 2)
    first.save_checkpoint(tmp_path / "c.pt")
    assert not same(numbers(first), numbers(whole))
    second = build(compressor_class, schedule)
    torch.manual_seed(99)
    second.load_checkpoint(tmp_path / "c.pt")
    assert second.steps == 12
    torch.rand(3)
    second.compress(None, 4)
    assert same(numbers(second), numbers(whole)) and second.steps == whole.steps == 36


def test_a_checkpoint_taken_inside_the_loop():
    taken = []
    first = build(PTTQQuantizer, on_epoch=lambda: taken.append(first.state_dict()))
    torch.manual_seed(1)
    first.compress(None, 6)
    for epoch in (1, 3, 5):
        again = build(PTTQQuantizer)
        again.load_state_dict(taken[epoch - 1])
        again.compress(None, 6 - epoch)
        assert same(numbers(again), numbers(first)), epoch


def test_exported_models_of_both_are_equal(tmp_path):
    first = build(PTTQQuantizer)
    first.compress(None, 2)
    first.save_checkpoint(tmp_path / "c.pt")
    second = build(PTTQQuantizer)
    second.load_checkpoint(tmp_path / "c.pt")
    one, other = first.export_model(), second.export_model()
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_the_file_is_no_program(tmp_path):
    compressor = build(PTTQQuantizer)
    compressor.compress(None, 1)
    compressor.save_checkpoint(tmp_path / "c.pt")
    state = torch.load(tmp_path / "c.pt", weights_only=True)
    assert state["method"] == "pttq" and state["steps"] == 6


def test_a_crash_while_writing_leaves_the_old_file(tmp_path):
    compressor = build(PTTQQuantizer)
    path = tmp_path / "c.pt"
    compressor.save_checkpoint(path)
    before = path.read_bytes()
    code = (
        "import sys, os, torch\n"
        "from pathlib import Path\n"
        "from ttq_plugin.support.files import write_whole\n"
        "def half(name):\n"
        "    Path(name).write_bytes(b'half a file')\n"
        "    os._exit(9)\n"
        f"write_whole(Path({str(path)!r}), half)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": os.getcwd()})
    assert result.returncode == 9
    assert path.read_bytes() == before
    build(PTTQQuantizer).load_checkpoint(path)


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda b: b[: len(b) // 2], "is damaged or not a checkpoint"),
        (lambda b: b"", "is damaged or not a checkpoint"),
        (lambda b: b"\x80\x04K\x01.", "is damaged or not a checkpoint|this is not a checkpoint"),
    ],
)
def test_damaged_files(tmp_path, damage, message):
    compressor = build(PTTQQuantizer)
    compressor.save_checkpoint(tmp_path / "c.pt")
    (tmp_path / "c.pt").write_bytes(damage((tmp_path / "c.pt").read_bytes()))
    before = numbers(compressor)
    with pytest.raises(InputError, match=message):
        compressor.load_checkpoint(tmp_path / "c.pt")
    assert same(before, numbers(compressor))
    with pytest.raises(InputError, match="does not exist"):
        compressor.load_checkpoint(tmp_path / "nowhere.pt")


def test_states_that_do_not_fit():
    state = build(PTTQQuantizer).state_dict()
    with pytest.raises(InputError, match="the checkpoint belongs to 'pttq', not to 'attq'"):
        build(ATTQQuantizer).load_state_dict(state)
    model = Net()
    other = PTTQQuantizer(model, config("conv1"))
    with pytest.raises(InputError, match="the checkpoint does not fit this model and config list"):
        other.load_state_dict(state)
    with pytest.raises(InputError, match="this is not a checkpoint of this version"):
        other.load_state_dict({"format": "old"})
