import re
import sqlite3
import subprocess
import sys

import pytest

from ttq_plugin.commands.report import default_storage
from ttq_plugin.errors import InputError
from ttq_plugin.tracking import Store, open_store
from ttq_plugin.tracking import store as stores
from ttq_plugin.tracking.faults import UnwritableError, store_faults

from .study import free_port


def test_a_store_is_a_directory_with_a_database(store):
    assert store.database.exists()
    assert store.uri == f"sqlite:///{store.database}"
    assert store.artifacts == (store.directory / "artifacts").as_uri()
    assert open_store(store.directory) == store == Store(store.directory)


def test_several_processes_open_a_fresh_store_at_once(tmp_path):
    code = "import sys; from ttq_plugin.tracking import open_store; open_store(sys.argv[1])"
    target = tmp_path / "new" / "mlflow_runs"
    started = [subprocess.Popen([sys.executable, "-c", code, str(target)]) for _ in range(2)]
    assert [process.wait() for process in started] == [0, 0]
    assert Store(target).client.search_experiments()


@pytest.mark.parametrize("step", ["write_bytes", "_write_ahead"])
def test_a_disk_that_is_full_leaves_no_half_of_a_database(step, tmp_path, empty_store, monkeypatch):
    monkeypatch.setattr(stores, "_empty_database", (empty_store / "mlflow.db").read_bytes)
    faults = {
        "write_bytes": InputError("mlflow.db cannot be written (No space left on device); choose another place."),
        "_write_ahead": sqlite3.OperationalError("database or disk is full"),
    }
    with monkeypatch.context() as patch:
        patch.setattr(stores, step, lambda *_: (_ for _ in ()).throw(faults[step]))
        with pytest.raises(UnwritableError, match=r"cannot be written \(") as caught:
            open_store(tmp_path)
    assert isinstance(caught.value, store_faults()), "a search waits for it"
    assert (tmp_path / "mlflow.db").exists() == (step == "_write_ahead")
    assert open_store(tmp_path).client.search_experiments()


def test_a_directory_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="must be a writable directory, got .*file"):
        open_store(tmp_path / "file")


@pytest.mark.parametrize("name", ["a?b", "a%20b"])
def test_a_folder_that_no_address_can_hold_is_refused(tmp_path, monkeypatch, name):
    with pytest.raises(InputError, match="must be a folder without"):
        open_store(tmp_path / name)
    with pytest.raises(InputError, match="must be a folder without"):
        default_storage(tmp_path / name)
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / name)
    with pytest.raises(InputError, match=re.escape(f"got {tmp_path / name / 'mlflow_runs'};")):
        open_store("mlflow_runs")
    monkeypatch.undo()
    (tmp_path / name).rmdir()
    assert not list(tmp_path.iterdir())


def test_a_foreign_database_is_refused(tmp_path):
    (tmp_path / "mlflow.db").write_text("not a database, but long enough to look like a file of one" * 20)
    with pytest.raises(InputError, match="must be a database of this MLflow version"):
        open_store(tmp_path)


def test_a_database_url_is_refused_without_repeating_its_password():
    with pytest.raises(InputError, match="got a postgresql:// URL") as caught:
        open_store("postgresql://user:secret@host/db")
    assert "secret" not in str(caught.value)


def test_a_server_that_does_not_answer_is_refused_at_once():
    port = free_port()
    with pytest.raises(InputError, match=f"required at 127.0.0.1:{port}") as caught:
        open_store(f"http://user:secret@127.0.0.1:{port}")
    assert "secret" not in str(caught.value)
