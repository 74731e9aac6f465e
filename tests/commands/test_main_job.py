"""The main job on real digits: what `ttq search` leaves behind, resumes, survives, and shows."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import optuna
import psutil
import pytest
import torch

from tests.conftest import SMALL_SPACE, Search
from tests.tracking.study import free_port
from ttq_plugin.support.weights import load_weights
from ttq_plugin.tasks import get_task
from ttq_plugin.tasks.builtin.mnist import MnistCNN
from ttq_plugin.tracking import Store
from ttq_plugin.tracking.ui import start, stop, wait_ready
from ttq_plugin.trial import run as trial_code

OBJECTIVES = ("mcc", "cr_gain_total", "ec_gain_total")


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "ttq_plugin.cli", *map(str, arguments)]


def dominated(one, others) -> bool:
    """Brute force: some other is at least as good everywhere and better somewhere."""
    vector = [one[k] for k in OBJECTIVES]
    return any(
        all(o[k] >= v for k, v in zip(OBJECTIVES, vector, strict=True))
        and any(o[k] > v for k, v in zip(OBJECTIVES, vector, strict=True))
        for o in others
    )


def study(search: Search) -> optuna.Study:
    return optuna.load_study(study_name=search.study, storage=f"sqlite:///{search.store / 'studies.db'}")


def test_the_front_is_what_brute_force_finds(search):
    trials = [t for t in study(search).trials if t.state == optuna.trial.TrialState.COMPLETE]
    assert len(trials) == 6 == search.result["trials"]["complete"]
    vectors = {t.number: dict(zip(OBJECTIVES, t.values, strict=True)) for t in trials}
    expected = {n for n, v in vectors.items() if not dominated(v, vectors.values())}
    assert {row["trial"] for row in search.result["front"]} == expected
    for row in search.result["front"]:
        assert [row[k] for k in OBJECTIVES] == list(vectors[row["trial"]].values())


def test_the_papers_setting_ran_first(search):
    first = study(search).trials[0]
    assert first.user_attrs["origin"] == "paper"
    assert all(t.user_attrs.get("origin", "search") == "search" for t in study(search).trials[1:])


def test_front_members_have_their_weights_and_one_test_score(search):
    kept = {path.name for path in search.models.glob("*.safetensors")}
    assert kept == {f"trial-{row['trial']}.safetensors" for row in search.result["front"]}
    for row in search.result["front"]:
        model = MnistCNN()
        load_weights(model, search.models / f"trial-{row['trial']}.safetensors")
        ternary = [m for m in model.modules() if hasattr(m, "weight") and len(m.weight.unique()) == 3]
        zeros = sum((m.weight == 0).sum().item() for m in ternary)
        assert row["srqw"] == pytest.approx(zeros / sum(m.weight.numel() for m in ternary))
        assert -1 <= row["test_mcc"] <= 1
    assert search.result["full_precision"]["test_mcc"] > 0.93


def test_front_members_are_models_that_mlflow_loads_and_have_epoch_curves(search):
    import mlflow

    store = Store(search.store)
    mlflow.set_tracking_uri(store.uri)
    client, front = store.client, {row["trial"]: row for row in search.result["front"]}
    experiment = client.get_experiment_by_name(search.study)
    samples = get_task("mnist-cnn").load(None, 0).validation.x[:40]
    for run in client.search_runs([experiment.experiment_id], "tags.role = 'trial'"):
        number = int(run.data.tags["trial"])
        losses = client.get_metric_history(run.info.run_id, "loss")
        assert len(losses) == (front[number]["epochs"] if number in front else 0)
        assert len(run.outputs.model_outputs) == (number in front)
        if number not in front:
            continue
        model = MnistCNN().eval()
        load_weights(model, search.models / f"trial-{number}.safetensors")
        loaded = mlflow.pyfunc.load_model(f"models:/{run.outputs.model_outputs[0].model_id}")
        with torch.inference_mode():
            assert np.array_equal(loaded.predict(samples.numpy()), model(samples).numpy())
        assert loaded.metadata.signature is not None and loaded.input_example is not None
    assert "type hint" not in search.log and "mlflow.pyfunc" not in search.log


def test_each_trial_of_two_workers_is_bit_for_bit_what_one_alone_makes(search, cache):
    trials = [t for t in study(search).trials if t.state == optuna.trial.TrialState.COMPLETE]
    assert len({t.user_attrs["worker"]["name"] for t in trials}) == 2
    ready = trial_code.prepare("mnist-cnn", seed=0, cache=cache)
    for trial in trials:
        outcome = trial_code.run(ready, trial_code.Settings(task="mnist-cnn", **trial.user_attrs["parameters"]))
        assert {k: outcome.metrics[k] for k in OBJECTIVES} == dict(zip(OBJECTIVES, trial.values, strict=True))
        assert [float(f"{loss:.6g}") for loss in outcome.losses] == trial.user_attrs["curves"]["loss"]
        path = search.models / f"trial-{trial.number}.safetensors"
        if path.is_file():  # the front's
            kept = MnistCNN()
            load_weights(kept, path)
            assert all(torch.equal(a, outcome.model.state_dict()[n]) for n, a in kept.state_dict().items())


def test_the_picture_is_there(search):
    content = Path(search.result["picture"]).read_bytes()
    assert content.startswith(b"\x89PNG") and len(content) > 10_000


def test_a_real_server_shows_the_study_over_http(search):
    import mlflow

    port = free_port()
    server = start(Store(search.store), port=port)
    try:
        base = f"http://127.0.0.1:{port}"
        wait_ready(base, process=server)
        client = mlflow.MlflowClient(tracking_uri=base)
        experiment = client.get_experiment_by_name(search.study)
        [parent] = client.search_runs([experiment.experiment_id], "tags.role = 'study'")
        children = client.search_runs([experiment.experiment_id], "tags.role = 'trial'")
        assert parent.info.status == "FINISHED" and len(children) == 6
        assert parent.data.params["seed"] == "0" and float(parent.data.params["mcc_fp32"]) > 0.93
        front = {row["trial"]: row for row in search.result["front"]}
        for run in children:
            number = int(run.data.tags["trial"])
            assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
            assert run.data.tags["pareto"] == ("true" if number in front else "false")
            assert ("test_mcc" in run.data.metrics) == (number in front)
            assert run.data.params["method"] in {"pttq", "ttq"} and run.data.params["seed"] == "0"
            assert run.data.metrics["duration_seconds"] > 0
            for name in (*OBJECTIVES, "srqw", "cr_gain_quantized"):
                assert name in run.data.metrics
            if number in front:
                assert run.data.metrics["mcc"] == pytest.approx(front[number]["mcc"], rel=1e-5)
        view = json.loads(experiment.tags["mlflow.sharedViewState.front"])
        assert view["state"].startswith("deflate;")
        artifact = f"{base}/get-artifact?path=front.csv&run_uuid={parent.info.run_id}"
        with urlopen(artifact, timeout=30) as answer:
            rows = list(csv.DictReader(io.StringIO(answer.read().decode())))
        assert {int(row.get("number") or row.get("trial")) for row in rows} == set(front)
        with urlopen(f"{base}/get-artifact?path=front.png&run_uuid={parent.info.run_id}", timeout=30) as answer:
            assert answer.read(8) == b"\x89PNG\r\n\x1a\n"
        assert f"#/experiments/{experiment.experiment_id}/runs?viewStateShareKey=front" in search.result["link"]
    finally:
        stop(server)


@pytest.fixture
def fresh(tmp_path) -> Path:
    """A folder with a space whose trials last long enough to be disturbed."""
    text = (
        SMALL_SPACE.replace("trials: 6", "trials: 3")
        .replace("{low: 1, high: 2}", "8")
        .replace("epochs: 2", "epochs: 8")
    )
    (tmp_path / "space.yaml").write_text(text)
    return tmp_path


def begin(folder: Path, cache: Path, *more: object) -> subprocess.Popen:
    arguments = command("search", "space.yaml", "--study", "s", "--cache", cache, "--workers", 2, "--json", *more)
    return subprocess.Popen(arguments, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def trials(folder: Path) -> list:
    """The study's trials so far; only looks, because Optuna would create what the search is about to create."""
    path = folder / "mlflow_runs" / "studies.db"
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            if connection.execute("SELECT 1 FROM studies WHERE study_name = 's'").fetchone() is None:
                return []
    except sqlite3.OperationalError:
        return []
    return optuna.load_study(study_name="s", storage=f"sqlite:///{path}").trials


def wait_for(condition, process: subprocess.Popen, seconds=240):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.2)
    raise AssertionError("waited in vain")


def states(folder: Path) -> list[str]:
    return [t.state.name for t in trials(folder)]


def test_ctrl_c_keeps_what_is_finished_and_resume_goes_on(fresh, cache):
    process = begin(fresh, cache)
    wait_for(lambda: "COMPLETE" in states(fresh), process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 130, err
    assert "Traceback" not in err and "--resume s" in err
    kept = json.loads(out)
    assert kept["trials"]["complete"] >= 1 and kept["front"] and all(r["test_mcc"] is not None for r in kept["front"])
    assert not [c for c in psutil.process_iter(["cmdline"]) if str(fresh) in " ".join(c.info["cmdline"] or [])]
    resume = command("search", "space.yaml", "--resume", "s", "--cache", cache, "--json", "--trials", 3)
    result = subprocess.run(resume, cwd=fresh, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    value = json.loads(result.stdout)
    assert value["trials"]["complete"] == 3
    done = {t.number: t.values for t in trials(fresh) if t.state.name == "COMPLETE"}
    for row in kept["front"]:
        assert done[row["trial"]] == [row[k] for k in OBJECTIVES]


def test_a_killed_worker_is_replaced_and_its_trial_run_again(fresh, cache):
    process = begin(fresh, cache)
    # "parameters" comes last: a worker killed before has drawn some of them only, and its trial's next attempt more.
    running = wait_for(
        lambda: [t for t in trials(fresh) if t.state.name == "RUNNING" and "parameters" in t.user_attrs], process
    )
    os.kill(running[0].user_attrs["worker"]["pid"], signal.SIGKILL)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    value = json.loads(out)
    assert value["trials"]["complete"] == 3 and value["trials"]["lost"] == 1
    again = next(t for t in trials(fresh) if t.number == running[0].number)
    assert again.state.name == "COMPLETE" and again.params == running[0].params and len(trials(fresh)) == 3
    assert again.user_attrs["worker"]["pid"] != running[0].user_attrs["worker"]["pid"]


def test_resume_with_other_objectives_or_a_new_study_of_the_same_name_changes_nothing(search):
    database = search.store / "studies.db"
    before = [(t.number, t.state, t.values) for t in study(search).trials]
    other = search.folder / "other.yaml"
    other.write_text(SMALL_SPACE.replace("[mcc, cr_gain_total, ec_gain_total]", "[mcc, srqw]"))
    for arguments, message in (
        (["search", other, "--resume", search.study], "a study keeps its objectives"),
        (["search", search.space, "--study", search.study], "already exists"),
        (["search", search.space, "--resume", "never"], "There is no study 'never'"),
    ):
        result = subprocess.run(command(*arguments), cwd=search.folder, capture_output=True, text=True, timeout=600)
        assert result.returncode == 2 and message in " ".join(result.stderr.split())
    assert database.exists()
    assert [(t.number, t.state, t.values) for t in study(search).trials] == before
