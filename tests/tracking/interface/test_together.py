"""The fronts of a task's studies in one experiment: what is written, and what stays when it is written again."""

from tests.tracking.study import OBJECTIVES, front_of, make_study, make_trial
from ttq_plugin.tracking import StudyRecorder
from ttq_plugin.tracking.interface.landing import seeds, with_views
from ttq_plugin.tracking.interface.together import show_together
from ttq_plugin.tracking.views import unpacked


def shown(store, by):
    experiment = store.client.get_experiment_by_name("mnist-cnn fronts")
    return store.client.search_runs([experiment.experiment_id], f"tags.by = '{by}'", max_results=1000)


def recorded(store, name, records, whole=0.97):
    recorder = StudyRecorder(store, name, OBJECTIVES, {"mcc_fp32": whole})
    recorder.sync(records)
    return front_of(recorder, records)


def test_studies_stand_side_by_side_by_study_and_by_method(store):
    other = [make_trial(0, dict.fromkeys(OBJECTIVES, 0.9), parameters={"method": "ttq", "t": 0.1})]
    first, second = recorded(store, "a", make_study()), recorded(store, "b", other)
    for front in (first, second, first):  # the first is resumed
        link = show_together(store, front)
    runs = shown(store, "study")
    colours = {}
    for run in runs:
        colours.setdefault((run.data.tags["study"], run.data.tags["method"]), set()).add(
            run.data.tags["mlflow.runColor"]
        )
    assert colours == {
        ("a", "pttq"): {"#d62728"},
        ("b", "ttq"): {"#1f5fa8"},
        ("a", "full precision"): {"#111111"},
        ("b", "full precision"): {"#111111"},
    }
    assert len(runs) == len(first.members) + 1 + 2
    by_method = {run.data.tags["method"]: run.data.tags["mlflow.runColor"] for run in shown(store, "method")}
    assert by_method.keys() == {"pttq", "ttq", "full precision"} and len(set(by_method.values())) == 3
    [ttq] = [run for run in runs if run.data.tags["method"] == "ttq"]
    assert ttq.info.run_name == "ttq, MCC 90.0 #0 (b)" and ttq.data.metrics["MCC percent"] == 90
    assert f"#/experiments/{second.experiment_id}/runs/{second.runs[0]}" in ttq.data.tags["mlflow.note.content"]
    assert "viewStateShareKey=by-study" in link


def test_a_member_that_left_the_front_leaves_the_page(store):
    show_together(store, recorded(store, "a", [make_trial(0, dict.fromkeys(OBJECTIVES, 0.5))]))
    better = [make_trial(0, dict.fromkeys(OBJECTIVES, 0.5)), make_trial(1, dict.fromkeys(OBJECTIVES, 0.6))]
    show_together(store, recorded(store, "a", better))
    assert {run.data.tags["key"] for run in shown(store, "study")} == {"study 1", "study full precision"}


def test_a_run_whose_writer_was_killed_is_written_again(store):
    front = recorded(store, "a", make_study())
    show_together(store, front)
    [one, *_] = shown(store, "study")
    store.client.update_run(one.info.run_id, status="RUNNING")
    show_together(store, front)
    runs = shown(store, "study")
    assert len(runs) == len(front.members) + 1 and {run.info.status for run in runs} == {"FINISHED"}
    assert one.info.run_id not in {run.info.run_id for run in runs}


def test_pages_begin_with_the_views_and_nothing_in_them_ends_the_script(store):
    front = recorded(store, "</script><script>alert(1)</script>", make_study())
    show_together(store, front)
    views = seeds(store)
    together = store.client.get_experiment_by_name("mnist-cnn fronts")
    assert views.keys() == {front.experiment_id, together.experiment_id}
    assert views[together.experiment_id] == unpacked(together.tags["mlflow.sharedViewState.by-study"])
    assert views[together.experiment_id]["searchFilter"] == "tags.by = 'study' and tags.far = 'false'"
    page = with_views("<html><head><title>MLflow</title></head></html>", {"1": {"name": front.study}})
    assert page.count("</script>") == 1 and page.endswith("</script><title>MLflow</title></head></html>")
