"""Options and arguments that several commands share. Nothing heavy is imported here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from ttq_plugin.errors import InputError
from ttq_plugin.support.quiet import silenced
from ttq_plugin.tasks import check_task

STORE = "mlflow_runs"

WORDS = "ttq_plugin.words"
"""Key under which a click context keeps the arguments that the user typed after `ttq`."""

F = TypeVar("F", bound=Callable[..., Any])


def _quiet(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    context.with_resource(silenced(value))


def common(command: F) -> F:
    """Add the options that every command has."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables."),
        click.option("--device", default="cpu", show_default=True, help="Torch's name of the device to compute on."),
        click.option(
            "--quiet", is_flag=True, expose_value=False, callback=_quiet, help="Show no progress on standard error."
        ),
        click.option(
            "--seed", type=click.IntRange(0), default=None, help="Random seed of splits and training.  [default: 0]"
        ),
    ):
        command = option(command)
    return command


data_file = click.option(
    "--data", type=click.Path(path_type=Path), help="Data file or folder.  [default: the task's own]"
)


def data(command: F) -> F:
    """Add the options of commands that load a task's data and its full-precision model."""
    cache = click.option("--cache", type=click.Path(path_type=Path), help="Folder of trained full-precision models.")
    return data_file(cache(command))


def full_precision(command: F) -> F:
    """Add the options that say where the full-precision model comes from."""
    weights = click.option(
        "--weights",
        type=click.Path(path_type=Path),
        help="A state dict with your own full-precision weights (.safetensors), used instead of training a model.",
    )
    retrain = click.option(
        "--retrain", is_flag=True, help="Train the full-precision model again, even if the cache has one."
    )
    return weights(retrain(command))


margin = click.option(
    "--margin",
    type=click.FloatRange(0, min_open=True),
    help="Largest loss of test score that you would accept; the models are tested for losing less. In points for a "
    "metric in percent, otherwise in the metric's own unit.  [default: 1 for a metric in percent]",
)
"""The margin of the non-inferiority test."""


class TaskName(click.ParamType[str]):
    """A built-in task, or `module:attribute` for one of the user's own."""

    name = "task"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check the name without importing anything."""
        try:
            check_task(value)
        except InputError as error:
            self.fail(str(error), param, ctx)
        return str(value)


task = click.argument("task", metavar="TASK", type=TaskName())
own_task = click.option(
    "--task",
    type=TaskName(),
    metavar="TASK",
    help="The task that is searched. Required if only a file or the database names a module:attribute of your own.",
)
store = click.option(
    "--store",
    default=STORE,
    show_default=True,
    envvar="TTQ_STORE",
    help="MLflow's folder, or the http(s) address of a server.",
)

storage = click.option(
    "--storage", envvar="TTQ_STORAGE", help="Optuna's database URL.  [default: studies.db in the store's folder]"
)


def model(command: F) -> F:
    """Add the arguments that name a finished model: a file, or a study and the number of a trial."""
    for option in (
        click.option(
            "--trial", type=click.IntRange(0), metavar="N", help="Number of the trial, if MODEL is the name of a study."
        ),
        click.option(
            "--task",
            type=TaskName(),
            metavar="TASK",
            help="The model's task. Required for a module:attribute of your own.",
        ),
        click.argument("model", metavar="MODEL"),
    ):
        command = option(command)
    return command
