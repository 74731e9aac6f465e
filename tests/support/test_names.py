"""Names that users choose stay data, and stay different, in every place they are put into."""

from __future__ import annotations

import html
import posixpath
import re
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path, PurePosixPath

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from matplotlib.cbook import is_math_text
from mlflow.utils.validation import _validate_metric_name, _validate_tag_name

from ttq_plugin import InputError
from ttq_plugin.search.space.defaults import default_text
from ttq_plugin.support.names import (
    LONGEST_FILE_NAME,
    c_identifier,
    check_name,
    file_name,
    in_markdown,
    in_picture,
    metric_key,
    name_of_file,
    redact,
    shell,
    visible,
    without,
)
from ttq_plugin.tasks import get_task

HOSTILE = (
    *("", ".", "..", "../../x", "/abs", "x/../s", "x/y", "x_y", "x:y", "-rf", "~", "a b", " a", "%", "%2F", "%.", "::"),
    *("[bold]x", "[/]", ":smile:", "$(reboot)", "`id`", "a'b", 'a"b', "a\\", "*", "a;b", "a\nb", "\x1b[2J", "\udcff"),
    *(
        "<script>",
        "&lt;",
        "*/",
        "??/",
        "$x_$",
        "\\$",
        "_x",
        "math",
        "all",
        "int",
        "| a |",
        "1. a",
        "www.a.com",
        "é" * 99,
    ),
    *("a" * 500, "a" * 501, "/" * 300, "n\u202eg", "x\x00y", "x" * 165 + "/", "a/.", "..a", ":2f:", ":", "CON"),
)
anything = st.one_of(
    st.sampled_from(HOSTILE),
    st.text(st.characters(codec=None), max_size=80),
    st.text("./_:%$[]<>&'\" \\-a", max_size=8),
    st.text("./a%", min_size=140, max_size=200),
)


patiently = settings(deadline=None)


def each_hostile_one(test):
    for name in HOSTILE:
        test = example(name)(test)
    return patiently(test)


def test_hostile_names_stay_different_everywhere():
    for encode in (file_name, metric_key, c_identifier, in_markdown, lambda name: shell([name])):
        assert len({encode(name) for name in HOSTILE}) == len(HOSTILE)


@patiently
@given(anything, anything)
def test_two_names_never_become_one(one, other):
    if one != other:
        for encode in (file_name, metric_key, c_identifier):
            assert encode(one) != encode(other)


@each_hostile_one
@given(anything)
def test_a_file_name_is_one_part_of_a_path(name):
    text = file_name(name)
    assert re.fullmatch(r"[A-Za-z0-9_~%-][A-Za-z0-9_~%.-]*", text) and 1 <= len(text) <= LONGEST_FILE_NAME
    assert PurePosixPath("/store", text).parts == ("/", "store", text)
    assert name_of_file(text) == (name if "%." not in text else None)
    assert file_name(name) == text


@patiently
@given(st.text("ab%./2F\udcff", max_size=6))
def test_only_encoded_names_are_decoded(text):
    name = name_of_file(text)
    assert name is None or file_name(name) == text


def test_plain_names_are_kept():
    for name in ("mnist-cnn-20260101-120000", "small", "x_y", "a.b~confirm"):
        assert file_name(name) == name
    for name in ("encoder.0.linear1", "mnist-cnn bench", "x_y"):
        assert metric_key(name) == name
    assert c_identifier("watch_net") == "watch_net"


def test_a_shell_reads_the_words_back():
    """A real one: dangerous names, control characters and bytes that are no text."""
    words = [name for name in HOSTILE if "\x00" not in name]
    line = shell(["printf", "%s\\0", *words])
    assert not re.search(r"[\x00-\x1f\x7f]", line)
    told = subprocess.run(["bash", "-c", line], capture_output=True, check=True).stdout
    assert told == b"".join(word.encode(errors="surrogateescape") + b"\0" for word in words)


@each_hostile_one
@given(anything)
def test_mlflow_takes_the_key(name):
    key = metric_key(name)
    for whole in (key, f"hypervolume/{key}", f"method.{key}"):
        _validate_metric_name(whole)
        _validate_tag_name(whole)
        assert posixpath.normpath(whole) == whole and len(whole) <= 250


class Words(HTMLParser):
    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.tags, self.words = [], ""

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        self.words += data


@each_hostile_one
@given(anything)
def test_markdown_shows_the_name_and_nothing_else(name):
    reader = MarkdownIt("gfm-like", {"linkify": False})
    for text, around in ((f"{in_markdown(name)}: end", ["p"]), (f"| {in_markdown(name)}: end |\n|---|", None)):
        page = Words()
        page.feed(reader.render(text))
        assert page.tags == around or page.tags == ["table", "thead", "tr", "th"]
        assert re.sub(r"\s+", " ", page.words).strip() == re.sub(r"\s+", " ", f"{seen(name)}: end").strip()


def seen(name):
    """As Markdown shows it: control characters are written, and spaces at the ends do not count."""
    return re.sub("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]",
                  lambda found: ascii(found[0])[1:-1], name)  # fmt: skip


@each_hostile_one
@given(anything)
def test_a_picture_takes_no_name_for_a_formula(name):
    assert is_math_text(in_picture(name)) is False
    assert in_picture(name).replace(r"\$", "$") == seen(name)


@each_hostile_one
@given(anything)
def test_c_takes_the_identifier(name):
    found = c_identifier(name)
    assert re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,30}", found) and found not in {"int", "math", "class", "string"}


@patiently
@given(anything)
def test_a_terminal_obeys_nothing(name):
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", visible(name))
    assert visible(html.escape("plain é")) == "plain é"


def test_names_that_cannot_be_kept_are_refused():
    for name in ("", "  ", "a\nb", "\x1b[2J", "\udcff", "a" * 201, "n\u202eg"):
        with pytest.raises(InputError, match="the study's name must have 1 to 200 characters, none of them a control"):
            check_name("the study's name", name)
    for name in HOSTILE[2:20]:
        if name.strip():
            check_name("the study's name", name)


PASSWORDS = ("hunter2", "hun/ter2", "hun?ter2", "hun#ter2", "hun:ter2", "hunt%40er2", "h&unter2", "[hunter2]")


@pytest.mark.parametrize(
    "scheme", ["http", "https", "postgresql", "postgresql+psycopg", "mysql", "redis", "amqp", "s3"]
)
@pytest.mark.parametrize("password", PASSWORDS)
def test_passwords_in_urls_are_hidden(scheme, password):
    url = f"{scheme}://me:{password}@host.example:5432/name?option=3"
    for text in (url, f"{url} cannot be reached", f"'{url}'", f"see {url}, and {url}."):
        assert "hunt" not in redact(text) and password not in redact(text)
        assert "://me:***@host.example:5432/name?option=3" in redact(text)


def test_other_secrets_are_hidden():
    assert redact("https://ghp_token@host/x") == "https://***@host/x"
    assert redact("amqp://:hunter2@host") == "amqp://:***@host"
    assert redact("postgresql:/me:hunter2@host/name") == "postgresql:/me:***@host/name"  # as a path is written
    assert redact("postgresql://me:hun ter2@host/name") == "postgresql://me:***@host/name"
    assert "hunter2" not in redact("postgresql://host/name?sslpassword=hunter2&user=me")
    assert (
        redact("postgresql://host/name?user=me&PASSWORD=x;y&a=b") == "postgresql://host/name?user=me&PASSWORD=***&a=b"
    )
    assert (
        redact("mssql+pyodbc:///?odbc_connect=DRIVER%3Dx%3BPWD%3Dhunter2&a=b")
        == "mssql+pyodbc:///?odbc_connect=***&a=b"
    )
    assert redact("https://host/#access_token=hunter2&x=1") == "https://host/#access_token=***&x=1"
    for name in ("api-key", "API_KEY", "apikey", "key", "account-key", "code"):
        assert redact(f"see https://host/a?{name}=hunter2&keyboard=us") == f"see https://host/a?{name}=***&keyboard=us"
    assert redact("connection to password=hunter2 host=a failed") == "connection to password=*** host=a failed"


def test_what_holds_no_secret_is_kept():
    for text in (
        "sqlite:////a/b c.db",
        "http://127.0.0.1:5000/#/experiments/1",
        "postgresql://me@host/name",
        "runs/a:b",
    ):
        assert redact(text) == text


def test_a_known_secret_is_hidden_in_every_form():
    assert without("p@ss/1 p%40ss%2F1 x", "p@ss/1") == "*** *** x"
    assert without("p@ss p%40ss", "p%40ss") == "*** ***"
    assert without("text", None) == without("text", "") == "text"


def test_paths_with_encoded_names_stay_in_their_folder(tmp_path):
    for name in HOSTILE:
        path = tmp_path / f"{file_name(name)}.html"
        path.write_text(name.encode(errors="surrogatepass").hex())
        assert path.resolve().parent == tmp_path.resolve()
    assert len(list(tmp_path.iterdir())) == len(HOSTILE)
    assert {name_of_file(Path(p).stem) for p in tmp_path.iterdir()} >= {n for n in HOSTILE if len(n) < 50}


def test_a_task_has_a_name_of_one_line():
    task = get_task("mnist-cnn")
    for name in ("a\nobjectives: [x]", "", "\x1b[2J", 3, None):
        with pytest.raises(InputError, match="the name of a task must have 1 to 200 characters"):
            replace(task, name=name)
    for name in ("a: b", "../x", "é [b]"):
        text = default_text(replace(task, name=name))
        assert yaml.safe_load(text)["task"] == name and text.splitlines()[0].startswith(
            f"# The default space of {name}"
        )
