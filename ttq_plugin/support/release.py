"""Identifies the code version, because trials of a study are comparable only if the same code ran them."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib import metadata
from pathlib import Path

_SOURCES = {".py", ".c", ".h"}


@cache
def release() -> str:
    """The version, and a digest of the package's sources: between releases, a checkout keeps its version number.

    Returns:
        Such as 0.1.0+5f1b222ac0de, the same on every machine that has the same sources.
    """
    package = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for path in sorted(path for path in package.rglob("*") if path.suffix in _SOURCES):
        digest.update(path.relative_to(package).as_posix().encode() + b"\0")
        digest.update(path.read_bytes().replace(b"\r\n", b"\n") + b"\0")
    try:
        version = metadata.version("ttq-plugin")
    except metadata.PackageNotFoundError:  # run from its folder, not installed
        version = "0"
    return f"{version}+{digest.hexdigest()[:12]}"
