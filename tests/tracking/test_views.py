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
    assert {f"mlflow.sharedViewState.{view}" for view in views.VIEWS} <= tags.keys()
