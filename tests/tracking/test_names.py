"""Names of studies are data: in paths, links, pictures, pages, MLflow and what is printed."""

import html
import re
import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.progress import Progress

from tests.tracking.runs.test_sensitivity import make_selection
from tests.tracking.studies import fill_study
from ttq_plugin.cli import main
from ttq_plugin.commands import compare, report, search
from ttq_plugin.commands.parts import console
from ttq_plugin.commands.parts.lines import to_see
from ttq_plugin.errors import InputError
from ttq_plugin.search.space.load import parse_space
from ttq_plugin.search.study.check import check_study
from ttq_plugin.support.names import file_name, metric_key, name_of_file
from ttq_plugin.tracking import StudyRecorder, open_store
from ttq_plugin.tracking.remake import remake
from ttq_plugin.tracking.runs.sensitivity import record_sensitivity

from .study import OBJECTIVES, make_study, make_trial

NAMES = ("../../x", "/abs", "x/../s", "s", "x/y", "x_y", "all", "[b]", "$x_$", "_x", "-rf", "a%2Fb", "a?b#c", "..")


def everything(folder):
    return {path.relative_to(folder) for path in folder.rglob("*")}


def test_artifacts_of_every_study_have_a_folder_of_their_own_in_the_store(tmp_path, store):
    before = {path for path in everything(tmp_path) if path.parts[0] != "mlflow_runs"}
    for name in NAMES:
        recorder = StudyRecorder(store, name, OBJECTIVES)
        (tmp_path / "file.txt").write_text(name)
        recorder.log_file(tmp_path / "file.txt")
    (tmp_path / "file.txt").unlink()
    folders = {path.name for path in (store.directory / "artifacts").iterdir()}
    assert {name_of_file(folder.replace("=", "%")) for folder in folders} == set(NAMES)
    assert {path for path in everything(tmp_path) if path.parts[0] != "mlflow_runs"} == before
    for name in NAMES:
        [file] = (store.directory / "artifacts" / file_name(name).replace("%", "=")).rglob("file.txt")
        assert file.read_text() == name


@pytest.mark.parametrize("name", ["$x_$", "[/b]|<b>x"])
def test_a_study_of_any_name_is_finished_and_told(store, name):
    recorder = StudyRecorder(store, name, OBJECTIVES)
    recorder.finish(make_study())
    note = store.client.get_experiment(recorder.experiment_id).tags["mlflow.note.content"]
    assert name not in note and html.unescape(note).startswith(f"{name}: [Trade-off front](#/")


@pytest.mark.parametrize("name", NAMES)
def test_models_and_pages_stay_in_the_store(tmp_path, name):
    space = SimpleNamespace(task="mnist-cnn", sampler="tpe", score="mcc")
    asked = SimpleNamespace(folder=tmp_path / "store", data=None, cache=None, weights=None, device="cpu")
    opened = search.Opened(asked, space, name, "sqlite:///x.db", "store", 0, [], 3)
    ready = SimpleNamespace(score=0.5, simulated=False)
    with Progress(disable=True) as bars:
        models = search._watch(opened, ready, bars).models
    assert models.resolve().parent == (tmp_path / "store" / "models").resolve()
    assert name_of_file(models.name) == name


def test_reports_do_not_leave_the_store(tmp_path, capsys):
    (tmp_path / "store").mkdir()
    for name in ("../../x", "x/../s"):
        fill_study(tmp_path / "store" / "studies.db", name, 12)
        report.report(name, str(tmp_path / "store"), None, None, None, as_json=False)
        page = tmp_path / "store" / "reports" / f"{file_name(name)}.html"
        assert f"report: {page}" in capsys.readouterr().out
        assert f"<title>{name}" in page.read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"store"}
    assert len(list((tmp_path / "store" / "reports").iterdir())) == 2


def test_new_studies_are_refused_what_cannot_be_shown(tmp_path):
    space = parse_space(SPACE, "the test's space")
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    for name in ("a\nb", "\x1b[31m", " ", "x" * 300):
        with pytest.raises(InputError, match="the name of a study must have 1 to 200 characters"):
            check_study(url, name, space, resume=False, seed=None)
    with pytest.raises(InputError, match="Names that end with '~confirm' belong to `ttq search --confirm`"):
        check_study(url, "x~confirm", space, resume=False, seed=None)
    for name in NAMES:
        assert check_study(url, name, space, resume=False, seed=3) == 3


SPACE = """
task: mnist-cnn
objectives: [mcc, cr_gain_total]
trials: 3
parameters: {lr: 1.0e-3, lr_scale: 1.0e-3, lr_threshold: 1.0e-3, epochs: 1, share: {low: 0.5, high: 1.0}}
methods:
  ttq: {t: {low: 0.02, high: 0.3}}
"""


# What is printed ------------------------------------------------------------------------------------------------------


def test_the_console_takes_texts_as_they_are(capsys):
    for name in (*NAMES, "[bold]x[/bold]", "[/", ":smile:", "a" * 300):
        console.out.print(f"study {name}: [1, 2]")
        console.err.print(f"study {name}: done")
        found = capsys.readouterr()
        assert found.out == f"study {name}: [1, 2]\n" and found.err == f"study {name}: done\n"
    console.table("[/b] title", {"[/x] head": "left"}, [["[/] cell"]])
    found = capsys.readouterr().out
    assert all(text in found for text in ("[/b] title", "[/x] head", "[/] cell"))
    with console.progress() as bars:
        bars.add_task("[/] bar", total=3, note="[/] note")
    assert "[/] bar" in capsys.readouterr().err


def test_a_terminal_gets_no_commands_and_no_passwords(capsys):
    console.out.print("a\x1b[2Jb at postgresql://me:hunter2@host/name")
    console.print_json({"link": "http://me:hunter2@host/", "rows": [["http://me:hunter2@host/"]], "n": 0.5})
    found = capsys.readouterr().out
    assert "hunter2" not in found and "\x1b" not in found and "a\\x1b[2Jb at postgresql://me:***@host/name" in found


POSTGRES_SHOWN = "postgresql://me:***@host/n"


def test_printed_commands_are_read_back_by_a_shell():
    for name in (*NAMES, "it's", "a b", "$(reboot)"):
        store = re.sub("[?%]", "", name) + " store"  # what a store's folder may be called
        asked = search.Asked(
            store=store, space=f"{name}.yaml", methods=[name], data=Path(name or "x"), workers=1, seed=3
        )
        opened = search.Opened(asked, None, name, "postgresql://me:hunter2@host/n", "store", 0, [], 3)
        words = shlex.split(opened.again)
        given = [*("--resume", name, "--method", name, "--store", store), "--storage", POSTGRES_SHOWN]
        given += ["--workers", "1", "--data", str(Path(name or "x"))]
        dashed = name.startswith("-")
        assert words == [
            "ttq",
            "search",
            *([] if dashed else [f"{name}.yaml"]),
            *given,
            *(["--", f"{name}.yaml"] if dashed else []),
        ]
        command, link = to_see(store, "#/experiments/1", name)
        assert shlex.split(command) == ["ttq", "ui", "--store", store, "--study", name]
        assert link == "http://127.0.0.1:5000/#/experiments/1"
        record = make_trial(3, parameters={"method": "ttq", name or "x": name})
        words = shlex.split(remake(name, record, {"data": name}))
        assert words[1:4] == ["ttq", "compress", name] and words[words.index("--data") + 1] == name


def test_a_server_is_shown_by_its_own_address():
    assert to_see("https://host/mlflow", "https://host/mlflow/#/experiments/1") == [
        "https://host/mlflow/#/experiments/1"
    ]


# Secrets --------------------------------------------------------------------------------------------------------------


def test_a_servers_login_goes_where_mlflow_looks_for_it(monkeypatch):
    from ttq_plugin.tracking import store as module

    monkeypatch.setattr(module, "_check_server", lambda store: None)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "")
    opened = open_store("https://me:hun%40ter2@host.example:8443/mlflow/")
    assert opened.uri == "https://host.example:8443/mlflow" and "hun" not in repr(opened) + opened.base
    assert module.os.environ["MLFLOW_TRACKING_USERNAME"] == "me"
    assert module.os.environ["MLFLOW_TRACKING_PASSWORD"] == "hun@ter2"
    from mlflow.utils.credentials import read_mlflow_creds

    assert read_mlflow_creds().password == "hun@ter2"
    with pytest.raises(InputError, match="must have a user and a password, or neither") as caught:
        open_store("https://ghp_token@host.example")
    assert "ghp_token" not in str(caught.value)


def test_layers_of_any_name_are_logged(store):
    selection = make_selection().to_dict()
    table = [{**row, "layer": f"{row['layer']}/../[x]"} for row in selection["table"]]
    traces = [{**trace, "name": f"{trace['name']}/../[x]"} for trace in selection["traces"]]
    methods = {f"{name}/../[x]": method for name, method in selection["methods"].items()}
    link = record_sensitivity(
        store, "mnist-cnn", {**selection, "table": table, "traces": traces, "methods": methods}, [], {}, "$_$ title"
    )
    run = store.client.get_run(link.rpartition("/")[2])
    assert sum(name.startswith("trace/") for name in run.data.metrics) == len(traces)
    assert run.info.status == "FINISHED"


def test_an_operating_systems_error_is_a_sentence(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("sys.argv", ["ttq", "report", "x", "--store", "x" * 5000])
    with pytest.raises(SystemExit) as ended:
        main()
    told = capfd.readouterr().err
    assert ended.value.code == 1 and len(told.splitlines()) == 1 and "Traceback" not in told


def test_studies_of_any_name_are_compared(tmp_path, capsys, store):
    names = ("all", "x/y", "x_y", "[/b]$x_$")
    for name in names:
        fill_study(store.directory / "studies.db", name, 8)
    compare.compare(names, str(store.directory), None, [0.5], tmp_path / "p.png", as_json=False)
    told = capsys.readouterr().out
    assert all(name in told for name in names) and "picture:" in told
    [run] = store.client.search_runs([store.client.get_experiment_by_name("comparisons").experiment_id])
    assert set(run.data.metrics) == {"hypervolume_together", *(f"hypervolume/{metric_key(name)}" for name in names)}
