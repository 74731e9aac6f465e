"""Passwords and tokens in the URLs of databases and servers reach no output and no file, whatever goes wrong."""

from __future__ import annotations

import re
from types import SimpleNamespace

import click
import pytest

from tests.support.hostile import everything, typed
from ttq_plugin import cli
from ttq_plugin.commands import fit
from ttq_plugin.commands.options import WORDS
from ttq_plugin.commands.search import Asked as Search
from ttq_plugin.search.crew.job import Job
from ttq_plugin.tasks import get_task
from ttq_plugin.tasks.checks.check import load_data
from ttq_plugin.tracking import TrialRecord

POSTGRES = "postgresql://me:hunter2@127.0.0.1:1/name?sslpassword=hunter2"
SERVER = "http://me:hunter2@127.0.0.1:9/mlflow"

DATABASES = {
    "refused": POSTGRES,
    "a password in the query": "postgresql://127.0.0.1:1/name?user=me&password=hunter2",
    "an encoded password": "postgresql://me:%68unter2@127.0.0.1:1/name?password=%68unter2",
    "an encoded key": "postgresql://127.0.0.1:1/name?user=me&pass%77ord=hunter2",
    "spaces": "postgresql://me:my hunter2 @127.0.0.1:1/name?password=my hunter2 too",
    "another driver": "postgresql+psycopg://me:hunter2@127.0.0.1:1/name",
    "a missing driver": "mysql+nothing://me:hunter2@127.0.0.1:1/name",
    "another database": "nosuch://me:hunter2@host/name",
    "no scheme": "me:hunter2@host/name",
    "half a scheme": "postgresql//me:hunter2@host",
    "a path": "postgresql:/me:hunter2@host/name",
    "no port": "postgresql://me:hunter2@127.0.0.1:port/name",
    "an unknown option": "postgresql://me:hunter2@127.0.0.1:1/name?nonsense=1&password=hunter2",
    "a file": "sqlite:///none.db?password=hunter2",
    "a broken host": "postgresql://me:hunter2@[::1/name",
}
SERVERS = {
    "refused": SERVER,
    "encoded": "http://me:%68unter2@127.0.0.1:9/mlflow",
    "a token": "http://127.0.0.1:9/?token=hunter2&x=1",
    "no user": "http://:hunter2@127.0.0.1:9/",
    "only a token": "http://hunter2@127.0.0.1:9/",
    "no port": "http://me:hunter2@127.0.0.1:port/",
    "a broken host": "http://me:hunter2@[::1/",
    "a database": "postgresql://me:hunter2@host/name",
}
AT_DATABASE = {
    "search": lambda url: ["search", "mnist-cnn", "--storage", url],
    "resume": lambda url: ["search", "mnist-cnn", "--resume", "x", "--storage", url, "--json"],
    "warm start": lambda url: ["search", "mnist-cnn", "--warm-start", "x", "--storage", url],
    "ray": lambda url: ["search", "mnist-cnn", "--engine", "ray", "--storage", url],
    "worker": lambda url: ["worker", "--storage", url, "--study", "x"],
    "report": lambda url: ["report", "x", "--storage", url, "--json"],
    "compare": lambda url: ["compare", "a", "b", "--storage", url],
    "export": lambda url: ["export", "x", "--trial", "3", "--to", "c", "--storage", url],
    "bench": lambda url: ["bench", "x", "--trial", "3", "--storage", url, "--json"],
}
AT_SERVER = {
    "search": lambda url: ["search", "mnist-cnn", "--store", url],
    "report": lambda url: ["report", "x", "--store", url],
    "compare": lambda url: ["compare", "a", "b", "--store", url],
    "sensitivity": lambda url: ["sensitivity", "mnist-cnn", "--store", url, "--json"],
    "reproduce": lambda url: ["reproduce", "main", "--store", url],
    "ui": lambda url: ["ui", "--store", url],
}
ELSEWHERE = (
    ["search", POSTGRES],
    ["train", SERVER],
    ["report", POSTGRES, "--store", SERVER],
    ["ui", SERVER],
    ["bench", POSTGRES, "--store", SERVER],
    ["export", SERVER, "--to", "c"],
    ["compress", "mnist-cnn", "--config", POSTGRES],
    ["train", "mnist-cnn", "--data", POSTGRES],
    ["train", "mnist-cnn", "--device", POSTGRES],
    ["search", "mnist-cnn", "--sampler", POSTGRES],
    ["search", "mnist-cnn", f"--storge={POSTGRES}"],
    [POSTGRES],
)


@pytest.fixture(autouse=True)
def nothing_is_trained(tmp_path, monkeypatch):
    def load(task, source, seed):
        assert source is not None, "refused before anything is loaded"
        return load_data(task, source, seed)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ttq_plugin.trial.prepared.load_data", load)
    for name in ("TTQ_STORE", "TTQ_STORAGE", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.delenv(name, raising=False)


def hidden(tmp_path, monkeypatch, capfd, words):
    """What the command says, with whole tracebacks and without, and every file that it leaves."""
    for debug in ("", "1"):
        monkeypatch.setenv("TTQ_DEBUG", debug)
        told = typed(capfd, *words, debug=bool(debug))
        assert told.code == 2 and told.err and not re.search("hunter2|%68unter2", told.out + told.err), told
    for path in everything(tmp_path):
        if (tmp_path / path).is_file():
            assert b"unter2" not in (tmp_path / path).read_bytes()


@pytest.mark.parametrize("command", AT_DATABASE)
@pytest.mark.parametrize("url", DATABASES)
def test_no_command_repeats_a_databases_password(tmp_path, monkeypatch, capfd, command, url):
    hidden(tmp_path, monkeypatch, capfd, AT_DATABASE[command](DATABASES[url]))


@pytest.mark.parametrize("command", AT_SERVER)
@pytest.mark.parametrize("url", SERVERS)
def test_no_command_repeats_a_servers_password(tmp_path, monkeypatch, capfd, command, url):
    hidden(tmp_path, monkeypatch, capfd, AT_SERVER[command](SERVERS[url]))


@pytest.mark.parametrize("words", ELSEWHERE)
def test_no_command_repeats_a_password_in_the_wrong_place(tmp_path, monkeypatch, capfd, words):
    hidden(tmp_path, monkeypatch, capfd, words)


def test_a_fault_of_our_own_is_told_without_passwords(monkeypatch, capfd):
    # Compiled as a line of the package: an error in a user's own file is one sentence that names that line instead.
    own = {}
    line = f"def broken(**given):\n    raise RuntimeError('no idea what {POSTGRES} is')"
    exec(compile(line, cli.__file__, "exec"), own)
    monkeypatch.setattr("ttq_plugin.commands.ui.ui", own["broken"])
    monkeypatch.setattr("sys.argv", ["ttq", "ui"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    told = capfd.readouterr().err
    assert ended.value.code == 1 and "Traceback" in told and "hunter2" not in told and "me:***@127.0.0.1" in told


def test_a_job_is_shown_without_its_storage():
    assert "hunter2" not in repr(Job(POSTGRES, "x", None, 3, 0))


def test_the_page_of_a_fitted_network_tells_its_command_without_a_password(tmp_path, monkeypatch):
    """And its names, notes and labels are words in it, no markup."""
    written = SimpleNamespace(flash={"cpu": 1}, static_bytes=1, kinds={}, source=None, header=None, test=None)
    monkeypatch.setattr(fit, "export_int8", lambda *arguments, **options: written)
    network = SimpleNamespace(module=None, score=SimpleNamespace(value=0.5), calibration="max", notes=["<b>|[x](y)"])
    trained = [fit.Trained(0, network, 0.5, 0.5, {"flash": 1.0, "ram": 1.0})]
    data = SimpleNamespace(validation=SimpleNamespace(head=lambda count: SimpleNamespace(x=None)))
    record = TrialRecord(0, "complete", {"method": "ttq", "t": 0.1}, {"mcc": 0.5}, "search", 0, 0.0, 1.0)
    asked = fit.Asked("mnist-cnn", 9, 9, None, tmp_path, None, 0, "model", Search())
    with click.Context(cli.cli) as context:
        context.meta[WORDS] = ("fit", "mnist-cnn", "--storage", POSTGRES, "--study", "it's")
        fit._written(asked, get_task("mnist-cnn"), data, record, trained, [], "`<i>`|s")
    page = (tmp_path / "report.md").read_text()
    assert "hunter2" not in page and "    ttq fit mnist-cnn --storage 'postgresql://me:***@127.0.0.1:1/name?" in page
    assert "<" not in page, page
    assert "of the study &#96;&#60;i>&#96;&#124;s)" in page
