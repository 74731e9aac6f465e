"""Options and help of the commands that bring a model to a device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from ttq_plugin.commands import options
from ttq_plugin.commands.parts.places import Target

EXPORTS = ("packed", "onnx", "onnx-int2", "onnx-int8", "c", "c-int8", "mlflow")
"""The formats of ``ttq export``."""


@click.command()
@options.task
@click.option(
    "--flash", required=True, metavar="BYTES", help="Largest number of bytes of code and constants, such as 64k."
)
@click.option("--ram", required=True, metavar="BYTES", help="Largest number of bytes of static memory, such as 16k.")
@click.option(
    "--floor", type=float, help="Lowest acceptable validation score of the network; for an error metric, the highest."
)
@click.option(
    "--out", type=Target(folder=True), required=True, help="New folder for the C code, its test program and the report."
)
@click.option("--space", metavar="FILE", help="Space to search.  [default: the task's own]")
@click.option("--trials", type=click.IntRange(1), help="Number of trials of the search.  [default: the space's]")
@click.option("--workers", type=click.IntRange(1), help="Number of workers.  [default: one per core]")
@click.option("--study", help="Name of the study.  [default: the task's name and the time]")
@click.option(
    "--confirm",
    type=click.IntRange(0),
    default=2,
    show_default=True,
    help="Number of other seeds that the chosen network is trained with.",
)
@click.option("--name", default="model", show_default=True, help="Prefix of the C files and functions.")
@options.storage
@options.store
@options.full_precision
@options.data
@options.common
def fit(task: str, flash: str, ram: str, **given: Any) -> None:
    """Find the best integer network of TASK for a microcontroller.

    Searches the task's space, such as shares of zeros and layers, trains the best member of the front that fits with
    other seeds, and writes it as C99 with a test program and a report. Flash is code and constants on a Cortex-M0;
    memory is static memory. If nothing fits, the command names the network that comes closest.
    """
    from ttq_plugin.commands.fit import Asked, bytes_of
    from ttq_plugin.commands.fit import fit as command
    from ttq_plugin.commands.search import Asked as Search

    own = {key: given.pop(key) for key in ("floor", "out", "space", "confirm", "name")}
    command(Asked(task, bytes_of(flash), bytes_of(ram), search=Search(**given), **own))


@click.command()
@options.model
@click.option("--to", type=click.Choice(EXPORTS), required=True, help="Format to export to.")
@click.option("--out", "target", type=Target(folder=True), help="File or folder to write.  [default: beside MODEL]")
@click.option("--name", default="model", show_default=True, help="Prefix of the C files and functions.")
@click.option(
    "--samples",
    type=click.IntRange(1),
    default=256,
    show_default=True,
    help="Number of training samples used to calibrate int8.",
)
@options.store
@options.storage
@options.data_file
@options.common
def export(**given: Any) -> None:
    """Export MODEL for a device or a runtime.

    MODEL is a file of `ttq train --out` or `ttq compress --out`. With --trial, MODEL is the name of a study, and the
    model is that trial's. A file never makes this program import code: name a task of your own with --task.

    \b
    packed     Ternary weights as packed codes.
    onnx       Float weights.
    onnx-int2  Ternary weights as two-bit codes, exactly.
    onnx-int8  Weights and activations in eight bits, calibrated on training data.
    c          A folder with self-contained C99.
    c-int8     C99 without floating point and with a test program, calibrated on training data.
    mlflow     A folder that mlflow.pyfunc.load_model reads.
    """  # noqa: D301 - the escape keeps the lines below it as they are
    from ttq_plugin.commands.export import export as command

    command(**given)


@click.command()
@options.model
@click.option(
    "--batch", "batches", type=click.IntRange(1), multiple=True, default=(1, 32), show_default=True,
    help="Number of samples per call; repeatable.",
)  # fmt: skip
@click.option(
    "--seconds",
    type=float,
    default=4.0,
    show_default=True,
    help="Approximate measuring time for each runtime and batch size.",
)
@click.option(
    "--threads", type=click.IntRange(1), default=1, show_default=True, help="Number of threads of each runtime."
)
@click.option("--plot", type=Target(), help="Write the picture to this PNG file.")
@click.option("--out", type=Target(), help="Write the numbers to this JSON file.")
@click.option(
    "--robustness",
    is_flag=True,
    help="Instead of costs, measure test scores on disturbed inputs beside full precision, which is trained if the "
    "cache does not have it.",
)
@click.option(
    "--noise-seed",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="With --robustness: random seed of the noise.",
)
@click.option(
    "--weights",
    type=click.Path(path_type=Path),
    help="With --robustness: your own full-precision weights (.safetensors).",
)
@options.data
@options.store
@options.storage
@options.common
@click.pass_context
def bench(context: click.Context, /, **values: Any) -> None:
    """Measure time, memory, bytes and energy of MODEL, or its robustness.

    This package's runtime is compared with torch and onnxruntime, which take turns in blocks of calls. MODEL is a file
    of `ttq compress --out`. With --trial, MODEL is the name of a study, and the model is that trial's. Name a task of
    your own with --task. The task's data are used to calibrate int8 and to compute scores. Energy needs a readable RAPL
    counter.

    With --robustness, inputs of the test split are disturbed by noise, gain, a missing channel, and a wrong sampling
    rate, and some reference labels are replaced; both models see the same samples.
    """
    from ttq_plugin.commands.bench import bench as command

    given = frozenset(name for name in values if context.get_parameter_source(name) is not ParameterSource.DEFAULT)
    command(given=given, **values)
