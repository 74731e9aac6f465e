"""Encodes names chosen by users for each place where they appear, so that a name is data there, never syntax.

A study, a file, a layer or a task may be called anything. Whoever puts such a name into a path, a shell command, a
metric's name, HTML, Markdown, a picture, C code or a terminal uses the function here that is made for that place, and
nothing else. Different names stay different everywhere.
"""

from __future__ import annotations

import hashlib
import html
import json
import re
import shlex
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, unquote_to_bytes

from ttq_plugin.errors import InputError

if TYPE_CHECKING:
    from torch import nn

LONGEST_FILE_NAME = 160
"""Bytes; file systems take 255, and an ending, a lock's or a temporary file's, comes behind."""

LONGEST_KEY = 200
"""Characters; MLflow takes 250, and a prefix comes before."""

LONGEST_NAME = 200
"""Characters of a study's name; databases and MLflow take a few more."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Terminal control characters, characters that change the writing direction, and non-characters."""

C_HEADERS = frozenset(
    "assert complex ctype errno fenv float inttypes iso646 limits locale math setjmp signal stdalign stdarg stdatomic "
    "stdbool stddef stdint stdio stdlib stdnoreturn string tgmath threads time uchar wchar wctype".split()
)
"""Names of the standard C headers, which a header of the same name next to the source would hide."""

_C_KEYWORDS = frozenset(
    "auto break case char const continue default do double else enum extern float for goto if inline int long register "
    "restrict return short signed sizeof static struct switch typedef union unsigned void volatile while asm bool "
    "catch class delete explicit export false friend mutable namespace new operator private protected public template "
    "this throw true try typeid typename using virtual main".split()
)
"""Keywords of C and C++, and the function that begins a program."""

_PASSWORD = re.compile(".*password|passwd|pwd", re.IGNORECASE)
_SECRET = re.compile(".*(pass|pwd|secret|token|auth|credential|sig)|(.*[-_]|api)?(key|code)$", re.IGNORECASE)
_VALUE = re.compile(r"(^|[?&;#\s])([^?=&;#\s]+)=(?:'(?:[^'\\]|\\.)*'|[^&\s]*)")
_SPACED = re.compile(r"([?&#])([^?=&;#\s]+)=[^&]*")
_USER = re.compile(r"([A-Za-z][\w+.-]*:/+)([^\s:/@]*)(:?)(\S*)@")
_TOKEN = re.compile(r"(https?:/+)[^\s:/@?#]+@", re.IGNORECASE)


def check_name(what: str, name: str) -> None:
    """Refuse a new name that cannot be shown in a line or kept in a database.

    Args:
        what: What it names, for the error.
        name: The name.

    Raises:
        InputError: If it is empty, too long, or has control characters or bytes that are no text.
    """
    if not isinstance(name, str) or not name.strip() or len(name) > LONGEST_NAME or _CONTROL.search(name):
        raise InputError(
            f"{what} must have 1 to {LONGEST_NAME} characters, none of them a control character, got "
            f"{ascii(name)[:LONGEST_NAME]}; choose another name."
        )


def file_name(name: str, longest: int = LONGEST_FILE_NAME) -> str:
    """A name as one part of a path: letters, digits and ``_-~.`` as they are, other bytes as ``%`` and two digits.

    Args:
        name: Any text.
        longest: Bytes of what is returned, at most; 40 or more.

    Returns:
        Never empty, ``.``, ``..``, hidden, or with a separator, and not too long: a longer one keeps its beginning and
        gets a digest. ``name_of_file`` gives the name back, unless it was too long.
    """
    text = quote(name, safe="", errors="surrogatepass") or "%"
    if text.startswith("."):
        text = f"%2E{text[1:]}"
    if len(text) <= longest:
        return text
    kept = re.sub(r"%.?$", "", text[: longest - 34])  # no half of an encoded byte
    return f"{kept}%.{_digest(name)}"


def name_of_file(text: str) -> str | None:
    """The name that ``file_name`` encoded.

    Args:
        text: One part of a path, without the ending.

    Returns:
        The name; None if it was too long to be kept, or was not made by ``file_name``.
    """
    if text == "%":
        return ""
    try:
        name = unquote_to_bytes(text).decode(errors="surrogatepass")
    except ValueError:
        return None
    return name if file_name(name) == text else None


def shell(words: Iterable[str]) -> str:
    """Words as a line that a shell reads back as those words; control characters are written, not sent."""
    return " ".join(_ansi_quoted(word) if _CONTROL.search(word) else shlex.quote(word) for word in words)


def with_options(words: Sequence[str], *options: str) -> list[str]:
    """The words of a command with more options, which go before a ``--`` that ends the options."""
    end = words.index("--") if "--" in words else len(words)
    return [*words[:end], *options, *words[end:]]


def metric_key(name: str) -> str:
    """A name as a part of a metric's, parameter's or tag's name in MLflow, which takes few characters.

    Args:
        name: Any text.

    Returns:
        Letters, digits and ``_-. `` as they are, others as their code between colons; at most ``LONGEST_KEY``
        characters: a longer one keeps its beginning and gets a digest.
    """
    text = re.sub(r"[^\w. -]", lambda found: f":{ord(found[0]):x}:", name) or "::"
    if text[0] in ". ":  # a folder's own names, in stores that keep a file a metric
        text = f":{ord(text[0]):x}:{text[1:]}"
    if len(text) <= LONGEST_KEY:
        return text
    return f"{text[: LONGEST_KEY - 34]}::{_digest(name)}"


def in_html(name: str) -> str:
    """A name as plain words within HTML, also within an attribute's quotes."""
    return html.escape(line(name))


def in_markdown(name: str) -> str:
    """A name as plain words within Markdown: what could be markup there is written as HTML's numbers."""
    text = line(name)

    def written(found: re.Match[str]) -> str:
        sign, before, behind = found[0], text[: found.start()], text[found.end() :][:1]
        inside = re.search(r"[^\d ]", before)  # else it could begin a list, a heading or a rule
        ends = sign in ".:" and behind in {"", " "} or sign == "." and (before[-1:] + behind).isdecimal()
        return sign if inside and (sign in ",;%/=>()+-'\"" or ends) else f"&#{ord(sign)};"

    return re.sub(r"[^\w ]|_|^ ", written, text)


def in_script(value: Any) -> str:
    """A value as JSON within a script element of HTML, which no name in it can end."""
    return json.dumps(value, allow_nan=False).replace("<", "\\u003c")


def markdown_list(lines: Iterable[str]) -> str:
    """Sentences, in which names may stand, as a list in Markdown; empty for none."""
    return "\n".join(f"- {in_markdown(each)}" for each in lines)


def in_picture(name: str) -> str:
    """A name as plain words in a picture: between dollars, Matplotlib expects formulas."""
    return line(name).replace("$", r"\$")


def in_comment(name: str) -> str:
    """A name in a C comment of one line, which it neither ends nor opens."""
    return " ".join(line(name).replace("*/", "* /").replace("/*", "/ *").split())


def c_identifier(name: str) -> str:
    """A name as a C identifier that is no keyword and no standard header.

    Args:
        name: Any text.

    Returns:
        The name itself where it is one already, else its letters and digits and a digest.
    """
    fits = re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,30}", name) and name.lower() not in C_HEADERS | _C_KEYWORDS
    if fits and not re.search(r"_[0-9a-f]{12}$", name):
        return name
    kept = re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_")[:16]
    return f"{kept if kept[:1].isalpha() else f'n{kept}'}_{_digest(name)[:12]}"


def check_c_name(name: str) -> None:
    """Refuse a name of C files and functions that is not a C identifier, or that hides a standard header.

    Args:
        name: The name that the user gave.

    Raises:
        InputError: If it is no C identifier, or the name of a header of C itself.
    """
    other = f"{c_identifier(name)} is possible"
    if name.lower() in C_HEADERS:  # not every file system tells upper from lower case
        raise InputError(f"the name of C files must not be that of a standard C header, got {name!r}; {other}.")
    if name != c_identifier(name):
        raise InputError(f"the name of C files must be a C identifier, got {name!r}; {other}.")


def visible(text: str) -> str:
    """A text as a terminal may get it: control characters but line breaks are written in Python's way."""
    return re.sub(_CONTROL, lambda found: found[0] if found[0] in "\n\t" else ascii(found[0])[1:-1], text)


def line(text: str) -> str:
    """A text as one line: control characters, line breaks among them, are written in Python's way."""
    return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)


def redact(text: str) -> str:
    """A text without the passwords and tokens in its URLs.

    Args:
        text: A URL, or a message with URLs in it.

    Returns:
        The same with ``***`` in place of each secret. In doubt, more is hidden rather than less.
    """
    if re.match(r"[A-Za-z][\w+.-]*://", text):  # a URL alone, or first: what is secret in its query may have spaces
        text = _SPACED.sub(_without_value, text)
    if re.fullmatch(r"[A-Za-z][\w+.-]*://[^/@]*:[^@]*@[^@\s]*", text):  # likewise a password before the host
        scheme, _, rest = text.partition("://")
        text = f"{scheme}://{rest.partition(':')[0]}:***@{rest.rpartition('@')[2]}"
    text = _TOKEN.sub(r"\1***@", text)
    text = _USER.sub(lambda found: found[0] if not found[3] else f"{found[1]}{found[2]}:***@", text)
    return _VALUE.sub(_without_value, text)


def without(text: str, secret: str | None) -> str:
    """A text in which a known secret is hidden, both plain and URL-encoded."""
    for form in sorted({secret, unquote(secret), quote(secret, safe="")} if secret else (), key=len, reverse=True):
        text = text.replace(form, "***")
    return text


def _without_value(found: re.Match[str]) -> str:
    """A setting without its value if that is secret: in a URL's query by many names, elsewhere by a password's only."""
    pattern = _SECRET if found[1] and found[1] in "?&;#" else _PASSWORD
    inner = unquote(found[0][len(found[1]) + len(found[2]) + 1 :])  # settings within one, as ODBC's connections are
    secret = pattern.match(unquote(found[2])) or ("=" in inner and _VALUE.sub(_without_value, inner) != inner)
    return f"{found[1]}{found[2]}=***" if secret else found[0]


def _ansi_quoted(word: str) -> str:
    """Quote bytes in Bash's notation, so that file names that are not text stay intact."""
    try:
        raw = word.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        raw = word.encode(errors="surrogatepass")
    return "$'" + "".join(chr(b) if 32 <= b < 127 and chr(b) not in "\\'" else f"\\x{b:02x}" for b in raw) + "'"


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:32]


def check_module_names(model: nn.Module) -> None:
    """Refuse a model whose parts have names that state dicts, files or exported graphs cannot keep.

    Args:
        model: Any module; ``setattr`` takes every text for a submodule's name, also those that ``add_module`` refuses.

    Raises:
        InputError: For an empty name, or one with a dot, a quote, a backslash or a control character.
    """
    for path, module in model.named_modules():
        for name in (*module._modules, *module._parameters, *module._buffers):
            if not name or re.search(r"[.\"\\]", name) or line(name) != name:
                raise InputError(
                    "the name of a module's part must not be empty, nor hold a dot, a quote, a backslash or a control "
                    f"character, which files and graphs cannot store, got {ascii(name)} in "
                    f"{path or type(model).__name__}; rename it."
                )
