"""Any name through every command: refused in one sentence, or written as data, and nothing outside the store."""

from __future__ import annotations

import contextlib
import html
import os
import re
import shlex
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.test_names import HOSTILE, anything
from tests.tracking.studies import fill_study
from tests.tracking.study import OBJECTIVES, make_study
from tests.tracking.test_sensitivity import make_selection
from ttq_plugin import InputError, cli
from ttq_plugin.commands.parts import console
from ttq_plugin.commands.parts.remake import remake
from ttq_plugin.commands.train import print_parts
from ttq_plugin.search.space.load import parse_space
from ttq_plugin.search.study.check import check_study
from ttq_plugin.support.files import save_weights
from ttq_plugin.support.names import check_name, file_name
from ttq_plugin.tasks import get_task
from ttq_plugin.tasks.metrics import Metric
from ttq_plugin.tracking import StudyRecorder, TrialRecord, open_store
from ttq_plugin.tracking import store as stores
from ttq_plugin.tracking.single import open_experiment

RESERVED = ("comparisons", "Default", "mnist-cnn bench", "x sensitivity", "reproduce main mnist-cnn", "COMPARISONS")
MORE = (
    "--help",
    "-x",
    "--",
    "-",
    "CON",
    "NUL",
    "None",
    "null",
    "~confirm",
    "..\\x",
    "x\ry",
    "ﬀ",
    "名前",
    "\ufeffx",
    "%s %(x)s {x}",
)

names = st.one_of(anything, st.sampled_from((*MORE, *RESERVED)))
often = settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
seldom = settings(often, max_examples=8)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder within a folder, so that what leaves it is seen."""
    here = tmp_path / "around" / "here"
    here.mkdir(parents=True)
    monkeypatch.chdir(here)
    for name in ("TTQ_STORE", "TTQ_STORAGE"):
        monkeypatch.delenv(name, raising=False)
    return here


def outside(place):
    """What lies beside the folder."""
    return sorted(path.relative_to(place.parents[1]).as_posix() for path in place.parents[1].rglob("*")
                  if place not in (path, *path.parents) and path not in place.parents)  # fmt: skip


def run(monkeypatch, capfd, *words):
    """The command as typed: its exit code, what it printed, what it told; never a traceback or a raw control."""
    monkeypatch.setattr("sys.argv", ["ttq", *words])
    capfd.readouterr()
    with pytest.raises(SystemExit) as ended:
        cli.main()
    out, err = capfd.readouterr()
    assert "Traceback" not in err
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", out + err)
    code = ended.value.code or 0
    assert code in (0, 1, 2)
    if code == 2:
        assert out == "" and len([line for line in err.splitlines() if line.startswith("Error: ")]) == 1
    return code, out, err


class Page(HTMLParser):
    """The elements of a page, without the names of what they hold."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags, self.title, self._in = [], "", ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, tuple(name for name, _ in attrs)))
        self._in = tag

    def handle_endtag(self, tag):
        self._in = ""

    def handle_data(self, data):
        self.title += data if self._in == "title" else ""


# Typed names that stand for nothing ---------------------------------------------------------------------------------

WORDS = {
    "train": lambda name: ["train", "--", name],
    "compress": lambda name: ["compress", "--", name],
    "a config": lambda name: ["compress", "mnist-cnn", "--config", name],
    "sensitivity": lambda name: ["sensitivity", "--", name],
    "a space": lambda name: ["search", "--", name],
    "a resumed study": lambda name: ["search", "mnist-cnn", "--resume", name],
    "a method": lambda name: ["search", "mnist-cnn", "--method", name],
    "objectives": lambda name: ["search", "mnist-cnn", "--objectives", name],
    "a constraint": lambda name: ["search", "mnist-cnn", "--constraint", name],
    "a sampler": lambda name: ["search", "mnist-cnn", "--sampler", name],
    "a warm start": lambda name: ["search", "mnist-cnn", "--warm-start", name],
    "a database": lambda name: ["search", "mnist-cnn", "--storage", name],
    "report": lambda name: ["report", "--", name],
    "compare": lambda name: ["compare", "--", name, "other"],
    "export": lambda name: ["export", "--to", "c", "--", name],
    "export a trial": lambda name: ["export", "--to", "c", "--trial", "3", "--", name],
    "a task": lambda name: ["export", "nothing.safetensors", "--to", "c", "--task", name],
    "bench": lambda name: ["bench", "--", name],
    "ui": lambda name: ["ui", "--study", name],
    "worker": lambda name: ["worker", "--storage", "sqlite:///none.db", "--study", name],
    "reproduce": lambda name: ["reproduce", "--", name],
    "rows": lambda name: ["reproduce", "main", "--methods", name],
    "a device": lambda name: ["train", "mnist-cnn", "--device", name],
    "weights": lambda name: ["train", "mnist-cnn", "--weights", name],
    "data": lambda name: ["train", "mnist-cnn", "--data", name],
}


@pytest.mark.parametrize("what", WORDS)
def test_what_names_nothing_is_refused_and_nothing_is_written(place, monkeypatch, capfd, what):
    def trained(*arguments, **options):
        raise InputError("it would be trained now")

    for module in ("search", "compress", "train", "sensitivity"):
        monkeypatch.setattr(f"ttq_plugin.commands.{module}.trained_model", trained, raising=False)

    @often
    @given(names)
    def check(name):
        code, _, err = run(monkeypatch, capfd, *WORDS[what](name))
        assert code == 2 or (code == 1 and err.startswith("Error: ")), "an operating system's own refusal is a sentence"
        assert list(place.iterdir()) == [] and outside(place) == []

    check()


# Studies --------------------------------------------------------------------------------------------------------------


def acceptable(name):
    """Whether a study may have the name."""
    space = SPACE
    with contextlib.suppress(InputError):
        return check_study("sqlite:///none.db", name, space, resume=False, seed=1) == 1
    return False


SPACE = parse_space(
    """
task: mnist-cnn
objectives: [mcc, cr_gain_total]
trials: 3
parameters: {lr: 1.0e-3, lr_scale: 1.0e-3, lr_threshold: 1.0e-3, epochs: 1, share: {low: 0.5, high: 1.0}}
methods:
  ttq: {t: {low: 0.02, high: 0.3}}
""",
    "the test's space",
)


@pytest.mark.parametrize("name", RESERVED)
def test_names_of_experiments_that_are_not_a_studys_are_refused(place, monkeypatch, capfd, name):
    code, _, err = run(monkeypatch, capfd, "search", "mnist-cnn", "--study", name)
    assert code == 2 and f"a study must not be called {name!r}" in err
    assert list(place.iterdir()) == []


def test_an_older_study_of_such_a_name_keeps_its_experiment_to_itself(place):
    store = open_store("runs")
    for name in ("comparisons", "mnist-cnn bench"):
        recorder = StudyRecorder(store, name, OBJECTIVES)
        recorder.finish(make_study())
        other = open_experiment(store, name)
        assert other != recorder.experiment_id == open_experiment_of(store, name)
        assert open_experiment(store, name) == other, "the same one the next time"
    assert open_experiment(store, "free") == open_experiment_of(store, "free")


def open_experiment_of(store, name):
    return store.client.get_experiment_by_name(name).experiment_id


@seldom
@given(names)
def test_a_study_of_any_name_is_reported_compared_and_remade(tmp_path_factory, name):
    if not acceptable(name):
        return
    place = tmp_path_factory.mktemp("around") / "here"
    place.mkdir()
    with contextlib.chdir(place), pytest.MonkeyPatch.context() as patch:
        said = []
        patch.setattr(console.Plain, "print", lambda self, *values, **options: said.extend(map(str, values)))
        patch.setattr("ttq_plugin.commands.report.importances", lambda *arguments, **options: [])
        os.mkdir("mlflow_runs")
        study = fill_study(place / "mlflow_runs" / "studies.db", name, 6)
        fill_study(place / "mlflow_runs" / "studies.db", f"{name[:150]} too", 6)
        cli.cli(["report", "--", name], standalone_mode=False)
        page = place / "mlflow_runs" / "reports" / f"{file_name(name)}.html"
        read = Page(page.read_text())
        assert read.title == name and read.tags == plain_tags()
        command = next(text for text in said if "ttq compress" in text).strip()
        words = shlex.split(command)
        assert words[:4] == ["OMP_NUM_THREADS=1", "ttq", "compress", study.user_attrs["task"]]
        cli.cli(["compare", "--", name, f"{name[:150]} too"], standalone_mode=False)
        written = {path.name.partition("-")[0] for path in (place / "mlflow_runs").iterdir()}
        assert written == {"studies.db", "reports", "mlflow.db", "artifacts", ".schema.lock"}
        assert [path.name for path in place.iterdir()] == ["mlflow_runs"]
    assert [path.name for path in place.parent.iterdir()] == ["here"]


TAGS: list = []


def plain_tags():
    """The elements of the page of a study called x."""
    if not TAGS:
        import tempfile

        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
            patch.setattr(console.Plain, "print", lambda self, *values, **options: None)
            patch.setattr("ttq_plugin.commands.report.importances", lambda *arguments, **options: [])
            os.mkdir("mlflow_runs")
            fill_study(Path("mlflow_runs").absolute() / "studies.db", "x", 6)
            cli.cli(["report", "x"], standalone_mode=False)
            TAGS.extend(Page(Path("mlflow_runs/reports/x.html").read_text()).tags)
    return TAGS


def test_a_study_of_any_name_is_shown_by_the_interface(place, monkeypatch):
    store, links = open_store("mlflow_runs"), []
    monkeypatch.setattr(
        "ttq_plugin.commands.ui.serve", lambda store, host, port, link, *, ready, browser: links.append(link)
    )
    for number, name in enumerate(name for name in (*HOSTILE, *MORE) if acceptable(name)):
        if number % 6:
            continue
        recorder = StudyRecorder(store, name, OBJECTIVES)
        recorder.finish(make_study())
        cli.cli(["ui", "--study", name, "--no-browser"], standalone_mode=False)
        assert links[-1].startswith(f"#/experiments/{recorder.experiment_id}/")
        assert stores.tested("mlflow_runs", name) == {}
    assert len(links) >= 5 and outside(place) == []
    assert [path.name for path in place.iterdir()] == ["mlflow_runs"]


# Files, layers, metrics, classes --------------------------------------------------------------------------------------


@often
@given(names)
def test_a_file_of_any_name_is_exported_beside_itself(tmp_path_factory, name):
    if name in ("", ".", "..") or "/" in name or "\x00" in name:  # no file can have it
        return
    try:
        if len(os.fsencode(name)) > 150:
            return
    except UnicodeEncodeError:
        return
    place = tmp_path_factory.mktemp("files")
    with contextlib.chdir(place), pytest.MonkeyPatch.context() as patch:
        patch.setattr(console.Plain, "print", lambda self, *values, **options: None)
        save_weights(get_task("mnist-cnn").model(), Path(name), {"task": "mnist-cnn"})
        with contextlib.suppress(InputError):
            cli.cli(["export", "--to", "packed", "--", name], standalone_mode=False)
        found = sorted(os.listdir(place))
        assert (
            len(found) <= 2
            and name in found
            and all(each == name or each.endswith("-packed.safetensors") for each in found)
        )


@often
@given(names)
def test_metrics_and_tasks_have_names_of_one_word_or_line(name):
    with contextlib.suppress(InputError):
        assert re.fullmatch(r"\w+", Metric(name, lambda outputs, targets: 0.0).name)
    with contextlib.suppress(InputError):
        task = replace(get_task("mnist-cnn"), name=name)
        check_name("a task", task.name)


@often
@given(names)
def test_classes_of_any_name_are_printed_as_they_are(name):
    shown = []
    task = SimpleNamespace(classes=(name, "b"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ttq_plugin.commands.train.table", lambda title, columns, rows: shown.extend(rows))
        print_parts("parts", {"full": {"recall_0": 0.5, "recall_1": 0.25}}, task)
    assert [row[1] for row in shown] == ["50.00 %", "25.00 %"] and shown[0][0] == f"recall of {name}"
    assert not re.search(r"[\x00-\x08\x0b-\x1f]", console.safe(shown[0][0]))


@often
@given(names, names)
def test_what_remakes_a_trial_is_read_back_by_a_shell(task, value):
    record = TrialRecord(3, "complete", {"method": value, "t": 0.1}, {}, "search", 1, 0.0, 0.0)
    line = remake(task, record, {"data": value})
    assert not re.search(r"[\x00-\x1f]", line)
    if not re.search(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u200e\u200f\u2066-\u2069\ud800-\udfff]", task + value):
        words = shlex.split(line)
        assert words[words.index("--data") + 1] == value and task in words


@seldom
@given(names)
def test_layers_of_any_name_are_analysed_and_kept(tmp_path_factory, name):
    from ttq_plugin.tracking.sensitivity import record_sensitivity

    place = tmp_path_factory.mktemp("layers")
    chosen = make_selection().to_dict()
    rows = [{**row, "layer": f"{row['layer']}{name}"} for row in chosen["table"]]
    traces = [{**trace, "name": f"{trace['name']}{name}"} for trace in chosen["traces"]]
    methods = {f"{layer}{name}": method for layer, method in chosen["methods"].items()}
    store = open_store(place / "runs")
    link = record_sensitivity(
        store, "mnist-cnn", {**chosen, "table": rows, "traces": traces, "methods": methods}, [], {}, "x"
    )
    run = store.client.get_run(link.rpartition("/")[2])
    assert sum(key.startswith("trace/") for key in run.data.metrics) == len(traces)
    assert [path.name for path in place.iterdir()] == ["runs"]
    assert html.escape(run.info.status) == "FINISHED"
