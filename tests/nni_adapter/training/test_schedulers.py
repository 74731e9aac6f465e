"""Learning rates of scales and thresholds under torch's schedulers, and training loops of other kinds."""

from __future__ import annotations

import nni
import pytest
import torch
from nni.compression.utils import TorchEvaluator
from torch.optim import lr_scheduler as schedulers
from torch.optim.swa_utils import SWALR

from tests.nni_adapter.nets import Net, batches, config, training_step
from ttq_plugin.errors import InputError
from ttq_plugin.nni_adapter import PTTQQuantizer, TTQQuantizer

LR, LR_SCALE, LR_THRESHOLD = 1e-2, 3e-3, 2e-4
EPOCHS = 6


def run(make_schedule, groups=None, loss=None, **options):
    """Rates of all groups at each epoch, of the optimiser that NNI really trains with."""
    torch.manual_seed(0)
    model = Net()
    log = []

    def loop(model, optimizer, step, scheduler=None, max_steps=None, max_epochs=None):
        for epoch in range(max_epochs):
            for batch in batches(1):
                optimizer.zero_grad()
                step(batch, model).backward()
                optimizer.step()
            log.append([group["lr"] for group in optimizer.param_groups])
            scheduler.step(*([] if loss is None else [loss(epoch)]))

    parameters = model.parameters() if groups is None else groups(model)
    optimizer = nni.trace(torch.optim.SGD)(parameters, lr=LR, momentum=0.9)
    evaluator = TorchEvaluator(loop, optimizer, training_step, make_schedule(optimizer))
    options = {"lr_scale": LR_SCALE, "lr_threshold": LR_THRESHOLD} | options
    PTTQQuantizer(model, config("conv1"), evaluator, **options).compress(None, EPOCHS)
    return torch.tensor(log, dtype=torch.float64)


def alone(kind, arguments, loss=None):
    """The rates that the same scheduler gives a plain optimiser."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=LR, momentum=0.9)
    scheduler = kind(optimizer, **arguments)
    rates = []
    for epoch in range(EPOCHS):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step(*([] if loss is None else [loss(epoch)]))
    return torch.tensor(rates, dtype=torch.float64)


CASES = [
    (schedulers.StepLR, {"step_size": 2}, None),
    (schedulers.MultiStepLR, {"milestones": [1, 3]}, None),
    (schedulers.ExponentialLR, {"gamma": 0.7}, None),
    (schedulers.CosineAnnealingLR, {"T_max": EPOCHS}, None),
    (schedulers.CosineAnnealingWarmRestarts, {"T_0": 3}, None),
    (schedulers.LinearLR, {"start_factor": 0.1, "total_iters": 4}, None),
    (schedulers.LambdaLR, {"lr_lambda": lambda epoch: 1 / (1 + epoch)}, None),
    (schedulers.LambdaLR, {"lr_lambda": [lambda epoch: 0.5**epoch]}, None),
    (schedulers.MultiplicativeLR, {"lr_lambda": [lambda epoch: 0.9]}, None),
    (schedulers.OneCycleLR, {"max_lr": LR, "total_steps": EPOCHS + 1}, None),
    (schedulers.OneCycleLR, {"max_lr": [LR], "total_steps": EPOCHS + 1, "base_momentum": [0.8]}, None),
    (schedulers.CyclicLR, {"base_lr": LR / 10, "max_lr": LR, "step_size_up": 2}, None),
    (SWALR, {"swa_lr": LR / 20, "anneal_epochs": 3}, None),
    (SWALR, {"swa_lr": [LR / 20], "anneal_epochs": 3, "anneal_strategy": "linear"}, None),
    (schedulers.ReduceLROnPlateau, {"patience": 0}, lambda epoch: 1.0),
    (schedulers.ReduceLROnPlateau, {"patience": 0, "min_lr": LR / 20}, lambda epoch: 1.0),
    (schedulers.ReduceLROnPlateau, {"patience": 0, "min_lr": [LR / 20]}, lambda epoch: 1.0),
]


@pytest.mark.parametrize("kind, arguments, loss", CASES, ids=[f"{k.__name__}-{i}" for i, (k, _, _) in enumerate(CASES)])
def test_every_group_keeps_its_own_rate_in_proportion(kind, arguments, loss):
    rates = run(lambda optimizer: nni.trace(kind)(optimizer, **arguments), loss=loss)
    expected = alone(kind, arguments, loss)
    assert len(set(expected.tolist())) > 1, "the schedule does something"
    torch.testing.assert_close(rates[:, 0], expected)
    torch.testing.assert_close(rates[:, 1], expected * LR_SCALE / LR)
    torch.testing.assert_close(rates[:, 2], expected * LR_THRESHOLD / LR)


def test_one_cycle_peaks_at_each_groups_own_rate():
    kind = nni.trace(schedulers.OneCycleLR)
    rates = run(lambda optimizer: kind(optimizer, 0.5, total_steps=EPOCHS + 1))
    expected = alone(schedulers.OneCycleLR, {"max_lr": 0.5, "total_steps": EPOCHS + 1})
    torch.testing.assert_close(rates[:, 0], expected)
    torch.testing.assert_close(rates[:, 1], expected * LR_SCALE / 0.5)
    own = run(lambda optimizer: kind(optimizer, 0.5, total_steps=EPOCHS + 1), lr_scale=None)
    torch.testing.assert_close(own[:, 1], expected, msg="without a rate of its own: the optimiser's")


def test_cosine_floor_is_one_for_all():
    """What the documentation of ``groups`` says of torch."""
    kind = nni.trace(schedulers.CosineAnnealingLR)
    rates = run(lambda optimizer: kind(optimizer, T_max=EPOCHS - 1, eta_min=1e-5))
    torch.testing.assert_close(rates[-1], torch.full((3,), 1e-5, dtype=torch.float64))


def two_groups(model):
    fc = [p for name, p in model.named_parameters() if name.startswith("fc")]
    rest = [p for name, p in model.named_parameters() if not name.startswith("fc")]
    return [{"params": rest}, {"params": fc, "lr": 0.5}]


def test_a_list_with_one_value_for_each_of_the_users_groups():
    lambdas = [lambda epoch: 0.5**epoch, lambda epoch: 0.25**epoch]
    rates = run(lambda optimizer: nni.trace(schedulers.LambdaLR)(optimizer, lambdas), two_groups)
    assert rates.shape == (EPOCHS, 4)
    torch.testing.assert_close(rates[1], torch.tensor([LR / 2, 0.125, LR_SCALE / 2, LR_THRESHOLD / 2]).double())
    rates = run(
        lambda optimizer: nni.trace(schedulers.OneCycleLR)(optimizer, max_lr=[0.2, 0.4], total_steps=EPOCHS + 1),
        two_groups,
    )
    torch.testing.assert_close(rates[:, 0] * 2, rates[:, 1])
    torch.testing.assert_close(rates[:, 2] / LR_SCALE, rates[:, 0] / 0.2)


def test_a_warm_up_of_the_users_groups_starts_once():
    rates = run(
        lambda optimizer: nni.trace(schedulers.LinearLR)(optimizer, start_factor=0.1, total_iters=4), two_groups
    )
    torch.testing.assert_close(rates[0], torch.tensor([LR, 0.5, LR_SCALE, LR_THRESHOLD]).double() / 10)


def test_nni_takes_the_first_step_twice():
    """What ``groups._undo_first_step`` is for."""
    model = Net()
    optimizer = nni.trace(torch.optim.SGD)(two_groups(model), lr=LR)
    evaluator = TorchEvaluator(
        lambda *_: None, optimizer, training_step, nni.trace(schedulers.LinearLR)(optimizer, start_factor=0.1)
    )
    evaluator._init_optimizer_helpers(model)
    evaluator.bind_model(model, {})
    assert evaluator._optimizers[0].param_groups[1]["lr"] == pytest.approx(0.5 * 0.01)


def test_the_lists_follow_the_compressors():
    torch.manual_seed(0)
    model = Net()
    optimizer = nni.trace(torch.optim.SGD)(model.parameters(), lr=LR)
    schedule = nni.trace(schedulers.OneCycleLR)(optimizer, max_lr=0.5, total_steps=20)
    log = []

    def loop(model, optimizer, step, scheduler=None, max_steps=None, max_epochs=None):
        step(batches(1)[0], model).backward()
        optimizer.step()
        log.append([group["max_lr"] for group in optimizer.param_groups])

    evaluator = TorchEvaluator(loop, optimizer, training_step, schedule)
    first = PTTQQuantizer(model, config("conv1"), evaluator, lr_scale=1e-3, lr_threshold=1e-4)
    second = TTQQuantizer.from_compressor(first, config("conv2"), lr_scale=2e-3)
    second.compress(None, 1)
    second.unwrap_model()
    TTQQuantizer(model, config("conv1"), evaluator, lr_scale=3e-3).compress(None, 1)
    assert log[0] == pytest.approx([0.5, 1e-3, 1e-4, 2e-3]) and log[1] == pytest.approx([0.5, 3e-3])


def parts(optimizer):
    return [schedulers.StepLR(optimizer, 1), schedulers.ExponentialLR(optimizer, 0.9)]


@pytest.mark.parametrize(
    "schedule",
    [
        lambda o: nni.trace(schedulers.ChainedScheduler)(parts(o), optimizer=o),
        lambda o: nni.trace(schedulers.ChainedScheduler)(parts(o)),
        lambda o: nni.trace(schedulers.SequentialLR)(o, parts(o), milestones=[2]),
    ],
    ids=["chained", "chained without an optimiser", "sequential"],
)
def test_a_scheduler_made_of_schedulers_is_refused(schedule):
    with pytest.raises(InputError, match="cannot build .* anew, .* write the schedule as one LambdaLR"):
        run(schedule)


class Halving(schedulers.LambdaLR):
    def __init__(self, adam, every):
        super().__init__(adam, lambda step: 0.5 ** (step // every))


def test_a_scheduler_that_calls_its_optimiser_by_another_name_is_refused():
    with pytest.raises(InputError, match="by the name optimizer, got Halving, which takes adam, every; call that"):
        run(lambda optimizer: nni.trace(Halving)(optimizer, every=2))


def train(loop, **options):
    torch.manual_seed(0)
    model = Net()
    optimizer = nni.trace(torch.optim.SGD)(model.parameters(), lr=LR)
    evaluator = TorchEvaluator(loop, optimizer, training_step)
    quantizer = PTTQQuantizer(model, config("conv1", "conv2"), evaluator, **options)
    quantizer.compress(None, 2)
    return quantizer


def test_gradient_accumulation_equals_the_large_batch():
    x, y = batches(1)[0]

    def whole(model, optimizer, step, scheduler=None, max_steps=None, max_epochs=None):
        for _ in range(max_epochs):
            optimizer.zero_grad()
            step((x, y), model).backward()
            optimizer.step()

    def halves(model, optimizer, step, scheduler=None, max_steps=None, max_epochs=None):
        for _ in range(max_epochs):
            optimizer.zero_grad()
            for part in (slice(0, 8), slice(8, 16)):
                (step((x[part], y[part]), model) / 2).backward()
            optimizer.step()

    one, two = train(whole), train(halves)
    for name, state in one.states().items():
        for key, value in state.params.items():
            torch.testing.assert_close(two.states()[name].params[key], value, rtol=1e-5, atol=1e-7)


def test_bfloat16_autocast():
    def loop(model, optimizer, step, scheduler=None, max_steps=None, max_epochs=None):
        for _ in range(max_epochs):
            for batch in batches():
                optimizer.zero_grad()
                with torch.autocast("cpu", dtype=torch.bfloat16):
                    dtypes.add(model.conv1(batch[0]).dtype)
                    loss = step(batch, model)
                loss.backward()
                optimizer.step()

    dtypes = set()
    quantizer = train(loop)
    assert dtypes == {torch.bfloat16}
    reference = train(
        lambda model, optimizer, step, *_: [
            (optimizer.zero_grad(), step(b, model).backward(), optimizer.step()) for _ in range(2) for b in batches()
        ]
    )
    exported = quantizer.export_model()
    for name, state in quantizer.states().items():
        assert state.scales.dtype == state.thresholds.dtype == torch.float32
        torch.testing.assert_close(state.scales, reference.states()[name].scales, rtol=1e-2, atol=1e-4)
        positive, negative = state.scales.tolist()
        assert set(getattr(exported, name).weight.unique().tolist()) == {-negative, 0.0, positive}


@pytest.mark.parametrize("backend", ["eager", "inductor"])
def test_the_exported_model_compiles(backend):
    from torch._inductor.cpp_builder import get_cpp_compiler

    if backend == "inductor":
        try:
            get_cpp_compiler()
        except Exception:
            pytest.skip("needs a C++ compiler")
    exported = train(lambda *_, **__: None).export_model().eval()
    torch._dynamo.reset()
    compiled = torch.compile(exported, backend=backend, fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(batches(1)[0][0]), exported(batches(1)[0][0]))
