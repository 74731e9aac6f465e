"""Commands and links that are printed for the user: a command is complete and can be pasted into a shell."""

from __future__ import annotations

import os
from collections.abc import Sequence

import click

from ttq_plugin.commands.options import STORE, WORDS
from ttq_plugin.support.names import redact, shell


def store_words(store: str) -> list[str]:
    """The option that names the store, where a command would not find it by itself; without a password."""
    return [] if store == os.environ.get("TTQ_STORE", STORE) else ["--store", redact(store)]


def storage_words(storage: str | None, default: str | None = None) -> list[str]:
    """The option that names the study's database, likewise.

    Args:
        storage: The database's URL; None for the one that the command takes by itself.
        default: The URL that commands take where TTQ_STORAGE names none.

    Returns:
        The words of the option, or none.
    """
    own = os.environ.get("TTQ_STORAGE") or default
    return [] if storage is None or storage == own else ["--storage", redact(storage)]


def command(name: str, arguments: Sequence[str], options: Sequence[str] = ()) -> str:
    """A command as a shell reads it.

    Args:
        name: The command's name, such as "report".
        arguments: What it is given; they may begin with a dash.
        options: Its options.

    Returns:
        One line.
    """
    if any(word.startswith("-") for word in arguments):
        return shell(["ttq", name, *options, "--", *arguments])
    return shell(["ttq", name, *arguments, *options])


def running() -> list[str]:
    """The words of the command that runs now, without passwords; only its name where it was not typed."""
    context = click.get_current_context(silent=True)
    return ["ttq", *map(redact, context.meta.get(WORDS, ()))] if context else ["ttq"]


def to_see(store: str, link: str, study: str | None = None) -> list[str]:
    """Where something in MLflow is seen.

    Args:
        store: The store, as the user gave it.
        link: The address; of a local store, what follows the address that `ttq ui` prints.
        study: The study that `ttq ui` opens; None for none in particular.

    Returns:
        Lines: of a server its address, of a local store the command that shows it and the address that it then has.
    """
    if "://" in link and "://" in store:
        return [link]
    options = [*store_words(store), *(["--study", study] if study is not None else [])]
    return [command("ui", (), options), link if "://" in link else f"http://127.0.0.1:5000/{link}"]


def see(store: str, link: str, study: str | None = None) -> list[str]:
    """What a command prints at its end; the arguments are those of ``to_see``."""
    heads = ("MLflow:  ", "         ")
    return [head + line for head, line in zip(heads, to_see(store, link, study), strict=False)]
