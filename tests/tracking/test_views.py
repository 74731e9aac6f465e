import base64
import json
import zlib

import pytest

from ttq_plugin.tracking import StudyRecorder, views

from .study import OBJECTIVES, make_trial


def unpack(tag):
    envelope = json.loads(tag)
    head, packed = envelope["state"].split(";")
    assert head == "deflate"
    return json.loads(zlib.decompress(base64.b64decode(packed)))


@pytest.mark.parametrize("count", [2, 3])
def test_a_scatter_for_each_pair_and_one_parallel_chart(records, count):
    tags = views.experiment_tags("1", "study", records, OBJECTIVES[:count], created=0)
    charts = unpack(tags["mlflow.sharedViewState.front"])["compareRunCharts"]
    kinds = [chart["type"] for chart in charts]
    assert kinds == ["SCATTER"] * (count * (count - 1) // 2) + ["PARALLEL"]
    assert all(len(value) < 5000 for value in tags.values())


def test_parallel_axes_are_parameters_that_vary_and_that_every_trial_has(records):
    other = make_trial(50, dict.fromkeys(OBJECTIVES, 0.1), parameters={"method": "ttq", "t": 0.05, "t_min": 1.0})
    assert views.searched_parameters(records) == ["t_min"]
    assert views.searched_parameters([*records, other]) == ["method", "t_min"]
    assert views.searched_parameters([]) == []


def test_the_views_are_tags_of_the_experiment_before_the_study_ends(store, records):
    recorder = StudyRecorder(store, "study", OBJECTIVES)
    recorder.sync(records[:3])
    tags = store.client.get_experiment(recorder.experiment_id).tags
    assert tags["mlflow.experimentKind"] == "custom_model_development"
    assert recorder.link() in tags["mlflow.note.content"]
    pairs = ["mcc-cr_gain_total", "mcc-ec_gain_total", "cr_gain_total-ec_gain_total"]
    for view in ["front", "front-only", "all-trials", "far-off", *pairs]:
        assert unpack(tags[f"mlflow.sharedViewState.{view}"])["compareRunCharts"]


def test_a_pair_of_objectives_has_the_page_to_itself(records):
    tags = views.experiment_tags("1", "study", records, OBJECTIVES, created=0)
    state = unpack(tags["mlflow.sharedViewState.mcc-ec_gain_total"])
    [chart] = state["compareRunCharts"]
    assert (chart["xaxis"]["key"], chart["yaxis"]["key"]) == ("MCC percent", "energy gain percent")
    assert state["compareRunSections"][0]["columns"] == 1
    two = views.experiment_tags("1", "study", records, OBJECTIVES[:2], created=0)
    assert "mlflow.sharedViewState.mcc-cr_gain_total" not in two  # it would be the front's once more


def test_a_table_has_the_method_once_and_sizes_where_they_are_known(records):
    other = make_trial(50, dict.fromkeys(OBJECTIVES, 0.1), parameters={"method": "ttq", "t_min": 1.0})
    columns = views.study_views([*records, other], OBJECTIVES)["all-trials"].columns
    assert "params.`method`" not in columns and "params.`t_min`" in columns
    assert "metrics.`kB as coordinates`" in columns and "metrics.`kB 5 weights a byte`" not in columns


def test_each_of_several_methods_has_a_view_over_its_own_parameters(records):
    other = [
        make_trial(50 + n, dict.fromkeys(OBJECTIVES, 0.1), parameters={"method": "ttq", "t": n / 10, "lr": 1.0})
        for n in range(2)
    ]
    found = views.study_views([*records, *other], OBJECTIVES)
    assert found["front"].parameters == ("method",)
    assert found["method-pttq"].parameters == ("t_min",) and found["method-ttq"].parameters == ("t",)
    assert found["method-ttq"].condition == "tags.role = 'trial' and tags.method = 'ttq'"
    assert not any(view.startswith("method-") for view in views.study_views(records, OBJECTIVES))
