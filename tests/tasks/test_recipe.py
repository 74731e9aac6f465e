"""Recipes and balanced losses."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from ttq_plugin.errors import InputError
from ttq_plugin.tasks import get_task
from ttq_plugin.tasks.full_precision import full_precision
from ttq_plugin.tasks.task import Data, Recipe, Split, Task


def split(*counts):
    """Points around a centre a class; so many of each."""
    y = torch.cat([torch.full((n,), label) for label, n in enumerate(counts)])
    x = torch.randn(len(y), 4, generator=torch.Generator().manual_seed(0)) + 3 * F.one_hot(y, 4)
    return Split(x, y)


DATA = Data(split(60, 20, 10), split(10, 10, 10), split(1, 1, 1))
TASK = Task(
    "points", "points in four dimensions", lambda *_: DATA, lambda: nn.Linear(4, 3), F.cross_entropy, Recipe(1, 0.1)
)


def steps(recipe, tmp_path):
    """(optimiser's type, learning rate, weight decay) of each step of a training."""
    seen = []

    def look(optimizer, *_):
        group = optimizer.param_groups[0]
        seen.append((type(optimizer).__name__, group["lr"], group["weight_decay"]))

    handle = register_optimizer_step_pre_hook(look)
    try:
        full_precision(replace(TASK, recipe=recipe), DATA, seed=0, cache=tmp_path)
    finally:
        handle.remove()
    return seen


def test_adamax_with_a_cosine_that_steps_once_an_epoch(tmp_path):
    seen = steps(Recipe(epochs=4, lr=0.1), tmp_path)
    assert [kind for kind, _, _ in seen] == 12 * ["Adamax"]
    assert [lr for _, lr, _ in seen[::3]] == pytest.approx([0.1, 0.05 + 0.05 * 0.5**0.5, 0.05, 0.05 - 0.05 * 0.5**0.5])
    assert all(seen[3 * i] == seen[3 * i + 2] for i in range(4))


def test_adamw_with_one_cycle_that_steps_once_a_batch(tmp_path):
    recipe = Recipe(epochs=10, lr=0.1, batch_size=64, weight_decay=0.05, optimizer="adamw", schedule="one-cycle")
    seen = steps(recipe, tmp_path)
    assert len(seen) == 20 and {(kind, decay) for kind, _, decay in seen} == {("AdamW", 0.05)}
    rates = [lr for _, lr, _ in seen]
    top = rates.index(max(rates))
    assert rates[0] == pytest.approx(0.1 / 25) and rates[top] == pytest.approx(0.1) and rates[-1] < 1e-5
    assert (
        top == 5 and rates[: top + 1] == sorted(rates[: top + 1]) and rates[top:] == sorted(rates[top:], reverse=True)
    )


def test_a_recipe_of_another_kind():
    with pytest.raises(InputError, match="optimizer must be one of adamax, adamw, .*, got 'sgd'"):
        Recipe(epochs=1, lr=0.1, optimizer="sgd")
    with pytest.raises(InputError, match="schedule must be one of cosine, .*, got 'linear'"):
        Recipe(epochs=1, lr=0.1, schedule="linear")


def test_models_cached_before_there_was_a_choice_are_still_found():
    written = "[('batch_size', 32), ('epochs', 60), ('lr', 0.003), ('weight_decay', 0.0)]"
    recipe = replace(get_task("mnist-cnn").recipe, dropout=None)
    assert recipe.fingerprint() == hashlib.sha256(written.encode()).hexdigest()[:8]
    others = [replace(recipe, **change) for change in ({"optimizer": "adamw"}, {"schedule": "one-cycle"}, {"lr": 1e-3})]
    assert len({r.fingerprint() for r in [recipe, *others]}) == 4


def test_a_balanced_loss_counts_every_class_the_same():
    logits, labels = torch.randn(90, 3, dtype=torch.float64), DATA.train.y
    assert torch.equal(TASK.loss_for(DATA.train)(logits, labels), F.cross_entropy(logits, labels))
    each = F.cross_entropy(logits, labels, reduction="none")
    expected = torch.stack([each[labels == c].mean() for c in range(3)]).mean()
    loss = replace(TASK, balanced=True, loss=lambda a, b, weight: F.cross_entropy(a, b, weight.double()))
    torch.testing.assert_close(loss.loss_for(DATA.train)(logits, labels), expected, rtol=1e-6, atol=1e-6)


def test_full_precision_trains_with_the_balanced_loss(tmp_path):
    recipe = Recipe(epochs=1, lr=0.1, batch_size=90)
    losses = {}
    for balanced in (False, True):
        task = replace(TASK, recipe=recipe, balanced=balanced)
        folder = tmp_path / str(balanced)
        full_precision(task, DATA, seed=0, cache=folder, on_epoch=lambda _, loss, b=balanced: losses.update({b: loss}))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        logits = nn.Linear(4, 3)(DATA.train.x)
    each = F.cross_entropy(logits, DATA.train.y, reduction="none")
    by_class = torch.stack([each[DATA.train.y == c].mean() for c in range(3)]).mean()
    assert losses[False] == pytest.approx(each.mean().item(), rel=1e-5)
    assert losses[True] == pytest.approx(by_class.item(), rel=1e-5)
    assert abs(losses[True] - losses[False]) > 1e-4
