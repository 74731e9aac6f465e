"""Whoever can write a study's database, or a space file, does not choose the code that is imported."""

import json

import pytest
from click.testing import CliRunner

from ttq_plugin.cli import cli
from ttq_plugin.errors import InputError
from ttq_plugin.search.join import job_of
from ttq_plugin.search.space.load import load_space
from ttq_plugin.search.study.study import load_study, open_study
from ttq_plugin.support.release import release

EVIL = "from pathlib import Path\nPath({flag!r}).touch()\n"


@pytest.fixture
def evil(tmp_path, monkeypatch):
    """A module in the current folder that tells whether it was imported."""
    flag = tmp_path / "imported"
    (tmp_path / "evil_task.py").write_text(EVIL.format(flag=str(flag)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return flag


def tampered(space, storage, space_text):
    """A study whose database was written to by somebody else."""
    study = open_study(storage, "s", space, resume=False)
    for key, value in {
        "space": space_text.replace("mnist-cnn", "evil_task:TASK"), "task": "evil_task:TASK", "trials": 6,
        "release": release(),
    }.items():  # fmt: skip
        study.set_user_attr(key, value)
    trial = study.ask()
    space.suggest(trial)
    trial.set_user_attr("parameters", {"method": "ttq", "t": 0.05})
    trial.set_user_attr("metrics", {"mcc": 90.0, "cr_gain_total": 20.0, "ec_gain_total": 21.0})
    study.tell(trial, [90.0, 20.0, 21.0])


def refused(*words):
    result = CliRunner().invoke(cli, [str(word) for word in words])
    assert isinstance(result.exception, InputError), result.output
    return str(result.exception)


def test_a_worker_is_told_on_its_command_line_what_it_may_import(space, storage, space_text, evil):
    tampered(space, storage, space_text)
    joining = ("worker", "--storage", storage, "--study", "s", "--workers", "1")
    assert refused(*joining) == (
        "the study 's' searches evil_task:TASK, and neither a file nor a database makes this program import code; name "
        "the task yourself: `--task evil_task:TASK`."
    )
    for other in ("mnist-cnn", "mine:TASK"):
        assert "searches evil_task:TASK, and the task named beside it must be the same, got" in refused(
            *joining, "--task", other
        )
    assert not evil.exists()
    assert job_of(storage, "s", task="evil_task:TASK").space.task == "evil_task:TASK"
    assert not evil.exists(), "only the worker's own process imports it"


def test_every_other_command_reads_such_a_study_without_importing(space, storage, space_text, evil):
    tampered(space, storage, space_text)
    place = ("--storage", storage, "--store", "runs")
    again = refused("search", "mnist-cnn", "--resume", "s", *place)
    assert "searches evil_task:TASK, not mnist-cnn" in again
    for command in (("export", "s", "--trial", 0, "--to", "packed"), ("bench", "s", "--trial", 0)):
        assert "neither a file nor a database makes this program import code" in refused(*command, *place)
    result = CliRunner().invoke(cli, ["report", "s", *place, "--json"])
    assert result.exit_code == 0 and json.loads(result.output)["trials"] == 1, result.exception
    assert load_study(storage, "s").user_attrs["task"] == "evil_task:TASK" and not evil.exists()


def test_a_space_file_does_not_choose_it_either(space_text, tmp_path, evil):
    path = tmp_path / "space.yaml"
    path.write_text(space_text.replace("mnist-cnn", "evil_task:TASK"))
    for refusing in (lambda: load_space(path), lambda: load_space(path, task="mnist-cnn")):
        with pytest.raises(InputError, match="space.yaml searches evil_task:TASK, and "):
            refusing()
    assert "name the task yourself: `--task evil_task:TASK`." in refused("search", path)
    assert not evil.exists()
    assert "the task 'evil_task:TASK' cannot be imported" in refused("search", path, "--task", "evil_task:TASK")
    assert evil.exists(), "named beside the file, it is imported"
