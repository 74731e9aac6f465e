"""The command line ``ttq``. Heavy packages are imported inside the commands."""

from __future__ import annotations

import os
import re
import sys
import traceback

import click

from ttq_plugin.commands import options
from ttq_plugin.commands.wiring import devices, models, searching
from ttq_plugin.errors import Diverged, InputError
from ttq_plugin.support import processes
from ttq_plugin.support.frames import explain, user_frame
from ttq_plugin.support.names import line, redact, visible
from ttq_plugin.tasks import TASKS


class Commands(click.Group):
    """The group of commands, which keeps the arguments as typed, for messages that repeat them."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Keep the arguments, check that they are text (a script can pass what no shell can), and parse them."""
        if bad := [word for word in args if "\0" in word or re.search("[\ud800-\udc7f\udd00-\udfff]", word)]:
            raise click.UsageError(f"an argument must be text without NUL characters, got {bad[0]!r}.", ctx)
        ctx.meta[options.WORDS] = tuple(args)
        return super().parse_args(ctx, args)


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    epilog=f"TASK is {', '.join(TASKS)}, or module:attribute for a Task of your own.",
)
@click.version_option(package_name="ttq-plugin")
def cli() -> None:
    """Search, train and measure ternary compressions of neural networks.

    Start with `ttq search`, then look at the result with `ttq ui`. Set TTQ_DEBUG=1 in the environment to see the full
    traceback of an error.
    """


for command in (
    *(searching.search, searching.worker, searching.compare, searching.report, searching.ui),
    *(models.train, models.sensitivity, models.compress, models.reproduce),
    *(devices.fit, devices.export, devices.bench),
):
    cli.add_command(command)


def main() -> None:
    """Run the command line; exits with 0, 1 after a failure, 2 if the request is invalid, or 130 after Ctrl-C."""
    processes.own_process()
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
    """Print what went wrong, in one sentence if possible, and return the exit code."""
    match error:
        case click.UsageError():
            vars(error)["message"] = _sentence(error.message)  # which click declares to be final
            error.show()
            return 2
        case InputError():
            click.echo(f"Error: {_sentence(str(error))}", err=True)
            return 2
        case Diverged():
            click.echo(f"Error: {_sentence(str(error))}; try smaller learning rates.", err=True)
        case click.Abort() | KeyboardInterrupt():
            click.echo("Interrupted.", err=True)
            return 130
        case _ if user_frame(error) is not None:  # show the user's own line, not fifty of ours
            click.echo(_sentence(f"Error: {explain(error)}."), err=True)
        case OSError():
            where = f" ({str(error.filename)[:300]})" if error.filename else ""
            click.echo(f"Error: {_sentence(f'{error.strerror or error}{where}')}.", err=True)
        case _ if not _debugging():  # a bug in this package is shown in full
            click.echo(_shown("".join(traceback.format_exception(error))), err=True)
    return 1


def _debug(error: BaseException) -> None:
    """Print the whole traceback, including the errors that led to this one, if TTQ_DEBUG is set."""
    if not _debugging():
        return
    earlier: BaseException | None = error
    while earlier is not None and earlier.__suppress_context__:  # each is visited once, because it is cleared here
        earlier.__suppress_context__ = False
        earlier = earlier.__cause__ or earlier.__context__
    click.echo(_shown("".join(traceback.format_exception(error))), err=True)


def _sentence(text: str) -> str:
    """Make a message one line, whatever the names in it contain."""
    return line(redact(text))


def _debugging() -> bool:
    return os.environ.get("TTQ_DEBUG", "") not in {"", "0"}


def _shown(text: str) -> str:
    """Make a message safe for a terminal: control characters are escaped, and passwords in URLs are hidden."""
    return visible(redact(text))


if __name__ == "__main__":
    main()
