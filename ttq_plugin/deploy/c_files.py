"""The C files of one export, which no compiler takes together with those of another."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from ttq_plugin.support.files import write_together


def write_c(folder: Path, name: str, texts: Mapping[str, str]) -> None:
    """Write C files that belong together.

    The files take their places one after the other, so that a process that is killed in between leaves new files beside
    old ones. The header therefore defines ``NAME_EXPORT``, a digest of all the files, and the others compare it with
    theirs when they are compiled.

    Args:
        folder: Where to; made if needed.
        name: Of the header, and what the names in it begin with.
        texts: What is to be in each file, by the file's name. The header begins with the usual guard ``NAME_H``, and
            the others include it.

    Raises:
        InputError: If one cannot be written; all older files of these names are then what they were.
    """  # noqa: DOC502 - raised by what it calls
    macro, guard, include = f"{name.upper()}_EXPORT", f"#define {name.upper()}_H\n", f'#include "{name}.h"\n'
    digest = hashlib.sha256("\0".join(texts[file] for file in sorted(texts)).encode()).hexdigest()[:8]
    define = f"\n/* The files of one export belong together. */\n#define {macro} 0x{digest}u\n"
    fault = f'#error "{name}.h is of another export than this file; export all files again"'
    check = f"#if {macro} != 0x{digest}u\n{fault}\n#endif\n"
    sealed = {
        folder / file: text.replace(guard, guard + define, 1).replace(include, include + check, 1)
        for file, text in texts.items()
    }
    write_together(sealed)
