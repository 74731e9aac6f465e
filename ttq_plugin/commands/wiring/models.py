"""Commands that train and compress single models, or reproduce the papers' tables: their options and help."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from ttq_plugin.commands import options
from ttq_plugin.methods import METHODS, MIXED
from ttq_plugin.trial.defaults import COMPRESSION

REPRODUCED = ("main", "ablations", "normalization", "grid", "sparsity", "beyond", "peers")
"""The tables of ``ttq reproduce``, named without importing torch."""


@click.command()
@options.task
@click.option("--out", type=click.Path(path_type=Path), help="Also write the weights here (.safetensors).")
@options.full_precision
@options.data
@options.common
def train(**given: Any) -> None:
    """Train the full-precision model of TASK, or take it from the cache."""
    from ttq_plugin.commands.train import train as command

    command(**given)


@click.command()
@options.task
@click.option("--budget", type=float, help="Quantise at least this share of the weights, in (0, 1]  [default: 0.9]")
@click.option("--max-bits", type=click.IntRange(1), help="Instead: bits of the whole stored model, at most.")
@click.option("--max-energy", type=float, help="Instead: joules of one inference, at most.")
@click.option("--max-sensitivity", type=float, help="Instead: sum of the sensitivities, at most.")
@click.option(
    "--methods", default="pttq", show_default=True, help="What a layer may get, comma-separated: int8, int4, methods."
)
@click.option("--include", multiple=True, metavar="LAYER", help="Quantise this layer in any case; repeatable.")
@click.option("--exclude", multiple=True, metavar="LAYER", help="Keep this layer in full precision; repeatable.")
@click.option("--keep-first", is_flag=True, help="Keep the first layer in full precision.")
@click.option("--keep-last", is_flag=True, help="Keep the last layer in full precision.")
@click.option("--probes", type=click.IntRange(2), help="Probes of the traces; with --tol, at most  [default: 8]")
@click.option("--tol", type=float, help="Stop probing when each trace's relative standard error is below this.")
@click.option("--plot", type=click.Path(path_type=Path), help="Write the picture here (PNG).")
@click.option("--out", type=click.Path(path_type=Path), help="Write what `ttq compress --config` takes here (JSON).")
@options.store
@options.full_precision
@options.data
@options.common
def sensitivity(**given: Any) -> None:
    """Hessian traces of TASK's layers, and the method that each layer gets within a budget.

    Sensitivity is Tr(H) / n * ||w - Q(w)||^2 (HAWQ-v2); the choice with the least sum is found exactly. With one
    ternary method --out is an NNI config list, else a chain of compressors.
    """
    from ttq_plugin.commands.sensitivity import sensitivity as command

    command(**given)


@click.command()
@options.task
@click.option(
    "--method", type=click.Choice((*METHODS, MIXED)), default="pttq", show_default=True,
    help="Not with a chain; mixed: a method for each layer within --bits.",
)  # fmt: skip
@click.option("--bits", type=float, help="With mixed: the stored model's bits, as a share of full precision's.")
@click.option("--t", type=float, help="TTQ's threshold, as a share of max|w|.")
@click.option("--t-min", type=float, help="Negative threshold in standard deviations (aTTQ, pTTQ).")
@click.option("--t-max", type=float, help="Positive threshold in standard deviations (aTTQ, pTTQ).")
@click.option("--zeros", type=float, help="Exact share of weights that are zero at the end.")
@click.option("--max-bytes", type=float, help="Largest size of the packed file: as many zeros as that needs.")
@click.option(
    "--max-bits", type=float, help="Likewise, the largest size of the stored model in bits (Shannon's bound)."
)
@click.option("--max-energy", type=float, help="Likewise, the most joules that an inference takes.")
@click.option("--alpha", type=float, help="Slope of the surrogate gradient (pTTQ).")
@click.option("--lr", type=float, default=COMPRESSION["lr"], show_default=True, help="Learning rate of the weights.")
@click.option(
    "--lr-scale",
    type=float,
    default=COMPRESSION["lr_scale"],
    show_default=True,
    help="Learning rate of the scales.",
)
@click.option(
    "--lr-threshold",
    type=float,
    default=COMPRESSION["lr_threshold"],
    show_default=True,
    help="Learning rate of the thresholds; 0.005 with --zeros and the like.",
)
@click.option(
    "--epochs", type=click.IntRange(1), default=COMPRESSION["epochs"], show_default=True, help="Passes over the data."
)
@click.option("--dropout", type=float, help="While training; default: the recipe's, or the model's own.")
@click.option("--precision", type=click.Choice(["float32", "bfloat16"]), help="Of training; default: the recipe's.")
@click.option(
    "--loss",
    metavar="NAME[:OPTION=VALUE,...]",
    help="Loss to train with, such as generalised-cross-entropy:q=0.5; default: the task's.",
)
@click.option(
    "--share",
    type=float,
    default=COMPRESSION["share"],
    show_default=True,
    help="Quantise at least this share of the weights.",
)
@click.option(
    "--granularity",
    type=click.Choice(("default", "out_channel")),
    help="Scales and thresholds a layer (default), or an output channel.",
)
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    help="NNI config list (JSON) instead of --share, or a chain instead of --share and --method.",
)
@click.option("--out", type=click.Path(path_type=Path), help="Write the packed model here (.safetensors).")
@click.option(
    "--rest",
    type=click.Choice(("exact", "float16", "int8")),
    default="exact",
    show_default=True,
    help="How --out writes what is not ternary; scores are then the file's.",
)
@options.margin
@options.full_precision
@options.data
@options.common
@click.pass_context
def compress(context: click.Context, **values: Any) -> None:
    """Compress the model of TASK once: one method, or a chain that gives each layer its own."""
    from ttq_plugin.commands.compress import compress as command

    given = frozenset(name for name in values if context.get_parameter_source(name) is not ParameterSource.DEFAULT)
    command(given=given, **values)


@click.command()
@click.argument("table", type=click.Choice(REPRODUCED))
@click.option(
    "--task", default="mnist-cnn", show_default=True,
    help="A task of the papers; for peers any task, also module:attribute.",
)  # fmt: skip
@click.option("--repetitions", type=click.IntRange(1), default=10, show_default=True, help="Seeds from --seed on.")
@click.option("--methods", metavar="ROW[,ROW...]", help="Only these rows of the table.")
@click.option("--scale", type=float, default=1.0, show_default=True, help="Multiply the published epochs by this.")
@click.option(
    "--precision", type=click.Choice(["float32", "bfloat16"]), default="float32", show_default=True, help="Of training."
)
@click.option("--workers", type=click.IntRange(1), help="Worker processes  [default: one a core]")
@click.option(
    "--to", type=click.Path(path_type=Path, file_okay=False), default=Path("reports"), show_default=True,
    help="Folder of the report; results of single trainings lie in it too.",
)  # fmt: skip
@click.option("--keep-models", is_flag=True, help="Keep the compressed weights beside the results.")
@click.option(
    "--trials", type=click.IntRange(1), default=8, show_default=True, help="Tuning trials of each entrant of peers."
)
@options.store
@options.data
@options.common
def reproduce(**given: Any) -> None:
    """Train a TABLE of the papers and write a report, ours beside theirs.

    TABLE is one of main, ablations, normalization, grid, sparsity, beyond (this project's own goals), and peers:
    ternary methods and their rivals at equal bytes and equal training, on any task. Killed or interrupted, the same
    command goes on without repeating what is finished.
    """
    from ttq_plugin.commands.reproduce import reproduce as command

    command(**given)
