"""The main steps as functions, for scripts and notebooks; the commands of the same names call them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from ttq_plugin.curvature.plan import Link
from ttq_plugin.curvature.probing.cost import trace_bar
from ttq_plugin.support.arguments import check_types
from ttq_plugin.support.frames import is_users
from ttq_plugin.support.names import c_identifier
from ttq_plugin.support.progress import epoch_bar, progress, stage, working
from ttq_plugin.tasks import OWN, TASKS, get_task
from ttq_plugin.tasks.task import Task
from ttq_plugin.trial.defaults import defaults
from ttq_plugin.trial.prepared import estimate_traces
from ttq_plugin.trial.run import Outcome, Prepared, prepare, run
from ttq_plugin.trial.settings import Settings
from ttq_plugin.trial.tested import Tested, score_on_test


@dataclass(frozen=True)
class Trained:
    """A full-precision model.

    Attributes:
        model: The model in evaluation mode.
        metric: Name of the task's metric.
        score: Value of the metric on validation data.
        parts: Parts of the score, such as the recall of each class.
        origin: Where the model comes from, in words: trained now, from the cache, or from the user's file.
        test: The score on test data; None unless it was requested.
        prepared: What compressions of this model share.
        seed: Random seed of the splits and of the training.
    """

    model: nn.Module
    metric: str
    score: float
    parts: dict[str, float]
    origin: str
    test: Tested | None = None
    prepared: Prepared = field(repr=False, kw_only=True)
    seed: int = field(default=0, kw_only=True)

    def with_traces(self, show: bool = False) -> Prepared:
        """What compressions share, with the Hessian traces that choose layers, estimated now if necessary."""
        ready = self.prepared
        if ready.traces:
            return ready
        with progress(shown=show) as bars:
            traces = estimate_traces(ready.task, ready.model, ready.train, seed=self.seed, on_probe=trace_bar(bars))
        return replace(ready, traces=tuple(traces))


def train(
    task: str | Task,
    *,
    seed: int = 0,
    data: Path | str | None = None,
    cache: Path | str | None = None,
    device: str = "cpu",
    weights: Path | str | None = None,
    retrain: bool = False,
    test: bool = False,
    curvature: bool = False,
    show: bool = True,
) -> Trained:
    """Train a task's full-precision model, or take it from the cache.

    Args:
        task: A task, the name of a built-in one, or ``module:attribute``.
        seed: Random seed of the splits and of the training.
        data: The user's data file, for tasks that read one.
        cache: Folder of trained models; None for the user's cache folder.
        device: Torch's name of the device to train on.
        weights: A safetensors file with the model's weights, used instead of training.
        retrain: Whether to train even if the cache has a model.
        test: Whether to score the model on the test split too. Do not base decisions on that score.
        curvature: Whether to estimate the layers' Hessian traces as well, which choose the layers of a compression.
        show: Whether to show a progress bar.

    Returns:
        The model with its scores.

    Raises:
        InputError: If the task, its data or the weights cannot be used; the message says what to change.

    Examples:
        >>> import ttq_plugin
        >>> trained = ttq_plugin.train("mnist-cnn", show=False)
        >>> trained.metric, trained.score > 0.9
        ('mcc', True)
    """  # noqa: DOC502 - raised by what it calls
    check_types(train, locals())
    described = task if isinstance(task, Task) else get_task(task)
    with progress(shown=show) as bars, stage(bars, f"full-precision model of {described.name}"):
        ready = prepare(
            described,
            seed=seed,
            data=data,
            cache=cache,
            device=device,
            weights=weights,
            retrain=retrain,
            curvature=curvature,
            check_test=True,
            on_epoch=epoch_bar(bars, "full-precision model", described.recipe.epochs),
            on_probe=trace_bar(bars),
        )
    tested = None
    if test:
        with working("test score", shown=show):
            [tested] = score_on_test(
                described, [ready.model.cpu()], seed=seed, data=data, fingerprint=ready.fingerprint
            )
    return Trained(
        model=ready.model,
        metric=described.score.name,
        score=ready.score,
        parts=ready.parts,
        origin=ready.origin,
        test=tested,
        prepared=ready,
        seed=seed,
    )


def compress(
    task: str | Task | Trained,
    method: str = "pttq",
    *,
    seed: int = 0,
    data: Path | str | None = None,
    cache: Path | str | None = None,
    device: str = "cpu",
    weights: Path | str | None = None,
    config_list: list[dict[str, Any]] | None = None,
    chain: Sequence[Link] | None = None,
    show: bool = True,
    **numbers: Any,
) -> Outcome:
    """Compress a task's full-precision model once.

    Args:
        task: A task, the name of a built-in one, ``module:attribute``, or what ``train`` returned.
        method: A key of ``METHODS``; with a chain, ``mixed``.
        seed: Random seed of the training; of the splits too, unless ``task`` has been trained.
        data: The user's data file, for tasks that read one.
        cache: Folder of trained full-precision models; None for the user's cache folder.
        device: Torch's name of the device to train on.
        weights: A safetensors file with the full-precision weights.
        config_list: NNI's configuration list, which chooses the layers; None for the layers with the lowest estimated
            sensitivity that hold at least ``share`` of the weights.
        chain: A method for each layer, such as a ``Selection``'s.
        show: Whether to show progress bars.
        **numbers: The method's and the training's numbers, as ``ttq_plugin.trial.settings.Settings`` names them: t,
            t_min, t_max, alpha, lr, lr_scale, lr_threshold, epochs, share, granularity, and so on. ``zeros=0.9`` makes
            exactly this share of the weights zero; ``max_bytes``, ``max_bits`` and ``max_energy`` find the share that
            keeps the model within a limit.

    Returns:
        The compressed model as ``.model``, its validation score as ``.score``, and its size and cost as ``.report``.

    Raises:
        InputError: If the task or a number cannot be used.
        Diverged: If a weight becomes NaN or infinite.

    Examples:
        >>> import ttq_plugin
        >>> outcome = ttq_plugin.compress("mnist-cnn", "pttq", t_min=1.0, t_max=1.0, epochs=2, show=False)
        >>> sorted(outcome.model.conv2.weight.sign().unique().tolist())
        [-1.0, 0.0, 1.0]
    """  # noqa: DOC502 - raised by what it calls
    check_types(compress, locals())
    settings = Settings(task=_name(task), method=method, seed=seed, **(defaults(numbers) | numbers))
    if isinstance(task, Trained):
        ready = task.prepared if config_list or chain is not None else task.with_traces(show)
    else:
        options = {"seed": seed, "data": data, "cache": cache, "device": device, "weights": weights}
        ready = train(task, curvature=config_list is None and chain is None, show=show, **options).prepared  # type: ignore[arg-type]
    with progress(shown=show) as bars, stage(bars, f"{method} compression"):
        on_epoch = epoch_bar(bars, f"{method} training", settings.epochs)
        return run(ready, settings, config_list=config_list, chain=chain, on_epoch=on_epoch)


def identified(task: str | Task) -> Task:
    """Give a task a name that studies and files can store.

    Args:
        task: A task, or its name.

    Returns:
        A built-in task unchanged; a task of the user's own with the name ``module:attribute`` under which it can be
        imported. A task that is in no module, such as one created inside a function, is named as if it were in the main
        module.
    """
    if not isinstance(task, Task):
        return get_task(task)
    if OWN.fullmatch(task.name) or (task.name in TASKS and get_task(task.name) is task):
        return task
    for name, module in list(sys.modules.items()):
        if module is not None and is_users(getattr(module, "__file__", None) or "<none>"):
            for attribute, value in list(vars(module).items()):
                if id(value) == id(task) and OWN.fullmatch(f"{name}:{attribute}"):
                    return replace(task, name=f"{name}:{attribute}")
    main = vars(sys.modules["__main__"]).items()
    found = [key for key, value in list(main) if value is task and key.isidentifier()]
    return replace(task, name=f"__main__:{found[0] if found else c_identifier(task.name)}")


def _name(task: str | Task | Trained) -> str:
    if isinstance(task, Trained):
        return task.prepared.task.name
    return task.name if isinstance(task, Task) else task
