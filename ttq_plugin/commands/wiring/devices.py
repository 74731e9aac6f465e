"""Commands that bring a model to a device: their options and help."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ttq_plugin.commands import options

EXPORTS = ("packed", "onnx", "onnx-int2", "onnx-int8", "c", "c-int8", "mlflow")
"""The forms of ``ttq export``."""


@click.command()
@options.task
@click.option("--flash", required=True, metavar="BYTES", help="Code and constants, at most; such as 64k.")
@click.option("--ram", required=True, metavar="BYTES", help="Static memory, at most; such as 16k.")
@click.option("--floor", type=float, help="The score to reach on validation data at least, of an error at most.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="New folder of C code, test and report.")
@click.option("--space", metavar="FILE", help="Search this space  [default: the task's own]")
@click.option("--trials", type=click.IntRange(1), help="Trials of the search  [default: the space's]")
@click.option("--workers", type=click.IntRange(1), help="Workers  [default: one a core]")
@click.option("--study", help="The study's name  [default: the task's name and the time]")
@click.option(
    "--confirm", type=click.IntRange(0), default=2, show_default=True, help="Other seeds to train the chosen one with."
)
@click.option("--name", default="model", show_default=True, help="Of the C files and functions.")
@options.storage
@options.store
@options.full_precision
@options.data
@options.common
def fit(task: str, flash: str, ram: str, **given: Any) -> None:
    """Find the best integer network of TASK within a budget, and write it as C99 with a test program and a report.

    Flash is code and constants on a Cortex-M0, memory is static. A search over methods, thresholds and layers leaves a
    front; its best member that fits is trained with other seeds and written. If nothing fits, the nearest is told.
    """
    from ttq_plugin.commands.fit import Asked, bytes_of
    from ttq_plugin.commands.fit import fit as command
    from ttq_plugin.commands.search import Asked as Search

    own = {key: given.pop(key) for key in ("floor", "out", "space", "confirm", "name")}
    command(Asked(task, bytes_of(flash), bytes_of(ram), search=Search(**given), **own))


@click.command()
@options.model
@click.option("--to", type=click.Choice(EXPORTS), required=True, help="The form to export to.")
@click.option("--out", "target", type=click.Path(path_type=Path), help="File or folder  [default: beside MODEL]")
@click.option("--name", default="model", show_default=True, help="Of the C files and functions.")
@click.option(
    "--samples", type=click.IntRange(1), default=256, show_default=True, help="Training samples that calibrate int8."
)
@options.store
@options.storage
@options.data_file
@options.common
def export(**given: Any) -> None:
    """Write MODEL, a file of `ttq train` or `ttq compress --out`, in the form that a device or a runtime takes.

    With --trial, MODEL is a study's name, and the model is the trial's. A file never makes this program import code:
    --task names the module of a task of your own.

    packed: ternary weights as packed codes. onnx: float weights. onnx-int2: ternary weights as two-bit codes, exactly.
    onnx-int8: weights and activations in eight bits, calibrated on training data. c: a folder with
    self-contained C99. c-int8: C99 without floating point, for processors that have none, calibrated on training data,
    with a test program. mlflow: a folder that mlflow.pyfunc.load_model reads.
    """
    from ttq_plugin.commands.export import export as command

    command(**given)


@click.command()
@options.model
@click.option(
    "--batch", "batches", type=click.IntRange(1), multiple=True, default=(1, 32), show_default=True,
    help="Samples a call; repeatable.",
)  # fmt: skip
@click.option("--seconds", type=float, default=4.0, show_default=True, help="Of calls of each form and batch, about.")
@click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Of every form.")
@click.option("--plot", type=click.Path(path_type=Path), help="Write the picture here (PNG).")
@click.option("--out", type=click.Path(path_type=Path), help="Write the numbers here (JSON).")
@options.data_file
@options.store
@options.storage
@options.common
def bench(**given: Any) -> None:
    """Measure MODEL, a file of `ttq compress --out`: time, memory, bytes and energy, beside torch and onnxruntime.

    With --trial, MODEL is a study's name, and the model is the trial's; --task names a task of your own. Forms take
    turns in blocks of calls. Data calibrate int8 and give scores. Energy needs a counter (RAPL) that may be read.
    """
    from ttq_plugin.commands.bench import bench as command

    command(**given)
