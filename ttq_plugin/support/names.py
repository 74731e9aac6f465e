"""Names that users choose, encoded for each place they appear in: a name is data there, never syntax.

A study, a file, a layer or a task may be called anything. Whoever puts such a name into a path, a shell command, a
metric's name, Markdown, a picture, C code or a terminal uses the function here that is made for that place. HTML has
``html.escape`` of the standard library. Different names stay different everywhere.
"""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Iterable, Sequence
from urllib.parse import quote, unquote, unquote_to_bytes

from ttq_plugin.errors import InputError

LONGEST_FILE_NAME = 160
"""Bytes; file systems take 255, and an ending, a lock's or a temporary file's, comes behind."""

LONGEST_KEY = 200
"""Characters; MLflow takes 250, and a prefix comes before."""

LONGEST_NAME = 200
"""Characters of a study's name; databases and MLflow take a few more."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""What a terminal obeys, what turns the writing direction, and what is no character."""

C_HEADERS = frozenset(
    "assert complex ctype errno fenv float inttypes iso646 limits locale math setjmp signal stdalign stdarg stdatomic "
    "stdbool stddef stdint stdio stdlib stdnoreturn string tgmath threads time uchar wchar wctype".split()
)
"""Of C's own: a header of that name beside the source would hide it."""

_C_KEYWORDS = frozenset(
    "auto break case char const continue default do double else enum extern float for goto if inline int long register "
    "restrict return short signed sizeof static struct switch typedef union unsigned void volatile while asm bool "
    "catch class delete explicit export false friend mutable namespace new operator private protected public template "
    "this throw true try typeid typename using virtual main".split()
)
"""Of C and C++, and the function that begins a program."""

_SECRET = r"(?:pass|pwd|secret|token|api_?key|auth|credential|sig)"
_VALUE = re.compile(rf"((?:^|[?&;\s])[^=&;\s]*{_SECRET}[^=&;\s]*=)[^&\s]*", re.IGNORECASE)
_USER = re.compile(r"([A-Za-z][\w+.-]*:/+)([^\s:/@]*)(:?)(\S*)@")
_TOKEN = re.compile(r"(https?:/+)[^\s:/@?#]+@", re.IGNORECASE)


def check_name(what: str, name: str) -> None:
    """Refuse a new name that cannot be shown in a line or kept in a database.

    Args:
        what: what it names, for the error.
        name: the name.

    Raises:
        InputError: if it is empty, too long, or has control characters or bytes that are no text.
    """
    if not isinstance(name, str) or not name.strip() or len(name) > LONGEST_NAME or _CONTROL.search(name):
        raise InputError(
            f"{what} must have 1 to {LONGEST_NAME} characters, none of them a control character, got "
            f"{ascii(name)[:LONGEST_NAME]}; choose another name."
        )


def file_name(name: str) -> str:
    """A name as one part of a path: letters, digits and ``_-~.`` as they are, other bytes as ``%`` and two digits.

    Args:
        name: any text.

    Returns:
        Never empty, ``.``, ``..``, hidden, or with a separator, and of at most ``LONGEST_FILE_NAME`` bytes: a longer
        one keeps its beginning and gets a digest. ``name_of_file`` gives the name back, unless it was too long.
    """
    text = quote(name, safe="", errors="surrogatepass") or "%"
    if text.startswith("."):
        text = f"%2E{text[1:]}"
    if len(text) <= LONGEST_FILE_NAME:
        return text
    kept = re.sub(r"%.?$", "", text[: LONGEST_FILE_NAME - 34])  # no half of an encoded byte
    return f"{kept}%.{_digest(name)}"


def name_of_file(text: str) -> str | None:
    """The name that ``file_name`` encoded.

    Args:
        text: one part of a path, without the ending.

    Returns:
        The name; None if it was too long to be kept, or is none that ``file_name`` gives.
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
        name: any text.

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


def in_markdown(name: str) -> str:
    """A name as plain words within Markdown: what could be markup there is written as HTML's numbers."""

    def written(found: re.Match[str]) -> str:
        return found[0] if found["plain"] else f"&#{ord(found[0])};"

    return re.sub(r"(?P<plain>(?<=\w)-(?=\w)|(?<=\d)\.(?=\d))|[^\w ]|_|^ ", written, _line(name))


def in_picture(name: str) -> str:
    """A name as plain words in a picture: between dollars, Matplotlib expects formulas."""
    return _line(name).replace("$", r"\$")


def c_identifier(name: str) -> str:
    """A name as a C identifier that is no keyword and no standard header.

    Args:
        name: any text.

    Returns:
        The name itself where it is one already, else its letters and digits and a digest.
    """
    fits = re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,30}", name) and name.lower() not in C_HEADERS | _C_KEYWORDS
    if fits and not re.search(r"_[0-9a-f]{12}$", name):
        return name
    kept = re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_")[:16]
    return f"{kept if kept[:1].isalpha() else f'n{kept}'}_{_digest(name)[:12]}"


def visible(text: str) -> str:
    """A text as a terminal may get it: control characters but line breaks are written in Python's way."""
    return re.sub(_CONTROL, lambda found: found[0] if found[0] in "\n\t" else ascii(found[0])[1:-1], text)


def redact(text: str) -> str:
    """A text without the passwords and tokens in its URLs.

    Args:
        text: a URL, or a message with URLs in it.

    Returns:
        The same with ``***`` in place of each secret. Rather too much is hidden than too little.
    """
    if re.fullmatch(r"[A-Za-z][\w+.-]*://[^/@]*:[^@]*@[^@\s]*", text):  # a URL alone: its password may have spaces
        scheme, _, rest = text.partition("://")
        text = f"{scheme}://{rest.partition(':')[0]}:***@{rest.rpartition('@')[2]}"
    text = _TOKEN.sub(r"\1***@", text)
    text = _USER.sub(lambda found: found[0] if not found[3] else f"{found[1]}{found[2]}:***@", text)
    return _VALUE.sub(r"\1***", text)


def without(text: str, secret: str | None) -> str:
    """A text in which a known secret is hidden, as it is and as it stands in a URL."""
    for form in sorted({secret, unquote(secret), quote(secret, safe="")} if secret else (), key=len, reverse=True):
        text = text.replace(form, "***")
    return text


def _line(name: str) -> str:
    return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], name)


def _ansi_quoted(word: str) -> str:
    """In Bash's notation for bytes; those of a file name that are no text come back as they were."""
    try:
        raw = word.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        raw = word.encode(errors="surrogatepass")
    return "$'" + "".join(chr(b) if 32 <= b < 127 and chr(b) not in "\\'" else f"\\x{b:02x}" for b in raw) + "'"


def _digest(name: str) -> str:
    return hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:32]
