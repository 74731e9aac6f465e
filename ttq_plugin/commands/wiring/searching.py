"""Commands that search, and that show what a search found: their options and help."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ttq_plugin.commands import options


@click.command()
@click.argument("space", default="mnist-cnn")
@options.own_task
@options.store
@options.storage
@click.option("--study", help="The study's name  [default: the task's name and the time]")
@click.option("--resume", "resume", metavar="STUDY", help="Go on with this study, up to --trials trials in all.")
@click.option("--trials", type=click.IntRange(1), help="Trials in all  [default: the space's]")
@click.option(
    "--epoch-curves", type=click.Choice(["front", "all", "none"]), default="front", show_default=True,
    help="Whose training losses MLflow gets, epoch by epoch.",
)  # fmt: skip
@click.option("--workers", type=click.IntRange(1), help="Workers  [default: one a core]")
@click.option(
    "--engine",
    type=click.Choice(["processes", "ray"]),
    default="processes",
    show_default=True,
    help="Workers are processes here, or tasks on the Ray cluster in RAY_ADDRESS.",
)
@click.option(
    "--heartbeat",
    type=click.IntRange(1),
    default=20,
    show_default=True,
    help="Seconds between signs of life of a worker elsewhere; three missed, and its trial is run again.",
)
@click.option("--method", "methods", multiple=True, metavar="NAME", help="Search this method of the space; repeatable.")
@click.option("--objectives", metavar="A,B,...", help="Two or more quantities to optimise, instead of the space's.")
@click.option("--constraint", "constraints", multiple=True, metavar="'mcc >= 0.9'", help="A limit; repeatable.")
@click.option("--sampler", metavar="NAME", help="tpe, gp, nsga2, random or grid  [default: the space's, mostly tpe]")
@click.option("--timeout", type=float, metavar="SECONDS", help="No trial begins after so many seconds.")
@click.option("--stagnation", type=int, metavar="TRIALS", help="End when so many raise the hypervolume by under 0.1 %.")
@click.option(
    "--give-up", multiple=True, metavar="KEY=NUMBER",
    help="When what fails is not tried again: attempts, alike, crashes or patience; repeatable; see the README.",
)  # fmt: skip
@click.option("--warm-start", multiple=True, metavar="STUDY|CSV", help="Try a study's front or a table's rows first.")
@click.option(
    "--confirm", type=click.IntRange(2), metavar="K", help="Train each front member again with K other seeds."
)
@options.margin
@click.option("--schema", is_flag=True, help="Print the space files' JSON schema for editors, and end.")
@options.full_precision
@options.data
@options.common
def search(**given: Any) -> None:
    """Search ternary compressions and leave a trade-off front in MLflow.

    SPACE is a space file, the name of a built-in one, or module:attribute, a task of your own: its space follows from
    its recipe. Objectives are optimised together; the papers' settings are tried first. Ctrl-C ends the search and
    keeps what is finished.
    """
    from ttq_plugin.commands.search import Asked
    from ttq_plugin.commands.search import search as command

    command(Asked(**given))


@click.command()
@click.option("--storage", envvar="TTQ_STORAGE", required=True, help="The search's database URL; or set TTQ_STORAGE.")
@click.option("--study", help="The study to join  [default: the only one with trials left]")
@options.own_task
@click.option("--workers", type=click.IntRange(1), help="Worker processes  [default: one a core]")
@click.option(
    "--models", type=click.Path(path_type=Path), help="The search's folder of models, where this machine has it."
)
@click.option(
    "--weights", type=click.Path(path_type=Path),
    help="This machine's copy of the full-precision weights that the search was given.",
)  # fmt: skip
@options.data
@options.common
def worker(**given: Any) -> None:
    """Join a search that runs elsewhere, and work on it until nothing is left.

    The database must be PostgreSQL where the search runs on another machine. Data and cache are this machine's own.
    """
    from ttq_plugin.commands.worker import worker as command

    command(**given)


@click.command()
@click.argument("studies", metavar="STUDY...", nargs=-1, required=True)
@click.option(
    "--floor", "--mcc-floor", "floors", type=float, multiple=True,
    help="Show the best gains at this score or better; repeatable  [default: the best score less 1, 2 and 5 points]",
)  # fmt: skip
@click.option("--out", "path", type=click.Path(path_type=Path), help="Also write the picture here (PNG).")
@options.margin
@options.storage
@options.store
@options.common
def compare(**given: Any) -> None:
    """Several studies' fronts in one figure: hypervolume, coverage, gains at floors of the score; a run in MLflow."""
    from ttq_plugin.commands.compare import compare as command

    command(**given)


@click.command()
@click.argument("study")
@click.option(
    "--floor",
    "--mcc-floor",
    "floor",
    type=float,
    help="Recommend a member with this score or better on validation data.",
)
@click.option(
    "--out", "path", type=click.Path(path_type=Path), help="The page  [default: reports/STUDY.html in the store]"
)
@options.storage
@options.store
@options.common
def report(**given: Any) -> None:
    """One study as an HTML page that needs no network: fronts, hypervolume, importances, the pick and its command."""
    from ttq_plugin.commands.report import report as command

    command(**given)


@click.command()
@click.option("--store", default=options.STORE, show_default=True, envvar="TTQ_STORE", help="MLflow folder.")
@click.option("--study", help="Open this study's front  [default: the latest one's]")
@click.option("--host", default="127.0.0.1", show_default=True, help="Interface to listen on.")
@click.option("--port", type=click.IntRange(1, 65535), default=5000, show_default=True)
@click.option("--browser/--no-browser", default=True, help="Open the link in a browser.")
@options.common
def ui(**given: Any) -> None:
    """MLflow's interface on this machine, opened at the front."""
    from ttq_plugin.commands.ui import ui as command

    command(**given)
