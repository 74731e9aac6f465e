"""Optimisers and schedules by name: plain, under NNI, and from a saved state."""

from __future__ import annotations

import io
import math

import nni
import pytest
import torch
from nni.compression.utils import TorchEvaluator
from torch import nn

from tests.nni_adapter.nets import Net, batches, config, training_step
from ttq_plugin.errors import InputError
from ttq_plugin.nni_adapter import PTTQQuantizer
from ttq_plugin.tasks.schedules import OPTIMIZERS, SCHEDULES, Course, Noam

LR, LR_SCALE, LR_THRESHOLD = 0.3, 1e-2, 1e-3
COURSE = Course(lr=LR, epochs=8, batches=5, width=64, warmup=6)


def plain():
    return OPTIMIZERS["adamax"].make([nn.Parameter(torch.ones(2))], lr=LR)


def rates(optimizer, scheduler, schedule, epochs, metric=lambda epoch: 1.0):
    """The learning rate of each group at each step, stepping as the schedule says."""
    seen = []
    for epoch in range(epochs):
        for _ in range(COURSE.batches):
            seen.append([group["lr"] for group in optimizer.param_groups])
            optimizer.step()
            if schedule.every_batch:
                scheduler.step()
        if not schedule.every_batch:
            scheduler.step(*([metric(epoch)] if schedule.needs_metric else []))
    return torch.tensor(seen, dtype=torch.float64)


def alone(name, epochs=COURSE.epochs, metric=lambda epoch: 1.0):
    optimizer = plain()
    return rates(optimizer, SCHEDULES[name].make(optimizer, COURSE), SCHEDULES[name], epochs, metric)[:, 0]


@pytest.mark.parametrize("width, warmup", [(64, 6), (128, 1), (64, 4000), (128, 700)])
def test_noam_is_its_formula(width, warmup):
    optimizer = plain()
    scheduler = SCHEDULES["noam"].make(optimizer, Course(LR, 1, 1, width=width, warmup=warmup))
    last = 2 * warmup + 10
    for step in range(1, last + 1):
        expected = LR * width**-0.5 * min(step**-0.5, step * warmup**-1.5)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(expected, rel=1e-12)
        if step == warmup:
            assert expected == pytest.approx(LR / (width * warmup) ** 0.5), "the peak"
        optimizer.step()
        scheduler.step()


def test_noam_rises_in_proportion_then_falls_with_the_root():
    factor = Noam(width=64)
    values = [factor(done) for done in range(16_000)]
    assert factor.warmup == 4000 and values.index(max(values)) == 3999
    assert values[1999] == pytest.approx(max(values) / 2) and values[15_999] == pytest.approx(max(values) / 2)


def test_noam_needs_the_models_width():
    optimizer = plain()
    with pytest.raises(InputError, match="width must be a positive integer for the schedule noam, got 0"):
        SCHEDULES["noam"].make(optimizer, Course(LR, 1, 1))
    for warmup in (0, 10.5, True):
        with pytest.raises(InputError, match=f"warmup must be a positive integer for the schedule noam, got {warmup}"):
            Noam(64, warmup)
    assert optimizer.param_groups[0]["lr"] == LR, "untouched"


def test_how_often_they_step_and_what_for():
    assert {name for name, schedule in SCHEDULES.items() if schedule.every_batch} == {"noam", "one-cycle"}
    assert {name for name, schedule in SCHEDULES.items() if schedule.needs_metric} == {"plateau"}


def test_the_other_schedules():
    cosine = [0.5 * LR * (1 + math.cos(math.pi * epoch / 8)) for epoch in range(8)]
    assert alone("cosine")[::5].tolist() == pytest.approx(cosine)
    ten = alone("cosine-10", epochs=16)[::5].tolist()
    assert ten[10] == pytest.approx(0, abs=1e-12) and ten[5] == pytest.approx(LR / 2) == pytest.approx(ten[15])
    once = alone("one-cycle").tolist()
    assert once[0] == pytest.approx(LR / 25) and max(once) == pytest.approx(LR) and once[-1] < 1e-4 * LR
    falling, stuck = (alone("plateau", metric=m)[::5].tolist() for m in (lambda e: -e, lambda e: 1.0))
    assert falling == [LR] * 8
    assert stuck == pytest.approx([LR] * 7 + [LR / 10]), "five epochs without a gain pass, the sixth does not"


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_goes_on_from_its_saved_state(name):
    schedule = SCHEDULES[name]

    def go(optimizer, scheduler, steps):
        seen = []
        for _ in range(steps):
            optimizer.step()
            scheduler.step(*([1.0] if schedule.needs_metric else []))
            seen.append(optimizer.param_groups[0]["lr"])
        return seen

    optimizer = plain()
    scheduler = schedule.make(optimizer, COURSE)
    go(optimizer, scheduler, 4)
    file = io.BytesIO()
    torch.save({"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}, file)
    expected = go(optimizer, scheduler, 8)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    # The state says the warm-up; a schedule made with another one takes it over.
    other = plain()
    resumed = schedule.make(other, Course(LR, COURSE.epochs, COURSE.batches, width=8, warmup=2))
    other.load_state_dict(saved["optimizer"])
    resumed.load_state_dict(saved["scheduler"])
    assert go(other, resumed, 8) == expected and len(set(expected)) > 1


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", SCHEDULES)
def test_under_nni_every_group_follows_the_schedule_at_its_own_rate(name, optimizer):
    torch.manual_seed(0)
    schedule, model = SCHEDULES[name], Net()
    seen = []

    def loop(net, optim, step, scheduler=None, max_steps=None, max_epochs=None):
        step(batches(1)[0], net).backward()
        seen.append((optim, rates(optim, scheduler, schedule, max_epochs)))

    traced = OPTIMIZERS[optimizer].make(model.parameters(), lr=LR, weight_decay=1e-3, trace=nni.trace)
    evaluator = TorchEvaluator(loop, traced, training_step, schedule.make(traced, COURSE, trace=nni.trace))
    options = {"lr_scale": LR_SCALE, "lr_threshold": LR_THRESHOLD}
    PTTQQuantizer(model, config("conv1"), evaluator, **options).compress(None, COURSE.epochs)
    ((optim, found),) = seen
    assert isinstance(optim, OPTIMIZERS[optimizer].kind)
    expected = alone(name)
    assert len(set(expected.tolist())) > 1, "the schedule does something"
    for column, own in zip(found.T, (LR, LR_SCALE, LR_THRESHOLD), strict=True):
        torch.testing.assert_close(column, expected * own / LR, rtol=1e-9, atol=1e-12)


def test_optimisers_are_torchs():
    weight = nn.Parameter(torch.ones(2))
    for name, kind in (("adamax", "Adamax"), ("adamw", "AdamW"), ("adam-no-momentum", "Adam")):
        optimizer = OPTIMIZERS[name].make([weight], lr=0.02, weight_decay=0.03)
        group = optimizer.param_groups[0]
        assert (type(optimizer).__name__, group["lr"], group["weight_decay"]) == (kind, 0.02, 0.03)
        assert group["betas"] == ((0.0, 0.999) if name == "adam-no-momentum" else (0.9, 0.999))


def test_without_momentum_a_step_forgets_the_last_gradients_direction():
    moved = {}
    for name in ("adam-no-momentum", "adamw"):
        weight = nn.Parameter(torch.zeros(1))
        optimizer = OPTIMIZERS[name].make([weight], lr=0.1)
        for gradient in (1.0, 0.0):
            before = weight.item()
            weight.grad = torch.tensor([gradient])
            optimizer.step()
        moved[name] = weight.item() - before
    assert moved["adam-no-momentum"] == 0 and moved["adamw"] < -0.01
