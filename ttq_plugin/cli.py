"""The command line: parse, wire, print. Everything heavy is imported inside the commands."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from ttq_plugin.commands import options
from ttq_plugin.errors import Diverged, InputError
from ttq_plugin.methods import METHODS, MIXED
from ttq_plugin.support.frames import explain, user_frame
from ttq_plugin.support.names import redact, visible
from ttq_plugin.tasks import TASKS
from ttq_plugin.trial.defaults import COMPRESSION

REPRODUCED = ("main", "ablations", "normalization", "grid", "sparsity", "beyond", "peers")
"""The tables of ``ttq reproduce``, named without importing torch."""

EXPORTS = ("packed", "onnx", "onnx-int2", "onnx-int8", "c", "c-int8", "mlflow")


class Program(click.Group):
    """The group of commands; remembers the words that were typed, for messages that repeat them."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Keep the words and parse them."""
        ctx.meta[options.WORDS] = tuple(args)
        return super().parse_args(ctx, args)


@click.group(
    cls=Program,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    epilog=f"TASK is one of {', '.join(TASKS)}; or module:attribute for a Task of your own.",
)
@click.version_option(package_name="ttq-plugin")
def cli() -> None:
    """Search, train and measure ternary compressions of a network.

    Start with `ttq search`, then `ttq ui`. TTQ_DEBUG=1 in the environment prints whole tracebacks of errors.
    """


@cli.command()
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


@cli.command()
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


@cli.command()
@options.task
@click.option("--out", type=click.Path(path_type=Path), help="Also write the weights here (.safetensors).")
@options.full_precision
@options.data
@options.common
def train(**given: Any) -> None:
    """Train the full-precision model of TASK, or take it from the cache."""
    from ttq_plugin.commands.train import train as command

    command(**given)


@cli.command()
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


@cli.command()
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


@cli.command()
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
    """Several studies' fronts in one figure: hypervolume, gains at floors of the score, tests; a run in MLflow."""
    from ttq_plugin.commands.compare import compare as command

    command(**given)


@cli.command()
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


@cli.command()
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


@cli.command()
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


@cli.command()
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


@cli.command()
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


@cli.command()
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


def main() -> None:
    """The console script: 0, 1 for what failed, 2 for what cannot be done as asked, 130 after Ctrl-C."""
    try:
        code = cli(standalone_mode=False)
    except SystemExit as error:
        if isinstance(error.code, str):
            _debug(error)
            click.echo(_shown(error.code), err=True)
        code = 1 if isinstance(error.code, str) else error.code
    except (Exception, KeyboardInterrupt) as error:
        _debug(error)
        code = _told(error)
    sys.exit(code)


def _told(error: BaseException) -> int:
    """Print what went wrong, in one sentence where that is enough; returns the exit code."""
    match error:
        case click.UsageError():
            error.message = _shown(error.message)
            error.show()
            return 2
        case InputError():
            click.echo(f"Error: {_shown(str(error))}", err=True)
            return 2
        case Diverged():
            click.echo(f"Error: {_shown(str(error))}; try smaller learning rates.", err=True)
        case click.Abort() | KeyboardInterrupt():
            click.echo("Interrupted.", err=True)
            return 130
        case _ if user_frame(error) is not None:  # of the user's own code their line, not fifty of ours
            click.echo(_shown(f"Error: {explain(error)}."), err=True)
        case OSError():
            where = f" ({str(error.filename)[:300]})" if error.filename else ""
            click.echo(f"Error: {_shown(f'{error.strerror or error}{where}')}.", err=True)
        case _ if not _debugging():  # a fault of this package is told in full
            click.echo(_shown("".join(traceback.format_exception(error))), err=True)
    return 1


def _debug(error: BaseException) -> None:
    """Print the whole traceback where TTQ_DEBUG asks for it, with the errors that led to this one."""
    if not _debugging():
        return
    earlier: BaseException | None = error
    while earlier is not None and earlier.__suppress_context__:  # each is looked at once: it is cleared here
        earlier.__suppress_context__ = False
        earlier = earlier.__cause__ or earlier.__context__
    click.echo(_shown("".join(traceback.format_exception(error))), err=True)


def _debugging() -> bool:
    return os.environ.get("TTQ_DEBUG", "") not in {"", "0"}


def _shown(text: str) -> str:
    """A message fit for a terminal: control characters are written instead of obeyed, secrets of URLs hidden."""
    return visible(redact(text))


if __name__ == "__main__":
    main()
