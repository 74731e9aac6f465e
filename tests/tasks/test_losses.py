"""Losses against naive formulas in float64, their limits, bounds, derivatives and options."""

from __future__ import annotations

import itertools
import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ttq_plugin.errors import InputError
from ttq_plugin.tasks.loss_formulas import (
    cross_entropy,
    distillation,
    generalised_cross_entropy,
    jensen_shannon,
    symmetric_cross_entropy,
)
from ttq_plugin.tasks.losses import LOSSES, get_loss

BATCH, CLASSES = 7, 4
WEIGHTS = torch.tensor([0.4, 3.0, 1.0, 0.7], dtype=torch.float64)


def random(seed, *shape, scale=2.0):
    return scale * torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


LOGITS, TEACHER = random(0, BATCH, CLASSES), random(1, BATCH, CLASSES)
HARD = torch.tensor([0, 1, 2, 3, 1, 1, 0])
ONE_HOT = F.one_hot(HARD, CLASSES).double()
SOFT = random(2, BATCH, CLASSES).softmax(1)
SOFT[0] = torch.tensor([0.0, 0.25, 0.0, 0.75])
LABELS = {"hard": HARD, "soft": SOFT}


def x_log(x, y):
    return x * math.log(y) if x else 0.0


def entropy_to(p, q):
    """-sum_k p_k log q_k, with 0 log 0 = 0."""
    return -sum(x_log(a, b) for a, b in zip(p, q, strict=True))


def divergence(p, q):
    return entropy_to(p, q) - entropy_to(p, p)


def softmax(z, temperature=1.0):
    e = [math.exp(v / temperature) for v in z]
    return [v / sum(e) for v in e]


def naive_cross_entropy(z, y, c, w, smoothing=0.0):
    """Class weights stand at each class's term; they are those of the sample where its label is one class."""
    p = softmax(z)
    return -sum(c[k] / w * ((1 - smoothing) * y[k] + smoothing / len(z)) * math.log(p[k]) for k in range(len(z)))


def naive_generalised(z, y, c, w, q=0.7):
    return sum(y[k] * (1 - p**q) / q for k, p in enumerate(softmax(z)))


def naive_symmetric(z, y, c, w, alpha=0.1, beta=1.0, log_zero=-4.0):
    logs = [max(math.log(v), log_zero) if v else log_zero for v in y]
    reverse = -sum(p * log for p, log in zip(softmax(z), logs, strict=True))
    return alpha * naive_cross_entropy(z, y, c, w) + beta * reverse


def naive_jensen_shannon(z, y, c, w, pi=0.5):
    p = softmax(z)
    m = [pi * a + (1 - pi) * b for a, b in zip(y, p, strict=True)]
    return (pi * divergence(y, m) + (1 - pi) * divergence(p, m)) / (-(1 - pi) * math.log(1 - pi))


def naive_distillation(z, y, c, w, teacher, temperature=2.0, weight=0.5):
    soft = divergence(softmax(teacher, temperature), softmax(z, temperature))
    return (1 - weight) * naive_cross_entropy(z, y, c, w) + weight * temperature**2 * soft


CASES = [
    ("cross-entropy", naive_cross_entropy, {}),
    ("soft-labels", naive_cross_entropy, {"smoothing": 0.1}),
    ("soft-labels", naive_cross_entropy, {"smoothing": 0.6}),
    ("generalised-cross-entropy", naive_generalised, {"q": 0.7}),
    ("generalised-cross-entropy", naive_generalised, {"q": 0.2}),
    ("symmetric-cross-entropy", naive_symmetric, {"alpha": 0.1, "beta": 1.0, "log_zero": -4.0}),
    ("symmetric-cross-entropy", naive_symmetric, {"alpha": 6.0, "beta": 0.3, "log_zero": -1.5}),
    ("jensen-shannon", naive_jensen_shannon, {"pi": 0.5}),
    ("jensen-shannon", naive_jensen_shannon, {"pi": 0.9}),
    ("distillation", naive_distillation, {"temperature": 2.0, "weight": 0.5}),
    ("distillation", naive_distillation, {"temperature": 5.0, "weight": 0.9}),
]


def ready(name, **options):
    """The loss as a function of logits, labels and class weights, with the teacher's logits if it needs them."""
    loss = LOSSES[name].configure(**options)
    return partial(loss, teacher_logits=TEACHER) if loss.needs_teacher else loss


@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("class_weights", [None, WEIGHTS], ids=["equal", "weighted"])
@pytest.mark.parametrize("name, naive, options", CASES)
def test_each_loss_is_its_formula(name, naive, options, class_weights, labels):
    found = ready(name, **options)(LOGITS, LABELS[labels], class_weights=class_weights)
    y = SOFT if labels == "soft" else ONE_HOT
    c = torch.ones(CLASSES) if class_weights is None else class_weights
    of_sample = (y * c).sum(1)
    more = [(t,) for t in TEACHER.tolist()] if name == "distillation" else [()] * BATCH
    each = [
        naive(z, label, c.tolist(), w, *extra, **options)
        for z, label, w, extra in zip(LOGITS.tolist(), y.tolist(), of_sample.tolist(), more, strict=True)
    ]
    expected = (torch.tensor(each, dtype=torch.float64) * of_sample).sum() / of_sample.sum()
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("class_weights", [None, WEIGHTS], ids=["equal", "weighted"])
def test_cross_entropy_of_indices_is_torchs_to_the_bit(class_weights):
    logits, weights = LOGITS.float(), None if class_weights is None else class_weights.float()
    for smoothing in (0.0, 0.1):
        expected = F.cross_entropy(logits, HARD, weights, label_smoothing=smoothing)
        assert torch.equal(cross_entropy(logits, HARD, class_weights=class_weights, smoothing=smoothing), expected)


@pytest.mark.parametrize("class_weights", [None, WEIGHTS], ids=["equal", "weighted"])
@pytest.mark.parametrize("name", LOSSES)
def test_a_class_and_the_same_label_as_probabilities_are_one(name, class_weights):
    loss = partial(ready(name), LOGITS, class_weights=class_weights)
    torch.testing.assert_close(loss(ONE_HOT), loss(HARD), rtol=1e-14, atol=0)


@pytest.mark.parametrize("name", LOSSES)
def test_weighing_a_class_double_is_having_its_samples_twice(name):
    twice = torch.cat([torch.arange(BATCH), (HARD == 1).nonzero().squeeze(1)])
    weights = torch.tensor([1.0, 2.0, 1.0, 1.0], dtype=torch.float64)
    # Smoothed labels have a part of every class, and cross-entropy weighs each part by its own class.
    options = {"smoothing": 0.0} if name == "soft-labels" else {}
    loss = LOSSES[name].configure(**options)
    teacher, teacher_twice = ({"teacher_logits": t} if loss.needs_teacher else {} for t in (TEACHER, TEACHER[twice]))
    found = loss(LOGITS, HARD, class_weights=weights, **teacher)
    torch.testing.assert_close(found, loss(LOGITS[twice], HARD[twice], **teacher_twice))


@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("name, _, options", CASES)
def test_first_and_second_derivatives(name, _, options, labels):
    def loss(z):
        return ready(name, **options)(z, LABELS[labels], class_weights=WEIGHTS)

    z = LOGITS.clone().requires_grad_()
    assert torch.autograd.gradcheck(loss, z, atol=1e-8)
    assert torch.autograd.gradgradcheck(loss, z, atol=1e-7)
    (gradient,) = torch.autograd.grad(loss(z), z)
    assert gradient.norm() > 1e-3, "a loss without gradient would pass too"


EXTREME = torch.tensor([[1e4, -1e4, 0.0, 3.0], [-1e30, 1e30, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0], [-90.0, 90.0, 0.0, 1.0]])


@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", LOSSES)
def test_extreme_logits_leave_value_and_both_derivatives_finite(name, dtype, soft):
    loss = LOSSES[name]
    for target in range(CLASSES):
        z = EXTREME.to(dtype).requires_grad_()
        labels = torch.full((4,), target)
        if soft:
            labels = 0.5 * F.one_hot(labels, CLASSES) + 0.5 * F.one_hot((labels + 1) % CLASSES, CLASSES)
        more = {"teacher_logits": -EXTREME.to(dtype)} if loss.needs_teacher else {}
        value = loss(z, labels, class_weights=WEIGHTS, **more)
        (gradient,) = torch.autograd.grad(value, z, create_graph=True)
        (second,) = torch.autograd.grad(gradient.square().sum(), z)
        assert value.dtype == gradient.dtype == dtype
        assert all(bool(t.isfinite().all()) for t in (value, gradient, second))
        assert value > 0, "labels that the logits contradict cost something"


def test_generalised_cross_entropy_between_cross_entropy_and_half_the_mean_absolute_error():
    ce, p = F.cross_entropy(LOGITS, HARD), LOGITS.softmax(1)
    half_mae = (p - ONE_HOT).abs().sum(1).mean() / 2
    torch.testing.assert_close(generalised_cross_entropy(LOGITS, HARD, q=1.0), half_mae)
    gaps = [(ce - generalised_cross_entropy(LOGITS, HARD, q=q)).item() for q in (1e-2, 1e-3, 1e-4)]
    assert gaps[0] / gaps[1] == pytest.approx(10, rel=0.05) and gaps[1] / gaps[2] == pytest.approx(10, rel=0.01)
    # In single precision 1 - p^q would have no digit left.
    tiny = generalised_cross_entropy(LOGITS.float(), HARD, q=1e-9)
    torch.testing.assert_close(tiny, ce.float(), rtol=1e-6, atol=0)


def test_jensen_shannon_between_cross_entropy_and_half_the_mean_absolute_error():
    ce = F.cross_entropy(LOGITS, HARD)
    gaps = [abs(ce - jensen_shannon(LOGITS, HARD, pi=pi)).item() for pi in (1e-4, 1e-5, 1e-6)]
    assert gaps[0] / gaps[1] == pytest.approx(10, rel=0.1) and gaps[1] / gaps[2] == pytest.approx(10, rel=0.1)
    # With e = 1 - pi the gap is -(1 - p_y + p_y log p_y) / log e, up to terms in e.
    p = LOGITS.softmax(1)[torch.arange(BATCH), HARD]
    first = (1 - p + p * p.log()).mean()
    for e in (1e-6, 1e-9):
        gap = jensen_shannon(LOGITS, HARD, pi=1 - e) - (1 - p).mean()
        torch.testing.assert_close(gap, -first / math.log(e), rtol=1e-4, atol=0)


@pytest.mark.parametrize("pi", [0.1, 0.5, 0.9])
def test_jensen_shannon_is_bounded(pi):
    wrong, right = torch.tensor([[-1e3, 1e3]]).double(), torch.tensor([[1e3, -1e3]]).double()
    bound = (pi * math.log(pi) + (1 - pi) * math.log(1 - pi)) / ((1 - pi) * math.log(1 - pi))
    label = torch.tensor([0])
    assert jensen_shannon(wrong, label, pi=pi).item() == pytest.approx(bound, rel=1e-14)
    assert jensen_shannon(right, label, pi=pi).item() == 0.0
    values = [jensen_shannon(random(seed, 1, 2, scale=5.0), label, pi=pi).item() for seed in range(200)]
    assert 0 < min(values) < 0.01 < 0.9 * bound < max(values) < bound


def test_what_is_symmetric_in_label_and_prediction():
    other = random(5, BATCH, CLASSES).softmax(1)
    label = random(6, BATCH, CLASSES).softmax(1)
    for loss in (
        partial(jensen_shannon, pi=0.5),
        partial(symmetric_cross_entropy, alpha=0.7, beta=0.7, log_zero=-1e3),
    ):
        torch.testing.assert_close(loss(other.log(), label), loss(label.log(), other), rtol=1e-12, atol=0)
    for loss in (partial(jensen_shannon, pi=0.3), symmetric_cross_entropy):
        assert abs(loss(other.log(), label) - loss(label.log(), other)) > 1e-3, "these are not"


def test_what_is_robust_to_uniform_noise_sums_to_a_constant_over_the_classes():
    """Ghosh et al. 2017: the sufficient condition. Cross-entropy has none; a larger q or pi comes closer."""

    def spread(loss):
        totals = [sum(loss(z[None], torch.tensor([k])).item() for k in range(CLASSES)) for z in random(3, 20, CLASSES)]
        return max(totals) - min(totals)

    assert spread(partial(generalised_cross_entropy, q=1.0)) < 1e-12
    reverse = partial(symmetric_cross_entropy, alpha=0.0, beta=1.0)
    assert spread(reverse) < 1e-12
    total = sum(reverse(LOGITS, torch.full((BATCH,), k)).item() for k in range(CLASSES))
    assert total == pytest.approx(4.0 * (CLASSES - 1))
    for loss, values in ((generalised_cross_entropy, (0.2, 0.7, 0.95)), (jensen_shannon, (0.1, 0.5, 0.95))):
        key = "q" if loss is generalised_cross_entropy else "pi"
        spreads = [spread(cross_entropy), *(spread(partial(loss, **{key: v})) for v in values)]
        assert spreads == sorted(spreads, reverse=True) and spreads[-1] > 1e-3


def test_distillation_between_labels_and_teacher():
    torch.testing.assert_close(
        distillation(LOGITS, HARD, teacher_logits=TEACHER, weight=0.0), F.cross_entropy(LOGITS, HARD)
    )
    only = partial(distillation, weight=1.0)
    assert only(LOGITS, HARD, teacher_logits=LOGITS + 3.0).item() == pytest.approx(0.0, abs=1e-15)
    # Probabilities of the teacher as labels, less their entropy, which is a constant.
    p = TEACHER.softmax(1)
    expected = F.cross_entropy(LOGITS, p) + (p * p.log()).sum(1).mean()
    torch.testing.assert_close(only(LOGITS, HARD, teacher_logits=TEACHER, temperature=1.0), expected)


def test_at_high_temperature_distillation_matches_centred_logits():
    """Hinton et al. 2015, section 2.1, with T^2 the gradient goes to (z - v) / classes."""
    z = LOGITS.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(distillation(z, HARD, teacher_logits=TEACHER, temperature=1e4, weight=1.0), z)
    z0, v0 = (x - x.mean(1, keepdim=True) for x in (LOGITS, TEACHER))
    torch.testing.assert_close(gradient, (z0 - v0) / (CLASSES * BATCH), rtol=0, atol=1e-4)
    assert gradient.abs().max() > 0.05


def test_no_gradient_flows_into_the_teachers_logits():
    teacher = TEACHER.clone().requires_grad_()
    loss = distillation(LOGITS.clone().requires_grad_(), HARD, teacher_logits=teacher)
    loss.backward()
    assert teacher.grad is None


def small_net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, CLASSES)).double()


def test_the_teacher_answers_each_batch_in_eval_mode_and_is_not_touched():
    teacher, student = small_net().train(), small_net()
    teacher[3].eval()
    modes = []
    teacher.register_forward_hook(lambda module, *_: modes.append((module.training, torch.is_grad_enabled())))
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    step = LOSSES["distillation"].configure(weight=1.0).training_step(teacher=teacher)
    x = random(4, BATCH, 3)
    for batch in (x, x[:3] + 1):
        state = torch.get_rng_state()
        expected_student = student(batch)
        torch.set_rng_state(state)
        loss = step((batch, HARD[: len(batch)]), student)
        known = small_net().eval()
        known.load_state_dict(before)
        expected = distillation(expected_student, HARD[: len(batch)], teacher_logits=known(batch), weight=1.0)
        torch.testing.assert_close(loss, expected, rtol=1e-14, atol=0)
    assert modes == [(False, False)] * 2
    loss.backward()
    assert all(p.grad is not None for p in student.parameters()) and all(p.grad is None for p in teacher.parameters())
    assert [m.training for m in teacher] == [True, True, True, False, True]
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert all(p.requires_grad for p in teacher.parameters())


def test_the_teacher_stays_what_it_was_when_it_is_the_very_model_that_trains():
    model = small_net().eval()
    step = LOSSES["distillation"].configure(weight=1.0).training_step(teacher=model)
    x = random(4, BATCH, 3)
    assert step((x, HARD), model).item() == pytest.approx(0.0, abs=1e-15)
    with torch.no_grad():
        model[0].weight.mul_(3)
    assert step((x, HARD), model).item() > 1e-3


def test_a_step_without_a_teacher_weighs_the_classes():
    model = small_net().eval()
    x = random(4, BATCH, 3)
    for name in set(LOSSES) - {"distillation"}:
        for weights in (None, WEIGHTS):
            step = LOSSES[name].training_step(weights, teacher=model)
            assert torch.equal(step((x, HARD), model), LOSSES[name](model(x), HARD, class_weights=weights))


def test_names_in_settings_and_back():
    assert {name: str(loss) for name, loss in LOSSES.items()} == {
        "cross-entropy": "cross-entropy",
        "soft-labels": "soft-labels:smoothing=0.1",
        "generalised-cross-entropy": "generalised-cross-entropy:q=0.7",
        "symmetric-cross-entropy": "symmetric-cross-entropy:alpha=0.1,beta=1.0,log_zero=-4.0",
        "jensen-shannon": "jensen-shannon:pi=0.5",
        "distillation": "distillation:temperature=2.0,weight=0.5",
    }
    for loss in LOSSES.values():
        assert get_loss(str(loss)) == loss == get_loss(loss.name)
    loss = get_loss("distillation: weight=1e-1, temperature=4")
    assert loss.options == {"temperature": 4.0, "weight": 0.1} and get_loss(str(loss)) == loss
    assert LOSSES["distillation"].options == {"temperature": 2.0, "weight": 0.5}, "unchanged"
    assert loss.configure(weight=1) == loss.configure(weight="1")


@pytest.mark.parametrize(
    "text, message",
    [
        ("focal", "loss must be one of cross-entropy, soft-labels, generalised-cross-entropy, .*, got 'focal'"),
        ("cross-entropy:q=0.5", "cross-entropy has no option 'q'; it takes none"),
        ("distillation:q=0.5", "distillation has no option 'q'; it takes temperature, weight"),
        ("jensen-shannon:pi", "pi must be a number, got ''"),
        ("jensen-shannon:pi=half", "pi must be a number, got 'half'"),
        ("soft-labels:smoothing=1", r"smoothing must lie in \[0, 1\), such as 0.1, got 1\."),
        ("soft-labels:smoothing=-0.1", r"smoothing must lie in \[0, 1\)"),
        ("generalised-cross-entropy:q=0", r"q must lie in \(0, 1\], such as 0.7, got 0\."),
        ("generalised-cross-entropy:q=1.1", r"q must lie in \(0, 1\], such as 0.7, got 1.1"),
        ("symmetric-cross-entropy:alpha=0", "alpha must be positive, such as 0.1, got 0"),
        ("symmetric-cross-entropy:beta=-1", "beta must be positive, such as 1, got -1"),
        ("symmetric-cross-entropy:log_zero=0", "log_zero must be negative, such as -4, got 0"),
        ("jensen-shannon:pi=0", r"pi must lie in \(0, 1\), such as 0.5, got 0"),
        ("jensen-shannon:pi=1", r"pi must lie in \(0, 1\), such as 0.5, got 1"),
        ("distillation:temperature=0", "temperature must be positive, such as 2, got 0"),
        ("distillation:temperature=inf", "temperature must be positive, such as 2, got inf"),
        ("distillation:weight=1.5", r"weight must lie in \[0, 1\], such as 0.5, got 1.5"),
        ("distillation:weight=nan", r"weight must lie in \[0, 1\], such as 0.5, got nan"),
    ],
)
def test_losses_that_cannot_be(text, message):
    with pytest.raises(InputError, match=message):
        get_loss(text)


def test_options_that_are_no_numbers():
    for value in (True, None, [0.5]):
        with pytest.raises(InputError, match="q must be a number, got"):
            LOSSES["generalised-cross-entropy"].configure(q=value)


SHAPES = [
    (LOGITS, HARD[:3]),
    (LOGITS, HARD.unsqueeze(1)),
    (LOGITS, HARD.int()),
    (LOGITS, HARD.double()),
    (LOGITS, SOFT[:, :2]),
    (LOGITS[0], HARD[0]),
    (LOGITS[0], SOFT[0]),
]


@pytest.mark.parametrize(("name", "index"), list(itertools.product(LOSSES, range(len(SHAPES)))))
def test_labels_that_do_not_fit(name, index):
    logits, labels = SHAPES[index]
    message = (
        r"logits must have the shape \(batch, classes\) and labels be int64 indices .* got logits \((7, )?4,?\) and"
    )
    with pytest.raises(InputError, match=message):
        ready(name)(logits, labels)


def test_a_teacher_that_is_missing_or_of_other_classes():
    with pytest.raises(InputError, match="distillation must have a teacher, got none: pass the full-precision model"):
        LOSSES["distillation"].training_step()
    with pytest.raises(InputError, match=r"teacher_logits must have the shape \(7, 4\) of the logits, got \(7, 3\)"):
        distillation(LOGITS, HARD, teacher_logits=TEACHER[:, :3])
