"""The command line: parse, wire, print. Everything heavy is imported inside the commands."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from ttq_plugin.errors import Diverged, InputError
from ttq_plugin.tasks import TASKS

METHOD_NAMES = (
    *("twn", "ttq", "attq", "pttq", "dorefa"),
    *("pttq-absolute", "pttq-symmetric", "pttq-global", "pttq-fixed", "pttq-released"),
)
"""The methods, named without importing torch; a test compares them with ``METHODS``."""

STORE = "mlflow_runs"
F = TypeVar("F", bound=Callable[..., Any])


def _common(command: F) -> F:
    """The options that every command has."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of tables."),
        click.option("--device", default="cpu", show_default=True, help="Torch's name of the device to compute on."),
        click.option("--seed", type=click.IntRange(0), default=None, help="Seed of splits and training  [default: 0]"),
    ):
        command = option(command)
    return command


def _data(command: F) -> F:
    """Options of commands that load a task's data."""
    for option in (
        click.option("--cache", type=click.Path(path_type=Path), help="Folder of trained full-precision models."),
        click.option("--data", type=click.Path(path_type=Path), help="Data file; default: the task's own data."),
    ):
        command = option(command)
    return command


_task = click.argument("task", type=click.Choice(list(TASKS)))
_store = click.option("--store", default=STORE, show_default=True, help="MLflow folder, or a server's http(s) address.")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(package_name="ttq-plugin")
def cli() -> None:
    """Search, train and measure ternary compressions of a network.

    Start with `ttq search`, then `ttq ui`.
    """


@cli.command()
@click.argument("space", default="mnist-cnn")
@_store
@click.option("--storage", help="Optuna's database URL  [default: studies.db in the store's folder]")
@click.option("--study", help="The study's name  [default: the task's name and the time]")
@click.option("--resume", "resume", metavar="STUDY", help="Go on with this study, up to --trials trials in all.")
@click.option("--trials", type=click.IntRange(1), help="Trials in all  [default: the space's]")
@click.option("--workers", type=click.IntRange(1), help="Worker processes  [default: one a core]")
@_data
@_common
def search(**options: Any) -> None:
    """Search ternary compressions and leave a trade-off front in MLflow.

    SPACE is a space file, or the name of a built-in one. Objectives are maximised together; the papers' settings are
    tried first. Ctrl-C ends the search and keeps what is finished.
    """
    from ttq_plugin.commands.search import search as command

    command(**options)


@cli.command()
@_task
@click.option("--out", type=click.Path(path_type=Path), help="Also write the weights here (.safetensors).")
@_data
@_common
def train(**options: Any) -> None:
    """Train the full-precision model of TASK, or take it from the cache."""
    from ttq_plugin.commands.train import train as command

    command(**options)


@cli.command()
@_task
@click.option(
    "--budget", type=float, default=0.9, show_default=True, help="Share of the layers' weights to quantise, in (0, 1]."
)
@click.option("--out", type=click.Path(path_type=Path), help="Write NNI's config list here (JSON).")
@_data
@_common
def sensitivity(**options: Any) -> None:
    """Hessian trace of each layer of TASK, and the NNI config list of the flattest ones."""
    from ttq_plugin.commands.sensitivity import sensitivity as command

    command(**options)


@cli.command()
@_task
@click.option("--method", type=click.Choice(METHOD_NAMES), default="pttq", show_default=True)
@click.option("--t", type=float, help="TTQ's threshold, as a share of max|w|.")
@click.option("--t-min", type=float, help="Negative threshold in standard deviations (aTTQ, pTTQ).")
@click.option("--t-max", type=float, help="Positive threshold in standard deviations (aTTQ, pTTQ).")
@click.option("--alpha", type=float, help="Slope of the surrogate gradient (pTTQ).")
@click.option("--lr", type=float, default=2e-3, show_default=True, help="Learning rate of the weights.")
@click.option("--lr-scale", type=float, default=1e-3, show_default=True, help="Learning rate of the scales.")
@click.option("--lr-threshold", type=float, default=1e-3, show_default=True, help="Learning rate of the thresholds.")
@click.option("--epochs", type=click.IntRange(1), default=30, show_default=True)
@click.option("--share", type=float, default=1.0, show_default=True, help="Share of the layers' weights to quantise.")
@click.option("--config", type=click.Path(path_type=Path), help="NNI config list (JSON) instead of --share.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the compressed weights here (.safetensors).")
@_data
@_common
def compress(**options: Any) -> None:
    """Compress the model of TASK once: one method, one setting."""
    from ttq_plugin.commands.compress import compress as command

    command(**options)


@cli.command()
@click.option("--store", default=STORE, show_default=True, help="MLflow folder.")
@click.option("--study", help="Open this study's front  [default: the latest one's]")
@click.option("--host", default="127.0.0.1", show_default=True, help="Interface to listen on.")
@click.option("--port", type=click.IntRange(1, 65535), default=5000, show_default=True)
@click.option("--browser/--no-browser", default=True, help="Open the link in a browser.")
@_common
def ui(**options: Any) -> None:
    """MLflow's interface on this machine, opened at the front."""
    from ttq_plugin.commands.ui import ui as command

    command(**options)


def main() -> None:
    """The console script: 0, 1 for what failed, 2 for what cannot be done as asked, 130 after Ctrl-C."""
    try:
        code = cli(standalone_mode=False)
    except click.UsageError as error:
        error.show()
        code = 2
    except InputError as error:
        click.echo(f"Error: {error}", err=True)
        code = 2
    except Diverged as error:
        click.echo(f"Error: {error}; try smaller learning rates.", err=True)
        code = 1
    except (click.Abort, KeyboardInterrupt):
        click.echo("Interrupted.", err=True)
        code = 130
    sys.exit(code)


if __name__ == "__main__":
    main()
