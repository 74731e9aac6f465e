"""Commands that are printed for the user to paste into a shell."""

from __future__ import annotations

from ttq_plugin.commands.options import STORE
from ttq_plugin.support.names import redact, shell


def store_words(store: str) -> list[str]:
    """The option that names the store, where it is not the default; without a password."""
    return [] if store == STORE else ["--store", redact(store)]


def to_see(store: str, link: str, study: str | None = None) -> list[str]:
    """Where something in MLflow is seen.

    Args:
        store: as the user gave it.
        link: the address; of a local store, what follows the address that `ttq ui` prints.
        study: the study that `ttq ui` opens; None for none in particular.

    Returns:
        Lines: of a server its address, of a local store the command that shows it and the address that it then has.
    """
    if "://" in link and "://" in store:
        return [link]
    words = ["ttq", "ui", *store_words(store), *(["--study", study] if study is not None else [])]
    return [shell(words), link if "://" in link else f"http://127.0.0.1:5000/{link}"]
