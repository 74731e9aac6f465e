"""The real server on a store the recorder wrote, read back over HTTP."""

import os
import signal
import socket
import subprocess
import sys
import time

import psutil
import pytest

from ttq_plugin.errors import InputError
from ttq_plugin.tracking import Store, StudyRecorder, front, open_store, serve

from .study import OBJECTIVES, free_port


def test_the_study_is_read_back_over_http(served, tmp_path):
    client = open_store(served.url).client
    experiment = client.get_experiment_by_name("mnist-cnn pttq")
    [study] = client.search_runs([experiment.experiment_id], "tags.role = 'study'")
    assert study.info.status == "FINISHED"
    assert study.data.params == {"seed": "7", "task": "mnist-cnn", "mcc_fp32": "0.9871"}
    members = front(served.records, OBJECTIVES)
    assert study.data.metrics == {"trials": 25, "failed": 1, "front_size": len(members)}

    runs = client.search_runs([experiment.experiment_id], f"tags.mlflow.parentRunId = '{study.info.run_id}'")
    assert len(runs) == len(served.records) + 1  # the full-precision model
    runs = [run for run in runs if run.data.tags["role"] == "trial"]
    pareto = {int(run.data.tags["trial"]) for run in runs if run.data.tags["pareto"] == "true"}
    assert pareto == members
    best = next(run for run in runs if run.data.tags["trial"] == str(max(members)))
    assert best.data.metrics["test_mcc"] == 0.9123
    assert best.data.metrics["mcc"] == pytest.approx(served.records[max(members)].metrics["mcc"], rel=1e-5)

    assert {file.path for file in client.list_artifacts(study.info.run_id)} == {"front.csv", "front.png"}
    picture = client.download_artifacts(study.info.run_id, "front.png", str(tmp_path))
    with open(picture, "rb") as file:
        assert file.read(8) == b"\x89PNG\r\n\x1a\n"


def test_a_study_can_be_recorded_through_the_server(served, records):
    recorder = StudyRecorder(open_store(served.url), "remote", OBJECTIVES, {"seed": 1})
    recorder.finish(records[:6])
    assert recorder.link().startswith(f"{served.url}/#/experiments/")
    again = StudyRecorder(open_store(served.url), "remote", OBJECTIVES, {"seed": 1})
    again.finish(records[:6])
    runs = served.store.client.search_runs([recorder.experiment_id])
    assert len(runs) == 7
    assert "RUNNING" not in {run.info.status for run in runs}
    assert list(served.store.directory.glob("artifacts/*/*/artifacts/front.png"))


def test_the_server_is_one_process_on_loopback_that_sends_nothing_home(served):
    family = [psutil.Process(served.process.pid), *psutil.Process(served.process.pid).children(recursive=True)]
    assert len(family) == 1
    listening = {c.laddr[:2] for p in family for c in p.net_connections() if c.status == psutil.CONN_LISTEN}
    assert listening == {("127.0.0.1", served.port)}
    environment = family[0].environ()
    assert environment["MLFLOW_DISABLE_TELEMETRY"] == environment["DO_NOT_TRACK"] == "true"


def test_ctrl_c_or_a_kill_leaves_no_process_behind(store):
    port = free_port()
    code = """if True:
        import sys; from ttq_plugin.tracking import open_store, serve
        serve(open_store(sys.argv[1]), port=int(sys.argv[2]), ready=lambda url: print(url, flush=True))"""
    command = [sys.executable, "-c", code, str(store.directory), str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline().strip() == f"http://127.0.0.1:{port}/"
    family = psutil.Process(process.pid).children(recursive=True)
    assert len(family) == 1
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(120) == 0
    deadline = time.monotonic() + 5
    while any(child.is_running() for child in family) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(child.is_running() for child in family)


def test_a_port_in_use_is_refused(store):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"port {port} on 127.0.0.1 must be free .* choose another"):
            serve(store, port=port)


def test_a_store_without_a_database_is_refused(tmp_path):
    with pytest.raises(InputError, match="must hold mlflow.db, got .* without one"):
        serve(Store(tmp_path), port=free_port())


def test_a_remote_store_is_refused():
    with pytest.raises(InputError, match="needs a local store"):
        serve(Store(server="http://example.org"))
