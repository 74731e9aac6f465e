import csv
import dataclasses
import math
from urllib.parse import unquote

import pytest
from mlflow.store.artifact.local_artifact_repo import _TEMP_ARTIFACT_PREFIX

from ttq_plugin.errors import InputError
from ttq_plugin.tracking import StudyRecorder, children, front, open_store, views
from ttq_plugin.tracking.interface.about import run_name

from .study import OBJECTIVES, make_trial


def trial_runs(store, recorder):
    runs = store.client.search_runs([recorder.experiment_id], "tags.role = 'trial'", max_results=1000)
    return {int(run.data.tags["trial"]): run for run in runs}


def snapshot(store, recorder):
    """Everything that is stored about the study's runs."""
    runs = store.client.search_runs([recorder.experiment_id], max_results=1000)
    return {run.info.run_id: run.to_dictionary() for run in runs}


def test_every_trial_becomes_one_child_run(store, records):
    recorder = StudyRecorder(store, "study", OBJECTIVES, {"seed": 7})
    recorder.sync(records)
    runs = trial_runs(store, recorder)
    assert runs.keys() == {record.number for record in records}
    members = front(records, OBJECTIVES)
    for record in records:
        run = runs[record.number]
        assert run.info.run_name == run_name(record, "mcc", "pttq")
        assert run.data.tags["mlflow.parentRunId"] == recorder.run_id
        assert run.data.tags["pareto"] == str(record.number in members).lower()
        assert run.data.tags["mlflow.runColor"] == ("#d62728" if record.number in members else "#b8bcc2")
        assert run.data.tags["method"] == "pttq"
        assert run.data.tags["origin"] == record.origin
        assert run.data.params["seed"] == str(record.seed)
        assert "t" not in run.data.params  # None: does not apply
        assert run.info.start_time == round(1000 * record.started)
        assert run.info.end_time == round(1000 * (record.started + record.seconds))


def test_metrics_are_rounded_whole_numbers_exact_and_non_finite_ones_left_out(store):
    metrics = {"mcc": 0.123456789, "ec_total": 1.23456789e-9, "bits": 123456789.0, "bad": math.nan, "worse": math.inf}
    recorder = StudyRecorder(store, "study", list(metrics))
    recorder.sync([make_trial(0, metrics)])
    logged = trial_runs(store, recorder)[0].data.metrics
    whole = {"mcc": 0.123457, "ec_total": 1.23457e-9, "bits": 123456789.0, "duration_seconds": 30.5}
    assert logged == {**whole, "MCC percent": 12.35}


def test_a_run_has_its_objectives_and_few_metrics_more(store, records):
    recorder = StudyRecorder(store, "study", ("mcc", "bits_gain"))
    more = {"bits_gain": 0.4, "bits_coo34": 7.0, "mult_adds": 8.0, "energy": 9.0}
    recorder.sync([make_trial(0, dict.fromkeys(OBJECTIVES, 0.5) | more)])
    percent = {"MCC percent", "compression gain percent", "energy gain percent"}
    shown = {*OBJECTIVES, "bits_gain", "duration_seconds", *percent, "kB as coordinates"}
    logged = trial_runs(store, recorder)[0].data.metrics
    assert logged.keys() == shown and logged["kB as coordinates"] == 7 / 8000


def test_full_precision_has_a_run_of_its_own_and_a_trial_far_below_it_a_mark(store):
    scores = {0: 0.95, 1: 0.90, 2: 0.80}
    made = [make_trial(n, {"mcc": score, "cr_gain_total": 0.5 + n / 10}) for n, score in scores.items()]
    for _ in range(2):  # a resumed study does not have it twice
        recorder = StudyRecorder(store, "study", OBJECTIVES[:2], {"mcc_fp32": 0.96})
        recorder.sync(made)
        begun = store.client.search_runs([recorder.experiment_id], "tags.role = 'full precision'")
        store.client.update_run(begun[0].info.run_id, status="RUNNING")  # as if its writer was killed
    StudyRecorder(store, "study", OBJECTIVES[:2], {"mcc_fp32": 0.96})
    [whole] = store.client.search_runs([recorder.experiment_id], "tags.role = 'full precision'")
    assert whole.info.run_name == "full precision, MCC 96.0" and whole.info.status == "FINISHED"
    assert whole.data.metrics["mcc"] == 0.96 and whole.data.metrics["cr_gain_total"] == 0
    assert whole.data.metrics["MCC percent"] == 96 and whole.data.tags["mlflow.runColor"] == "#111111"
    assert {n: run.data.tags["far"] for n, run in trial_runs(store, recorder).items()} == {
        0: "false",
        1: "false",
        2: "true",
    }
    near = store.client.search_runs([recorder.experiment_id], views.NEAR)
    assert {run.data.tags.get("trial") for run in near} == {"0", "1", None}
    members = store.client.search_runs([recorder.experiment_id], views.MEMBERS)
    assert {run.data.tags.get("trial") for run in members} == {"0", "1", "2", None}  # and not the study's own run


def test_a_page_has_a_description_the_command_and_the_model(store):
    metrics = {"mcc": 0.9, "cr_gain_total": 0.5, "srqw": 0.92, "bits_coo34": 40_000}
    made = make_trial(3, metrics, notes=["a threshold was lowered"])
    recorder = StudyRecorder(store, "study", OBJECTIVES[:2], command=lambda record: f"ttq compress {record.number}")
    recorder.sync([made])
    model = store.client.create_logged_model(recorder.experiment_id, "trial-3", recorder.run_of(3)).model_id
    before = trial_runs(store, recorder)[3].data.metrics
    for _ in range(2):
        recorder.log_model(3, model)
    run = trial_runs(store, recorder)[3]
    note = run.data.tags["mlflow.note.content"]
    told = "Trial 3: MCC 90.00 % on validation data; compression gain 50.00 %; zeros 92.00 %; 5 kB as coordinates."
    assert note.startswith(told)
    assert "```\nttq compress 3\n```" in note and "- a threshold was lowered" in note
    assert note.count(f'`mlflow.pyfunc.load_model("models:/{model}")`') == 1
    logged = store.client.get_logged_model(model)
    own = logged.tags["mlflow.note.content"]
    assert note.startswith(own) and "ttq compress 3" in own
    assert {metric.key: metric.value for metric in logged.metrics} == {
        **{"MCC percent": 90, "compression gain percent": 50, "zeros percent": 92, "kB as coordinates": 5},
    }
    assert run.data.metrics == before and list(before)[0] == "MCC percent"  # what people read is on top


def test_the_studys_own_page_says_what_it_is_unless_a_person_says_it(store, records):
    recorder = StudyRecorder(store, "study", OBJECTIVES, {"task": "mnist-cnn"})
    recorder.finish(records[:3])
    recorder.finish(records)
    members = len(front(records, OBJECTIVES))
    note = store.client.get_run(recorder.run_id).data.tags["mlflow.note.content"]
    told = f"The study study of the task mnist-cnn: 23 of 24 trials are complete, and {members} of them are on the "
    assert note.startswith(f"{told}[trade-off front]({recorder.link()}).")
    store.client.set_tag(recorder.run_id, "mlflow.note.content", "for the paper")
    recorder.finish(records)
    assert store.client.get_run(recorder.run_id).data.tags["mlflow.note.content"] == "for the paper"


def test_full_precision_comes_before_any_number_of_members(store):
    recorder = StudyRecorder(store, "study", OBJECTIVES[:2], {"mcc_fp32": 0.96})
    recorder.sync([make_trial(n, {"mcc": 0.9 + n / 100, "cr_gain_total": 0.5 - n / 10}) for n in range(3)])
    runs = store.client.search_runs([recorder.experiment_id], views.NEAR, order_by=["tags.pareto DESC"])
    assert [run.data.tags["role"] for run in runs] == ["full precision", "trial", "trial", "trial"]


def test_a_failed_trial_says_why_and_has_no_metrics(store, records):
    recorder = StudyRecorder(store, "study", OBJECTIVES)
    recorder.sync(records)
    run = trial_runs(store, recorder)[5]
    assert run.info.status == "FAILED"
    assert run.data.tags["reason"].startswith("Diverged")
    assert run.data.metrics == {}


def test_syncing_twice_changes_nothing(store, records):
    recorder = StudyRecorder(store, "study", OBJECTIVES)
    recorder.sync(records)
    before = snapshot(store, recorder)
    recorder.sync(records)
    assert snapshot(store, recorder) == before


def test_a_better_trial_takes_over_the_front(store, records):
    recorder = StudyRecorder(store, "study", OBJECTIVES)
    recorder.sync(records)
    winner = make_trial(len(records), dict.fromkeys(OBJECTIVES, 1.0))
    recorder.sync([*records, winner])
    tags = {number: run.data.tags["pareto"] for number, run in trial_runs(store, recorder).items()}
    assert [number for number, pareto in tags.items() if pareto == "true"] == [winner.number]


def test_a_resumed_study_goes_on_in_the_same_runs(store, records):
    first = StudyRecorder(store, "study", OBJECTIVES, {"seed": 7, "trials": 10})
    first.finish(records[:10], "KILLED")
    assert store.client.get_run(first.run_id).info.status == "KILLED"

    second = StudyRecorder(store, "study", OBJECTIVES, {"seed": 7, "trials": 24})
    assert (second.experiment_id, second.run_id) == (first.experiment_id, first.run_id)
    run = store.client.get_run(second.run_id)
    assert run.info.status == "RUNNING"
    # A parameter is immutable in MLflow: the new budget stands beside the first.
    assert (run.data.params["trials"], run.data.tags["resumed.trials"]) == ("10", "24")

    second.finish(records)
    runs = store.client.search_runs([second.experiment_id], max_results=1000)
    assert len(runs) == 1 + len(records)
    assert {run.info.status for run in runs} == {"FINISHED", "FAILED"}
    study = store.client.get_run(second.run_id)
    assert study.data.metrics == {"trials": 24, "failed": 1, "front_size": len(front(records, OBJECTIVES))}


@pytest.mark.parametrize("moment", ["log_batch", "set_terminated"])
def test_a_writer_killed_in_the_middle_of_a_trial_leaves_nothing_double_or_open(store, records, monkeypatch, moment):
    class Killed(Exception):
        pass

    def die(*args, **kwargs):
        raise Killed

    first = StudyRecorder(store, "study", OBJECTIVES)
    first.sync(records[:3])
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(type(store.client), moment, die)
        first.sync(records[:4])

    fresh = open_store(store.directory)
    second = StudyRecorder(fresh, "study", OBJECTIVES)
    second.finish(records)
    runs = fresh.client.search_runs([second.experiment_id], max_results=1000)
    assert len(runs) == 1 + len(records)
    assert "RUNNING" not in {run.info.status for run in runs}
    run_id = trial_runs(fresh, second)[3].info.run_id
    assert len(fresh.client.get_metric_history(run_id, "mcc")) == 1


@pytest.mark.parametrize("study", ["study", "a study: 50 %/x"])
def test_half_an_artifact_of_a_killed_writer_is_removed(store, records, tmp_path, study):
    (tmp_path / "note.txt").write_text("whole")
    first = StudyRecorder(store, study, OBJECTIVES)
    first.sync(records[:1])
    first.log_file(tmp_path / "note.txt", "model", records[0].number)
    (note,) = store.directory.rglob("note.txt")
    half = note.with_name(f"{_TEMP_ARTIFACT_PREFIX}x1y2")
    half.write_text("wh")
    StudyRecorder(store, study, OBJECTIVES)
    assert note.read_text() == "whole" and not half.exists()


def test_a_run_whose_trial_vanished_is_closed(store, records):
    recorder = StudyRecorder(store, "study", OBJECTIVES)
    lost = children.create(store, recorder.experiment_id, recorder.run_id, records[9], children.membership(False))
    resumed = StudyRecorder(store, "study", OBJECTIVES)
    resumed.finish(records[:5])
    assert store.client.get_run(lost.run_id).info.status == "KILLED"


def test_the_front_is_written_as_a_table_and_a_picture(store, records, tmp_path):
    recorder = StudyRecorder(store, "a study: 50 %/x", OBJECTIVES)
    recorder.sync(records)
    members = front(records, OBJECTIVES)
    tested = max(members)
    recorder.log_test(tested, 0.87654321)
    recorder.finish(records)
    names = {file.path for file in store.client.list_artifacts(recorder.run_id)}
    assert names == {"front.csv", "front.png"}
    location = store.client.get_experiment(recorder.experiment_id).artifact_location
    assert location.startswith(store.artifacts)
    assert "/" not in unquote(location.removeprefix(f"{store.artifacts}/")) and location != store.artifacts

    path = store.client.download_artifacts(recorder.run_id, "front.csv", str(tmp_path))
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    assert {int(row["number"]) for row in rows} == members
    assert list(rows[0])[:6] == ["number", "origin", "method", "t_min", "t", "epochs"]
    assert [float(row["mcc"]) for row in rows] == sorted((float(row["mcc"]) for row in rows), reverse=True)
    tests = {int(row["number"]): row["test_mcc"] for row in rows}
    assert tests[tested] == "0.876543"
    assert sum(bool(value) for value in tests.values()) == 1


def test_a_test_score_survives_a_resume_and_is_only_for_the_front(store, records):
    first = StudyRecorder(store, "study", OBJECTIVES)
    first.sync(records)
    member = min(front(records, OBJECTIVES))
    first.log_test(member, 0.9)
    second = StudyRecorder(store, "study", OBJECTIVES)
    second.log_test(member, 0.9)
    run_id = trial_runs(store, second)[member].info.run_id
    assert [metric.value for metric in store.client.get_metric_history(run_id, "test_mcc")] == [0.9]
    with pytest.raises(InputError, match="test_mcc is for members of the front, got trial 5"):
        second.log_test(5, 0.9)
    with pytest.raises(InputError, match="must have been recorded, got number 99"):
        second.log_test(99, 0.9)


def test_files_go_to_the_study_or_to_a_trial(store, records, tmp_path):
    recorder = StudyRecorder(store, "study", OBJECTIVES)
    recorder.sync(records)
    (tmp_path / "m.safetensors").write_bytes(b"x")
    recorder.log_file(tmp_path / "m.safetensors", "model", number=2)
    run_id = trial_runs(store, recorder)[2].info.run_id
    assert [file.path for file in store.client.list_artifacts(run_id, "model")] == ["model/m.safetensors"]


def test_the_link_opens_the_front(store):
    recorder = StudyRecorder(store, "study", OBJECTIVES)
    fragment = f"#/experiments/{recorder.experiment_id}/runs?viewStateShareKey=front&compareRunsMode=CHART"
    assert recorder.link().startswith(fragment)
    assert recorder.link("127.0.0.1", 5000) == "http://127.0.0.1:5000/" + recorder.link()


def test_a_study_without_any_complete_trial_still_finishes(store):
    recorder = StudyRecorder(store, "study", OBJECTIVES)
    recorder.finish([dataclasses.replace(make_trial(0), state="failed", reason="out of memory")])
    assert store.client.get_run(recorder.run_id).data.metrics == {"trials": 1, "failed": 1, "front_size": 0}


def test_one_objective_is_refused(store):
    with pytest.raises(InputError, match=r"at least two objectives, got \['mcc'\]"):
        StudyRecorder(store, "study", ["mcc"])


def test_a_deleted_study_is_refused(store):
    recorder = StudyRecorder(store, "study", OBJECTIVES)
    store.client.delete_experiment(recorder.experiment_id)
    with pytest.raises(InputError, match="'study' must be active in MLflow, got a deleted one"):
        StudyRecorder(store, "study", OBJECTIVES)


@pytest.mark.parametrize("whose", ["front", "all", "none"])
def test_epochs_are_logged_of_whom_was_asked_for_and_once(store, whose):
    vectors = [(0.9, 0.1, 0.1), (0.8, 0.0, 0.0), (0.1, 0.9, 0.9)]
    curves = {"loss": [0.7, 0.5, math.nan, 0.25]}
    records = [make_trial(n, dict(zip(OBJECTIVES, v, strict=True)), curves=curves) for n, v in enumerate(vectors)]
    for _ in range(2):
        recorder = StudyRecorder(store, "study", OBJECTIVES)
        recorder.finish(records, curves=whose)
    drawn = {
        number: [(m.step, m.value) for m in store.client.get_metric_history(run.info.run_id, "loss")]
        for number, run in trial_runs(store, recorder).items()
    }
    expected = {"front": {0, 2}, "all": {0, 1, 2}, "none": set()}[whose]
    assert {number for number, steps in drawn.items() if steps} == expected
    assert all(drawn[number] == [(1, 0.7), (2, 0.5), (4, 0.25)] for number in expected)
