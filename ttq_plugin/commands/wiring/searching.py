"""Options and help of the commands that search and show the results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ttq_plugin.commands import options
from ttq_plugin.commands.parts.places import Target


@click.command()
@click.argument("space", default="mnist-cnn")
@options.own_task
@options.store
@options.storage
@click.option("--study", help="Name of the new study.  [default: the task's name and the time]")
@click.option("--resume", "resume", metavar="STUDY", help="Continue this study until it has --trials trials in all.")
@click.option("--trials", type=click.IntRange(1), help="Number of trials in all.  [default: the space's]")
@click.option(
    "--epoch-curves", type=click.Choice(["front", "all", "none"]), default="front", show_default=True,
    help="Trials whose training loss is logged to MLflow for every epoch.",
)  # fmt: skip
@click.option("--workers", type=click.IntRange(1), help="Number of workers.  [default: one per core]")
@click.option(
    "--engine",
    type=click.Choice(["processes", "ray"]),
    default="processes",
    show_default=True,
    help="Run the workers as processes of this machine, or as tasks on the Ray cluster in RAY_ADDRESS.",
)
@click.option(
    "--heartbeat",
    type=click.IntRange(1),
    default=20,
    show_default=True,
    help="Seconds between two signs of life of a worker on another machine. After three missing ones its trial is run "
    "again.",
)
@click.option(
    "--method", "methods", multiple=True, metavar="NAME", help="Search only this method of the space; repeatable."
)
@click.option(
    "--thresholds",
    is_flag=True,
    help="Search the methods' initial thresholds (t, t_min and t_max) instead of the share of zeros.",
)
@click.option("--objectives", metavar="A,B,...", help="Two or more objectives, instead of the space's.")
@click.option(
    "--constraint",
    "constraints",
    multiple=True,
    metavar="'mcc >= 0.9'",
    help="Limit that every member of the front must satisfy; repeatable.",
)
@click.option(
    "--sampler", metavar="NAME", help="Sampler: tpe, gp, nsga2, random or grid.  [default: the space's, usually tpe]"
)
@click.option("--timeout", type=float, metavar="SECONDS", help="Start no new trial after this many seconds.")
@click.option(
    "--stagnation",
    type=int,
    metavar="TRIALS",
    help="Stop when this many trials have raised the hypervolume by less than 0.1 %.",
)
@click.option(
    "--halving",
    is_flag=True,
    help="Stop trials early by successive halving: after a quarter and after half of its epochs, a trial goes on only "
    "if it is in the better half of those that came so far.",
)
@click.option(
    "--give-up", multiple=True, metavar="KEY=NUMBER",
    help="Limit on retries: attempts, alike, crashes or patience; repeatable. See the documentation on searching.",
)  # fmt: skip
@click.option(
    "--warm-start",
    multiple=True,
    metavar="STUDY|CSV",
    help="Try the front of a study, or the rows of a CSV table, first; repeatable.",
)
@click.option(
    "--confirm", type=click.IntRange(2), metavar="K", help="Train each member of the front again with K other seeds."
)
@options.margin
@click.option("--schema", is_flag=True, help="Print the JSON schema of space files, for editors, and exit.")
@options.full_precision
@options.data
@options.common
def search(**given: Any) -> None:
    """Search ternary compressions; record the front in MLflow.

    The front holds the trials that no other trial beats in all objectives, such as score, size and energy. Unless the
    space says otherwise, pTTQ is searched with a prescribed share of zeros; --method and --thresholds search the
    papers' other methods and their thresholds. Ctrl-C ends the search and keeps every finished trial.

    SPACE is a space file, the name of a built-in space, or module:attribute for a task of your own, whose space is
    derived from its recipe.
    """
    from ttq_plugin.commands.search import Asked
    from ttq_plugin.commands.search import search as command

    command(Asked(**given))


@click.command()
@click.option(
    "--storage",
    envvar="TTQ_STORAGE",
    required=True,
    help="Database URL of the search; TTQ_STORAGE in the environment sets it too.",
)
@click.option("--study", help="Study to join.  [default: the only one with trials left]")
@options.own_task
@click.option("--workers", type=click.IntRange(1), help="Number of worker processes.  [default: one per core]")
@click.option(
    "--models",
    type=click.Path(path_type=Path),
    help="The folder in which the search keeps its models, if this machine can see it.",
)
@click.option(
    "--weights", type=click.Path(path_type=Path),
    help="This machine's copy of the full-precision weights that were given to the search.",
)  # fmt: skip
@options.data
@options.common
def worker(**given: Any) -> None:
    """Join a search that runs elsewhere.

    The worker runs trials until none is left. If the search runs on another machine, its database must be PostgreSQL.
    Name the data and the cache of this machine.
    """
    from ttq_plugin.commands.worker import worker as command

    command(**given)


@click.command()
@click.argument("studies", metavar="STUDY...", nargs=-1, required=True)
@click.option(
    "--floor", "--mcc-floor", "floors", type=float, multiple=True,
    help="Show the best gains among members with at least this score (for an error metric, at most); repeatable.  "
         "[default: 1, 2 and 5 points below the best score]",
)  # fmt: skip
@click.option("--out", "path", type=Target(), help="Also write the picture to this PNG file.")
@options.margin
@options.storage
@options.store
@options.common
def compare(**given: Any) -> None:
    """Compare the fronts of several studies.

    Draws the fronts in one figure, computes their hypervolume and the best gains at several scores, tests on test data
    which members are non-inferior to full precision, and logs all of it as a run in MLflow.
    """
    from ttq_plugin.commands.compare import compare as command

    command(**given)


@click.command()
@click.argument("study")
@click.option(
    "--floor",
    "--mcc-floor",
    "floor",
    type=float,
    help="Recommend a member with at least this validation score (for an error metric, at most).",
)
@click.option(
    "--out",
    "path",
    type=Target(),
    help="Where to write the page.  [default: reports/STUDY.html in the store]",
)
@options.storage
@options.store
@options.common
def report(**given: Any) -> None:
    """Write a study as one HTML page.

    The page needs no network. It shows the front, the hypervolume over the trials, the importance of each parameter,
    and a recommended member with the command that trains it again.
    """
    from ttq_plugin.commands.report import report as command

    command(**given)


@click.command()
@click.option("--store", default=options.STORE, show_default=True, envvar="TTQ_STORE", help="MLflow's folder.")
@click.option("--study", help="Study whose front is opened.  [default: the latest one]")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(1, 65535), default=5000, show_default=True, help="Port to listen on.")
@click.option("--browser/--no-browser", default=True, help="Whether to open the link in a browser.")
@options.common
def ui(**given: Any) -> None:
    """Start MLflow's interface and open the front."""
    from ttq_plugin.commands.ui import ui as command

    command(**given)
