"""Options and help of the commands that train and compress single models or reproduce the papers' tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from ttq_plugin.commands import options
from ttq_plugin.commands.parts.places import Target
from ttq_plugin.methods import METHODS, MIXED
from ttq_plugin.trial.defaults import COMPRESSION

REPRODUCED = ("main", "ablations", "normalization", "grid", "sparsity", "beyond", "peers", "sensors")
"""The tables of ``ttq reproduce``, listed here so that torch need not be imported."""


@click.command()
@options.task
@click.option("--out", type=Target(), help="Also write the weights to this .safetensors file.")
@options.full_precision
@options.data
@options.common
def train(**given: Any) -> None:
    """Train the full-precision model of TASK.

    A model that was trained before with the same data and recipe is taken from the cache, unless --retrain is given.
    """
    from ttq_plugin.commands.train import train as command

    command(**given)


@click.command()
@options.task
@click.option("--budget", type=float, help="Quantise at least this share of the weights, in (0, 1].  [default: 0.9]")
@click.option(
    "--max-bits", type=click.IntRange(1), help="Budget in bits of the whole stored model, instead of --budget."
)
@click.option("--max-energy", type=float, help="Budget in joules per inference, instead of --budget.")
@click.option("--max-sensitivity", type=float, help="Budget of the summed sensitivities, instead of --budget.")
@click.option(
    "--methods",
    default="pttq",
    show_default=True,
    help="Methods that a layer may be given, separated by commas; int8 and int4 are possible too.",
)
@click.option("--include", multiple=True, metavar="LAYER", help="Always quantise this layer; repeatable.")
@click.option("--exclude", multiple=True, metavar="LAYER", help="Keep this layer in full precision; repeatable.")
@click.option("--keep-first", is_flag=True, help="Keep the first layer in full precision.")
@click.option("--keep-last", is_flag=True, help="Keep the last layer in full precision.")
@click.option(
    "--probes",
    type=click.IntRange(2),
    help="Number of random probes per trace; with --tol, the largest number.  [default: 8]",
)
@click.option("--tol", type=float, help="Stop probing when the relative standard error of every trace is below this.")
@click.option("--plot", type=Target(), help="Write the picture to this PNG file.")
@click.option("--out", type=Target(), help="Write the choice to this JSON file, for `ttq compress --config`.")
@options.store
@options.full_precision
@options.data
@options.common
def sensitivity(**given: Any) -> None:
    """Find out which layers of TASK are sensitive to quantisation.

    Estimates the Hessian trace of each layer, and chooses a method for each layer within a budget. The sensitivity of
    a layer is Tr(H) / n * ||w - Q(w)||^2 (HAWQ-v2), and the choice minimises the sum exactly. --out writes an NNI
    config list if one ternary method suffices, otherwise a chain of compressors.
    """
    from ttq_plugin.commands.sensitivity import sensitivity as command

    command(**given)


@click.command()
@options.task
@click.option(
    "--method", type=click.Choice((*METHODS, MIXED)), default="pttq", show_default=True,
    help="Method for all layers; mixed chooses one for each layer within --bits. Not with a chain.",
)  # fmt: skip
@click.option(
    "--bits", type=float, help="With mixed: size of the stored model as a share of the full-precision model's bits."
)
@click.option("--t", type=float, help="Threshold as a share of max|w| (TTQ) or of mean|w| (TWN).")
@click.option("--t-min", type=float, help="Negative threshold in standard deviations (aTTQ, pTTQ).")
@click.option("--t-max", type=float, help="Positive threshold in standard deviations (aTTQ, pTTQ).")
@click.option(
    "--zeros", type=float, help="Exact share of the quantised weights that are zero at the end; replaces thresholds."
)
@click.option(
    "--max-bytes",
    type=float,
    help="Largest size of the packed file in bytes; as many weights become zero as necessary.",
)
@click.option(
    "--max-bits",
    type=float,
    help="Largest size of the stored model in bits (Shannon's bound), reached in the same way.",
)
@click.option("--max-energy", type=float, help="Largest energy of an inference in joules, reached in the same way.")
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
    help="Learning rate of the thresholds; 0.0001 with --zeros, --max-bytes, --max-bits or --max-energy.",
)
@click.option(
    "--epochs",
    type=click.IntRange(1),
    default=COMPRESSION["epochs"],
    show_default=True,
    help="Number of passes over the training data.",
)
@click.option("--dropout", type=float, help="Dropout while training.  [default: the recipe's, or the model's own]")
@click.option(
    "--precision", type=click.Choice(["float32", "bfloat16"]), help="Precision of training.  [default: the recipe's]"
)
@click.option(
    "--loss",
    metavar="NAME[:OPTION=VALUE,...]",
    help="Loss to train with, such as generalised-cross-entropy:q=0.5.  [default: the task's]",
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
    help="Whether scales and thresholds belong to a layer (default) or to each output channel.",
)
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    help="JSON file with an NNI config list, instead of --share, or with a chain, instead of --share and --method.",
)
@click.option("--out", type=Target(), help="Write the packed model to this .safetensors file.")
@click.option(
    "--rest",
    type=click.Choice(("exact", "float16", "int8")),
    default="exact",
    show_default=True,
    help="How --out stores the weights that are not ternary; the scores are then those of the file.",
)
@options.margin
@options.full_precision
@options.data
@options.common
@click.pass_context
def compress(context: click.Context, /, **values: Any) -> None:
    """Compress the model of TASK once.

    All layers get one method, or --config gives each layer its own.
    """
    from ttq_plugin.commands.compress import compress as command

    given = frozenset(name for name in values if context.get_parameter_source(name) is not ParameterSource.DEFAULT)
    command(given=given, **values)


@click.command()
@click.argument("table", type=click.Choice(REPRODUCED))
@click.option(
    "--task", multiple=True, metavar="TASK",
    help="A task of the papers. For peers and sensors any task is possible, also module:attribute; for sensors the "
    "option may be repeated.  [default: mnist-cnn; for sensors all five tasks]",
)  # fmt: skip
@click.option(
    "--repetitions", "--seeds", type=click.IntRange(1),
    help="Number of seeds, counted from --seed.  [default: 10; for sensors 5]",
)  # fmt: skip
@click.option("--methods", metavar="ROW[,ROW...]", help="Train only these rows of the table.")
@click.option(
    "--scale",
    type=float,
    default=1.0,
    show_default=True,
    help="Multiply the published epochs by this; for peers and sensors, the epochs of the compressions.",
)
@click.option(
    "--precision",
    type=click.Choice(["float32", "bfloat16"]),
    default="float32",
    show_default=True,
    help="Precision of training.",
)
@click.option("--workers", type=click.IntRange(1), help="Number of worker processes.  [default: one per core]")
@click.option(
    "--to", type=Target(folder=True, file_okay=False), default=Path("reports"), show_default=True,
    help="Folder of the report and of the results of single trainings.",
)  # fmt: skip
@click.option("--keep-models", is_flag=True, help="Keep the compressed weights beside the results.")
@click.option(
    "--trials",
    type=click.IntRange(1),
    help="Number of tuning trials for each method.  [default: for peers 8; for sensors 1, which tunes nothing]",
)
@options.store
@options.data
@options.common
def reproduce(**given: Any) -> None:
    """Reproduce a TABLE of the papers and write a report.

    The report compares our numbers with the published ones. Three tables are not from the papers: beyond measures this
    project's own goals, peers compares ternary methods with other methods at equal bytes and equal training, on any
    task, and sensors compares compressed networks with full precision on wearable-sensor tasks, also as integer
    firmware, with intervals over people. If sensors runs several tasks, --data names a folder that has an entry for
    each of them, named after the task (for example esr-2dcnn.csv or ecg-cnn).

    After an interruption the same command continues without repeating what is finished.
    """
    from ttq_plugin.commands.reproduce import reproduce as command

    command(**given)
