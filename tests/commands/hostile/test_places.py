"""`--out` of every command that has one: any name is written or refused in a sentence, before the work is done."""

from __future__ import annotations

import contextlib
import os
import stat
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.hostile import everything, long, names, tried, typed
from ttq_plugin import InputError
from ttq_plugin.commands.parts.places import check_place
from ttq_plugin.support.files import place_of, write_bytes

TASK = "tests.commands.own_layers:TASK"

WRITERS = {
    "train --out": ["train", TASK, "--out"],
    "compress --out": ["compress", TASK, "--out"],
    "sensitivity --out": ["sensitivity", TASK, "--out"],
    "sensitivity --plot": ["sensitivity", TASK, "--plot"],
    "fit --out": ["fit", TASK, "--flash", "64k", "--ram", "16k", "--out"],
    "export --out": ["export", "nothing.safetensors", "--to", "onnx", "--task", TASK, "--out"],
    "bench --out": ["bench", "nothing.safetensors", "--task", TASK, "--out"],
    "bench --plot": ["bench", "nothing.safetensors", "--task", TASK, "--plot"],
    "report --out": ["report", "none", "--out"],
    "compare --out": ["compare", "none", "other", "--out"],
    "reproduce --to": ["reproduce", "main", "--task", "mnist-cnn", "--to"],
}
NEVER = {  # what no command can write, whoever runs it
    "a folder": "here/folder",
    "a device": "/dev/full",
    "another device": "/dev/null",
    "below a file": "here/file/x",
    "a pipe": "here/pipe",
    "256 bytes": "here/" + 256 * "a",
    "a folder that refuses": "/proc/x",
    "below it": "/proc/x/y.bin",
    "a link to a device": "here/device",
    "a loop of links": "here/loop",
    "a folder to be": "here/new/",
    "a folder above": "here/new/..",
}
FOLDERS = {"fit --out", "export --out", "reproduce --to"}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with something of each kind in it, where no work is done."""
    here = tmp_path / "here"
    (here / "folder").mkdir(parents=True)
    (here / "file").write_text("kept")
    os.mkfifo(here / "pipe")
    (here / "device").symlink_to("/dev/null")
    (here / "loop").symlink_to("loop")
    monkeypatch.chdir(tmp_path)
    for name in ("TTQ_STORE", "TTQ_STORAGE", "TTQ_DEBUG"):
        monkeypatch.delenv(name, raising=False)

    def worked(*_, **__):
        raise AssertionError("the work was begun")

    monkeypatch.setattr("ttq_plugin.api.prepare", worked)
    monkeypatch.setattr("ttq_plugin.commands.search._run", worked)
    return tmp_path


@pytest.mark.parametrize("writer", WRITERS)
def test_what_cannot_be_written_is_refused_before_the_work(place, capfd, writer):
    before = everything(place)
    for kind, target in NEVER.items():
        if kind.startswith("a folder") and "refuses" not in kind and writer in FOLDERS:
            continue
        told = typed(capfd, *WRITERS[writer], target)
        assert told.code == 2 and ("cannot be written (" in told.err or "is a file" in told.err), (kind, told)
    assert everything(place) == before and (place / "here/file").read_text() == "kept"
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode) and stat.S_ISCHR(os.stat("/dev/full").st_mode)


@pytest.mark.parametrize("command", [["search", TASK, "--trials", "1"], ["sensitivity", TASK]])
@pytest.mark.parametrize("store", ["/proc/x", "here/file", "here/pipe", "here/loop"])
def test_a_store_that_cannot_be_written_is_refused_before_the_work(place, capfd, command, store):
    before = everything(place)
    told = typed(capfd, *command, "--store", store)
    assert told.code == 2 and "cannot be written (" in told.err, told
    assert everything(place) == before


def test_nothing_that_is_no_file_is_replaced(place):
    for name in ("pipe", "device", "folder", "loop"):
        with pytest.raises(InputError, match=r"cannot be written \((it is|Too many levels)"):
            write_bytes(place / "here" / name, b"x")
    for path in ("a\0b", "/dev/null"):
        with pytest.raises(InputError, match="cannot be written"):
            place_of(place / path)
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode) and (place / "here/device").is_symlink()


def test_a_link_stays_and_what_it_points_to_is_written(place):
    (place / "link").symlink_to("here/file")
    (place / "dangling").symlink_to("new/file")
    for name in ("link", "dangling"):
        check_place(place / name)
        write_bytes(place / name, b"new")
        assert (place / name).is_symlink() and (place / name).read_bytes() == b"new"
    assert (place / "here/file").read_bytes() == b"new"


file_names = st.one_of(
    names.filter(lambda name: "/" not in name), st.just(255 * "a"), st.just(85 * "名"), st.just("a\nb"), st.just(" ")
)


def written(tmp_path_factory, capfd, name):
    """A model under a drawn name in a folder that is missing, and its way back through the commands that read it."""
    folder = tmp_path_factory.mktemp("out")
    with contextlib.chdir(folder):
        path = os.path.join("a folder", name)
        words = ["--epochs", "1", "--share", "0.2", "--cache", "cache", f"--out={path}"]
        told = typed(capfd, "compress", TASK, *words)
        if name in ("", ".", "..") or "\0" in name or not encodable(name):
            assert told.code == 2, told
            assert not os.path.exists("cache"), "it was trained for nothing"
            return
        assert told.code == 0, told
        assert os.listdir("a folder") == [name]
        packed = typed(capfd, "export", "--to", "packed", "--task", TASK, "--out=back.bin", "--", path)
        assert packed.code == 0 and os.path.getsize("back.bin") > 0, packed


def encodable(name):
    try:
        return len(os.fsencode(name)) <= 255
    except UnicodeEncodeError:
        return False


@pytest.mark.skipif(sys.platform == "win32", reason="names of POSIX files")
def test_a_file_of_any_name_is_written_and_read_back(tmp_path_factory, capfd):
    tried(3)(given(file_names)(lambda name: written(tmp_path_factory, capfd, name)))()
    for name in ("a 'b' \"c\" $(x); `y` \\ 名", "-x\n", 255 * "a", 256 * "a", ".."):
        written(tmp_path_factory, capfd, name)


def refused_or_taken(capfd, writer, name):
    """A place that nothing can hold is refused; any other one is not, whatever else the command then lacks."""
    if writer in FOLDERS and name in ("", ".", ".."):
        return
    told = typed(capfd, *WRITERS[writer][:-1], f"{WRITERS[writer][-1]}=a folder/{name}")
    holds = encodable(name) and "\0" not in name and name not in ("", ".", "..")
    refused = "cannot be written (" in told.err or "must be text without NUL characters" in told.err
    assert told.code != 0 and refused == (not holds), (name, told)


HOSTILE = ("a 'b' \"c\" $(x); `y` \\ 名", "-x\n", "%s{0}", 255 * "a", 256 * "a", 86 * "名", "\ud800", "a\0b", "", "..")


@pytest.fixture
def idle(place, monkeypatch):
    """The same place, where the work ends in a sentence as soon as it begins."""

    def begun(*_, **__):
        raise InputError("the work was begun.")

    for name in ("api.prepare", "commands.search._run", "commands.reproduce._train"):
        monkeypatch.setattr(f"ttq_plugin.{name}", begun)
    return place


@pytest.mark.parametrize("writer", WRITERS)
def test_every_writer_takes_any_name_that_can_be(idle, capfd, writer):
    for name in HOSTILE:
        refused_or_taken(capfd, writer, name)
    assert (idle / "here/file").read_text() == "kept"


@pytest.mark.long
@pytest.mark.parametrize("writer", WRITERS)
def test_every_writer_takes_many_names(idle, capfd, writer):
    long(300)(given(file_names)(lambda name: refused_or_taken(capfd, writer, name)))()


@pytest.mark.long
def test_many_files_of_any_name(tmp_path_factory, capfd):
    long(60)(given(file_names)(lambda name: written(tmp_path_factory, capfd, name)))()
