"""Studies of any name, through every command that shows one: refused, or shown as what it is, and nothing elsewhere."""

from __future__ import annotations

import contextlib
import re
import shlex
import shutil
import sqlite3
import subprocess
from contextlib import closing
from types import SimpleNamespace

import pytest
from hypothesis import example, given

from tests.support.hostile import Page, everything, long, names, tried, typed
from tests.tracking.studies import fill_study
from tests.tracking.test_names import SPACE
from ttq_plugin.errors import InputError
from ttq_plugin.search.space.load import parse_space
from ttq_plugin.search.study.check import check_study
from ttq_plugin.support.names import file_name, in_html, metric_key
from ttq_plugin.tracking import open_store
from ttq_plugin.tracking.views import TAG

OTHER = "the other one"


@pytest.fixture(scope="module")
def made(tmp_path_factory, empty_store):
    """A store with two studies, copied and renamed for each example; and the elements of a plain name's page."""
    folder = tmp_path_factory.mktemp("made")
    shutil.copytree(empty_store, folder / "mlflow_runs")
    for name in ("plain", OTHER):
        fill_study(folder / "mlflow_runs" / "studies.db", name, 6)
    with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
        patch.setattr("ttq_plugin.commands.report.importances", lambda *arguments, **options: [])
        from ttq_plugin.commands.report import write_report

        write_report("plain", "mlflow_runs", None, None, folder / "page.html")
    return SimpleNamespace(store=folder / "mlflow_runs", tags=Page((folder / "page.html").read_text()).tags)


def accepted(name):
    """Whether a new study may have the name; a refusal is one sentence."""
    try:
        return check_study("sqlite:///none.db", name, parse_space(SPACE, "the test's space"), resume=False, seed=1) == 1
    except InputError as error:
        assert len(str(error).splitlines()) == 1
        return False


def renamed(made, place, name):
    shutil.copytree(made.store, place / "mlflow_runs")
    with closing(sqlite3.connect(place / "mlflow_runs" / "studies.db")) as database, database:
        database.execute("UPDATE studies SET study_name = ? WHERE study_name = 'plain'", (name,))


def shown(made, tmp_path_factory, monkeypatch, capfd, name):
    """All that a command shows of a study of that name."""
    if not accepted(name):
        return
    place = tmp_path_factory.mktemp("around") / "here"
    place.mkdir()
    renamed(made, place, name)
    monkeypatch.setattr("ttq_plugin.commands.report.importances", lambda *arguments, **options: [])
    links = []
    monkeypatch.setattr("ttq_plugin.commands.ui.serve", lambda store, host, port, link, **options: links.append(link))
    with contextlib.chdir(place):
        told = typed(capfd, "report", "--", name)
        page = place / "mlflow_runs" / "reports" / f"{file_name(name)}.html"
        read = Page(page.read_text())
        assert read.title in {name, f"{name} (mnist-cnn)"}
        assert told.code == 0 and read.tags == made.tags and in_html(name) in page.read_text()
        [line] = re.findall(r"^ +(OMP.*)$", told.out, re.MULTILINE)
        assert shlex.split(line)[1:4] == ["ttq", "compress", "mnist-cnn"]
        compared = typed(capfd, "compare", "--", name, OTHER)
        heading = compared.out.splitlines()[1]
        assert compared.code == 0 and name.strip() in heading and OTHER in heading
        line = f"printf '%s\\0' {re.search(r'MLflow:  (.*)', compared.out)[1]}"
        again = subprocess.run(["bash", "-c", line], capture_output=True, check=True)
        assert again.stdout.split(b"\0")[:2] == [b"ttq", b"ui"]
        missing = typed(capfd, "export", "--to", "packed", "--trial", "99", "--", name)
        assert missing.code == 2 and repr(name) in missing.err
        store = open_store("mlflow_runs")
        own = store.client.create_experiment(name, artifact_location=store.artifacts_of(name))
        store.client.set_experiment_tag(own, f"{TAG}front", "x")
        assert typed(capfd, "ui", "--no-browser", "--study", name).code == 0
        assert links[0].startswith(f"#/experiments/{own}/")
        [run] = store.client.search_runs([store.client.get_experiment_by_name("comparisons").experiment_id])
        keys = {f"hypervolume/{metric_key(each)}" for each in (name, OTHER)}
        assert set(run.data.metrics) == {"hypervolume_together", *keys} and len(keys) == 2
    assert {path.split("/")[0] for path in everything(place.parent)} == {"here"}
    assert {path.name for path in place.iterdir()} == {"mlflow_runs"}
    written = {path.name.partition("-")[0] for path in (place / "mlflow_runs").iterdir()}
    assert written == {"studies.db", "reports", "mlflow.db", "artifacts", ".schema.lock"}
    shutil.rmtree(place.parent)


def test_a_study_of_any_name(made, tmp_path_factory, monkeypatch, capfd):
    check = given(names)(lambda name: shown(made, tmp_path_factory, monkeypatch, capfd, name))
    for name in ("../../x", "'\"><script>alert(1)</script>", "-rf $(touch gone) [/b] $x_$ | {x} %s"):
        check = example(name)(check)
    tried(2)(check)()


@pytest.mark.long
def test_many_studies_of_any_name(made, tmp_path_factory, monkeypatch, capfd):
    long()(given(names)(lambda name: shown(made, tmp_path_factory, monkeypatch, capfd, name)))()


def test_a_study_that_differs_in_case_alone_is_refused(made, tmp_path):
    renamed(made, tmp_path, "Straße")
    url = f"sqlite:///{tmp_path / 'mlflow_runs' / 'studies.db'}"
    space = parse_space(SPACE, "the test's space")
    for name in ("STRASSE", "straße"):
        with pytest.raises(InputError, match="must differ from 'Straße' in more than upper and lower case"):
            check_study(url, name, space, resume=False, seed=None)
    assert check_study(url, "Stra\u00dfe 2", space, resume=False, seed=4) == 4
