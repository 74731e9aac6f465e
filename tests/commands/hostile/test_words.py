"""Any text as any word of a command: what names nothing is refused in a sentence, and nothing is written."""

from __future__ import annotations

import pytest
from hypothesis import given

from tests.support.hostile import everything, long, names, tried, typed
from ttq_plugin import InputError
from ttq_plugin.tasks.checks.check import load_data

SEARCH, COMPRESS, FIT = ["search", "mnist-cnn"], ["compress", "mnist-cnn"], ["fit", "mnist-cnn"]
EXPORT = ["export", "nothing.safetensors", "--to", "c"]

WORDS = {
    "a command": lambda name: [name],
    "train": lambda name: ["train", "--", name],
    "compress": lambda name: ["compress", "--", name],
    "sensitivity": lambda name: ["sensitivity", "--", name],
    "fit": lambda name: ["fit", "--flash", "64k", "--ram", "16k", "--out", "o", "--", name],
    "report": lambda name: ["report", "--", name],
    "compare": lambda name: ["compare", "--", name, "other"],
    "export": lambda name: ["export", "--to", "c", "--", name],
    "export a trial": lambda name: ["export", "--to", "c", "--trial", "3", "--", name],
    "bench": lambda name: ["bench", "--", name],
    "reproduce": lambda name: ["reproduce", "--", name],
    "a space": lambda name: ["search", "--", name],
    "a resumed study": lambda name: [*SEARCH, f"--resume={name}"],
    "a method": lambda name: [*SEARCH, f"--method={name}"],
    "objectives": lambda name: [*SEARCH, f"--objectives={name}"],
    "a constraint": lambda name: [*SEARCH, f"--constraint={name}"],
    "a sampler": lambda name: [*SEARCH, f"--sampler={name}"],
    "a warm start": lambda name: [*SEARCH, f"--warm-start={name}"],
    "a limit of patience": lambda name: [*SEARCH, f"--give-up={name}"],
    "an engine": lambda name: [*SEARCH, f"--engine={name}"],
    "a database": lambda name: [*SEARCH, f"--storage={name}"],
    "a searched task": lambda name: [*SEARCH, f"--task={name}"],
    "a config": lambda name: [*COMPRESS, f"--config={name}"],
    "a compression": lambda name: [*COMPRESS, f"--method={name}"],
    "a loss": lambda name: [*COMPRESS, f"--loss={name}"],
    "a layer": lambda name: ["sensitivity", "mnist-cnn", f"--include={name}"],
    "methods": lambda name: ["sensitivity", "mnist-cnn", f"--methods={name}"],
    "a budget": lambda name: [*FIT, f"--flash={name}", "--ram", "16k", "--out", "o"],
    "a fitted space": lambda name: [*FIT, "--flash", "64k", "--ram", "16k", "--out", "o", f"--space={name}"],
    "a task": lambda name: [*EXPORT, f"--task={name}"],
    "a form": lambda name: ["export", "nothing.safetensors", f"--to={name}"],
    "a shown study": lambda name: ["ui", f"--study={name}"],
    "a joined study": lambda name: ["worker", "--storage", "sqlite:///none.db", f"--study={name}"],
    "a joined database": lambda name: ["worker", f"--storage={name}"],
    "rows": lambda name: ["reproduce", "main", f"--methods={name}"],
    "a reproduced task": lambda name: ["reproduce", "main", f"--task={name}"],
    "a peer's task": lambda name: ["reproduce", "peers", f"--task={name}"],
    "a device": lambda name: ["train", "mnist-cnn", f"--device={name}"],
    "weights": lambda name: ["train", "mnist-cnn", f"--weights={name}"],
    "data": lambda name: ["train", "mnist-cnn", f"--data={name}"],
}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder within a folder, so that what leaves it is seen; nothing is trained."""
    here = tmp_path / "around" / "here"
    here.mkdir(parents=True)
    monkeypatch.chdir(here)
    for name in ("TTQ_STORE", "TTQ_STORAGE", "TTQ_DEBUG"):
        monkeypatch.delenv(name, raising=False)

    def load(task, source, seed):
        if source is None:
            raise InputError("it would be trained now")
        return load_data(task, source, seed)

    for module in ("trial.prepared", "commands.fit"):
        monkeypatch.setattr(f"ttq_plugin.{module}.load_data", load)
    return here


def refused(place, capfd, what, name):
    told = typed(capfd, *WORDS[what](name))
    if told.code == 1:  # what the operating system refuses is a failure, in a sentence too
        assert told.err.startswith("Error: ") and "File name too long" in told.err, told
    else:
        assert told.code == 2 or (what == "a command" and name in {"--help", "-h"}), told
    assert everything(place.parent) == {"here"}


@pytest.mark.parametrize("what", WORDS)
def test_a_word_that_names_nothing_is_refused_and_nothing_is_written(place, capfd, what):
    tried(12)(given(names)(lambda name: refused(place, capfd, what, name)))()


@pytest.mark.long
@pytest.mark.parametrize("what", WORDS)
def test_many_words_that_name_nothing(place, capfd, what):
    long()(given(names)(lambda name: refused(place, capfd, what, name)))()
