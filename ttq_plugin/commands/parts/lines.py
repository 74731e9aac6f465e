"""Commands and links that are printed for the user; commands are complete and can be pasted into a shell."""

from __future__ import annotations

import os
from collections.abc import Sequence

import click

from ttq_plugin.commands.options import STORE, WORDS
from ttq_plugin.support.names import redact, shell


def store_words(store: str) -> list[str]:
    """The option that names the store, without a password, if a command would not find the store by itself."""
    return [] if store == os.environ.get("TTQ_STORE", STORE) else ["--store", redact(store)]


def storage_words(storage: str | None, default: str | None = None) -> list[str]:
    """The option that names the study's database, without a password, if a command would not find it by itself.

    Args:
        storage: The database's URL; None for the command's default.
        default: The URL that commands use if TTQ_STORAGE is not set.

    Returns:
        The option and its value, or an empty list.
    """
    own = os.environ.get("TTQ_STORAGE") or default
    return [] if storage is None or storage == own else ["--storage", redact(storage)]


def command(name: str, arguments: Sequence[str], options: Sequence[str] = ()) -> str:
    """Quote a command for a shell.

    Args:
        name: The command's name, such as "report".
        arguments: Its arguments, which may begin with a dash.
        options: Its options.

    Returns:
        One line.
    """
    if any(word.startswith("-") for word in arguments):
        return shell(["ttq", name, *options, "--", *arguments])
    return shell(["ttq", name, *arguments, *options])


def running() -> list[str]:
    """The arguments of the running command, without passwords; only its name if it was not typed in a shell."""
    context = click.get_current_context(silent=True)
    return ["ttq", *map(redact, context.meta.get(WORDS, ()))] if context else ["ttq"]


def to_see(store: str, link: str, study: str | None = None) -> list[str]:
    """Tell the user how to see something in MLflow.

    Args:
        store: The store, as the user gave it.
        link: The address; for a local store, the part that follows the address that `ttq ui` prints.
        study: The study that `ttq ui` opens; None for none in particular.

    Returns:
        Lines of text: the address on a server, or, for a local store, the command that shows it and the resulting
        address.
    """
    if "://" in link and "://" in store:
        return [link]
    options = [*store_words(store), *(["--study", study] if study is not None else [])]
    return [command("ui", (), options), link if "://" in link else f"http://127.0.0.1:5000/{link}"]


def see(store: str, link: str, study: str | None = None) -> list[str]:
    """Print the lines of ``to_see`` at the end of a command."""
    heads = ("MLflow:  ", "         ")
    return [head + line for head, line in zip(heads, to_see(store, link, study), strict=False)]
