"""Searches on PostgreSQL: several machines, workers that come and go, and what is refused."""

import contextlib
import os
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner
from services import PASSWORD, require, wait_until

from ttq_plugin.cli import cli
from ttq_plugin.errors import InputError
from ttq_plugin.search.crew.worker import _next, work
from ttq_plugin.search.join import find_study, job_of, join_search
from ttq_plugin.search.runner import run_search
from ttq_plugin.search.study.ledger import counted, finished, losses
from ttq_plugin.search.study.locks import lock
from ttq_plugin.search.study.study import load_study, open_study
from ttq_plugin.support.release import release

OPTIONS = {"trial_module": "fake_trial", "poll_seconds": 0.1}

HOST = """
import sys
sys.path.insert(0, {here!r})
from ttq_plugin.search.join import job_of, run_workers
if __name__ == "__main__":
    job = job_of({url!r}, {name!r}, trial_module="fake_trial", data={data!r})
    print(run_workers(job, workers={workers}, poll_seconds=0.1))
"""


def host(tmp_path, url, name, *, data="", workers=1, prefix=()):
    """A machine that joins: its own process, with processes of its own."""
    script = tmp_path / f"host-{len(list(tmp_path.iterdir()))}.py"
    script.write_text(HOST.format(here=str(Path(__file__).parents[1]), url=url, name=name, data=data, workers=workers))
    return subprocess.Popen([*prefix, sys.executable, str(script)], stdout=-1, stderr=-1, text=True)


def begin(space, url, name, *, trials, **options):
    """A study with a first trial done, open for whoever joins."""
    run_search(space, url, name, workers=1, trials=1, **OPTIONS, **options)
    study = load_study(url, name)
    study.set_user_attr("trials", trials)
    return study


def running_on(study, machine=None):
    """Numbers of the trials that run on that machine, or on any, all of their parameters drawn."""
    running = [trial for trial in study.trials if trial.state.name == "RUNNING" and "parameters" in trial.user_attrs]
    return [trial.number for trial in running if machine in {None, trial.user_attrs["worker"]["host"]}]


def titles_of(processes):
    """What the command lines say of those of the processes that do not end while one looks."""
    found = set()
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                found.add(" ".join(process.cmdline()))
    return found


@pytest.mark.service
def test_four_workers_of_two_crews_and_a_server_that_restarts(space, postgres, tmp_path):
    url, state, waits, folder = postgres.url(), {}, [], tmp_path / "models"
    study = begin(space, url, "four", trials=30, models_dir=folder)
    joined = host(tmp_path, url, "four", data="sleep=1", workers=2)
    wait_until(lambda: running_on(study), joined)

    titles = set()

    def follow(done, running):
        titles.update(titles_of(psutil.Process().children(recursive=True)))
        crews = {trial.worker["name"].split(".")[0] for trial in running if trial.worker}
        if len(crews) == 2 and len(running) == 4 and "restarted" not in state:
            state["restarted"] = len(done)
            postgres.stop()
            time.sleep(1)
            postgres.start()

    summary = run_search(
        space, url, "four", workers=2, trials=30, data="sleep=1", models_dir=folder, resume=True,
        on_poll=follow, on_wait=waits.append, **OPTIONS,
    )  # fmt: skip
    out, err = joined.communicate(timeout=600)
    assert "restarted" in state and joined.returncode == 0, err
    assert sum("spawn_main" in title for title in titles) >= 2 and "hunter2" not in str(titles) + out + err
    assert (summary.complete, summary.failed, summary.error) == (30, 0, None)
    study = load_study(url, "four")
    assert counted(study) == 30
    assert "hunter2" not in str([study.user_attrs, *((trial.user_attrs, trial.system_attrs) for trial in study.trials)])
    complete = [trial for trial in study.trials if trial.state.name == "COMPLETE"]
    crews = Counter(trial.user_attrs["worker"]["name"].split(".")[0] for trial in complete)
    assert len(crews) == 3 and any(f"({number}, False)" in out for number in crews.values())
    # The joined crew knows nothing of the folder: its weights came through the database, and left it.
    for record in finished(study):
        if record.state == "complete":
            path = folder / f"trial-{record.number}.safetensors"
            assert path.read_text() == f"{record.parameters['method']} {record.parameters['lr']}"
    with study._storage._backend.engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM ttq_weights").scalar() == 0


@pytest.mark.service
def test_a_worker_that_starts_while_the_server_is_away(space, postgres):
    url = postgres.url()
    begin(space, url, "absent", trials=3)
    job = job_of(url, "absent", trial_module="fake_trial", patience=60)
    postgres.stop()
    try:
        with ThreadPoolExecutor() as pool:
            working = pool.submit(work, job)
            time.sleep(2)
            assert not working.done()
            postgres.start()
            assert working.result(timeout=600) == 2
        postgres.stop()
        with pytest.raises(InputError, match="cannot be opened"):
            work(replace(job, patience=0.5))
    finally:
        postgres.stop()
        postgres.start()


@pytest.fixture
def network(postgres, tmp_path):
    """Two hosts and a server, each in a network namespace of its own, joined by a bridge in the server's."""
    if os.getuid() != 0:
        pytest.skip("network namespaces need root")
    ip, mark = require("ip"), os.getpid()
    names = [f"ttq{mark}{end}" for end in "sab"]

    def run(*words, check=True):
        return subprocess.run([ip, *words], check=check, capture_output=True, text=True)

    if run("netns", "add", names[0], check=False).returncode:
        pytest.skip("network namespaces are not allowed here")
    try:
        inside = ("-n", names[0])
        run(*inside, "link", "set", "lo", "up")
        run(*inside, "link", "add", "bridge0", "type", "bridge")
        run(*inside, "addr", "add", "10.77.0.1/24", "dev", "bridge0")
        run(*inside, "link", "set", "bridge0", "up")
        for number, name in enumerate(names[1:], 2):
            run("netns", "add", name)
            run(*inside, "link", "add", f"to{number}", "type", "veth", "peer", "name", "eth0", "netns", name)
            run(*inside, "link", "set", f"to{number}", "master", "bridge0", "up")
            run("-n", name, "addr", "add", f"10.77.0.{number}/24", "dev", "eth0")
            run("-n", name, "link", "set", "eth0", "up")
        postgres.stop()
        with open(postgres.folder / "data" / "pg_hba.conf", "a") as rules:
            rules.write("host all all 10.77.0.0/24 scram-sha-256\n")
        postgres.start("10.77.0.1", network=names[0])
        yield lambda name, *words: run("-n", dict(zip("sab", names, strict=True))[name], *words), names
        postgres.stop()
        postgres.start()
    finally:
        for name in names:
            run("netns", "delete", name, check=False)


def far(network, name):
    """What makes a process one of another machine: its network, its process numbers, its name."""
    apart = ["unshare", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]
    return [require("ip"), "netns", "exec", network, *apart, "sh", "-c", f'hostname {name}; exec "$0" "$@"']


@pytest.mark.service
def test_a_host_that_drops_off_the_network_has_its_trial_run_by_another(space, postgres, network, tmp_path):
    run, (_, a, b) = network
    url = postgres.url(host="10.77.0.1")
    study = begin(space, postgres.socket_url, "net", trials=8, heartbeat=1)
    one = host(tmp_path, url, "net", data="sleep=9", prefix=far(a, "host-a"))
    (cut,) = wait_until(lambda: running_on(study, "host-a"), one)
    run("a", "link", "set", "eth0", "down")
    two = host(tmp_path, url, "net", data="sleep=0.3", prefix=far(b, "host-b"))
    wait_until(lambda: losses(study), two)
    run("a", "link", "set", "eth0", "up")
    summary = run_search(space, postgres.socket_url, "net", workers=1, trials=8, heartbeat=1, resume=True, **OPTIONS)
    for machine in (one, two):
        out, err = machine.communicate(timeout=90)
        assert machine.returncode == 0, err
    assert (summary.complete, summary.failed, summary.lost) == (8, 0, 1)
    study = load_study(postgres.socket_url, "net")
    assert losses(study) == {cut: ["worker lost (no sign of life from host-a)"]}
    again = study.trials[cut]
    assert again.state.name == "COMPLETE" and again.user_attrs["worker"]["host"] == "host-b" and counted(study) == 8


def refused(*words):
    """The one sentence of a command that ends with exit code 2."""
    result = CliRunner().invoke(cli, list(words))
    assert isinstance(result.exception, InputError), result.output
    return f"{result.output}{result.exception}"


@pytest.mark.service
def test_a_wrong_password_is_refused_and_never_shown(postgres, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    url = postgres.url(password="letmein please")
    for said in (refused("search", "--storage", url), refused("worker", "--storage", url, "--study", "s")):
        assert 'password authentication failed for user "ttq"' in said and "ttq:***@127.0.0.1" in said
        assert "letmein" not in said and said.count(". ") == 0
    monkeypatch.setenv("TTQ_STORAGE", postgres.url())
    said = refused("worker", "--study", "nope")
    assert "holds no study yet; ttq search makes one." in said or "There is no study 'nope' in postgresql://" in said
    assert "ttq:***@127.0.0.1" in said and "hunter2" not in said and "hunter2" in PASSWORD
    assert not list(tmp_path.iterdir()), "nothing is left behind"


def test_what_cannot_be_reached_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with_nobody = "postgresql://me:hunter2@127.0.0.1:1/studies"
    assert "cannot be opened: connection failed" in (said := refused("search", "--storage", with_nobody))
    assert "Connection refused" in said and "hunter2" not in said
    assert "does not exist" in refused("worker", "--storage", f"sqlite:///{tmp_path}/none.db", "--study", "s")
    assert "a running MLflow server was required at 127.0.0.1:1" in refused("search", "--store", "http://127.0.0.1:1")
    assert not list(tmp_path.iterdir()), "nothing is left behind"


def test_missing_packages_are_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "psycopg", None)
    monkeypatch.setitem(sys.modules, "ray", None)
    said = refused("search", "--storage", "postgresql://me:hunter2@127.0.0.1:1/studies")
    assert "pip install 'ttq-plugin[postgresql]'" in said and "hunter2" not in said
    assert "pip install 'ttq-plugin[ray]'" in refused("search", "--engine", "ray")
    assert not list(tmp_path.iterdir()), "nothing is left behind"


def test_ray_needs_a_cluster_and_a_database_for_all(tmp_path, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    assert "needs a database that the whole cluster reaches" in refused("search", "--engine", "ray")


def test_a_worker_of_another_version_is_refused_also_in_the_middle(space, storage):
    run_search(space, storage, "s", workers=1, trials=1, **OPTIONS)
    study = load_study(storage, "s")
    assert study.user_attrs["release"] == release()
    study.set_user_attr("trials", 4)
    joined = job_of(storage, "s", trial_module="fake_trial")
    study.set_user_attr("release", "0.0.9+0123456789ab")
    message = (
        "'s' is searched by ttq-plugin 0.0.9.0123456789ab, and a worker needs the same version, but this machine has 0"
    )
    for use in (lambda: join_search(storage, "s"), lambda: _next(study, joined)):
        with pytest.raises(InputError, match=message):
            use()
    assert counted(study) == 1


def test_which_study_a_worker_joins(space, storage, monkeypatch):
    monkeypatch.setattr("ttq_plugin.commands.worker.job_of", partial(job_of, trial_module="fake_trial"))
    for name in ("one", "two"):
        open_study(storage, name, space, resume=False)
    assert "but none has" in refused("worker", "--storage", storage)
    for name in ("one", "two"):
        study = load_study(storage, name)
        study.set_user_attr("trials", 2)
        study.set_user_attr("release", release())
    assert "these have: one, two; name one by --study" in refused("worker", "--storage", storage)
    load_study(storage, "two").set_user_attr("stopped", True)
    assert find_study(storage, None) == "one"
    said = refused("worker", "--storage", storage, "--study", "two")
    assert "The search of 'two' was stopped; continue it where it ran" in said and "`--resume two`" in said
    assert "has seed 3, got 8" in refused("worker", "--storage", storage, "--seed", "8")
    result = CliRunner().invoke(cli, ["worker", "--storage", storage, "--workers", "1", "--json"])
    assert result.exit_code == 0 and '"trials": 2' in result.output
    assert [record.state for record in finished(load_study(storage, "one"))] == ["complete"] * 2


@pytest.mark.service
def test_a_lock_of_the_server_is_one_owners_and_ends_with_its_connection(postgres):
    import filelock

    one, two = (lock(url, "s", "search") for url in (postgres.url(), postgres.socket_url))
    one.acquire(timeout=0)
    with pytest.raises(filelock.Timeout):
        two.acquire(timeout=0)
    one._connection.connection.dbapi_connection.close()  # as when its owner is killed
    two.acquire(timeout=5)
    with pytest.raises(filelock.Timeout):
        one.confirm()
    two.release()
    one.confirm()
    one.release()
