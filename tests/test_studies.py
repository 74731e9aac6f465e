"""A search as a function: what a script or a notebook gets back."""

from __future__ import annotations

import base64
import re

import pytest
import torch

import ttq_plugin
import ttq_plugin.tracking
from tests.test_api import TASK, digits
from ttq_plugin import InputError
from ttq_plugin.tasks.scoring.scores import score


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("studies")
    return ttq_plugin.search(
        TASK, trials=4, workers=2, study="mine", methods=["pttq", "ttq"], store=folder / "runs", cache=folder / "cache"
    )


def test_the_front_is_a_table_whose_models_can_be_had(study):
    front = study.front
    assert len(front) >= 1 and {"macro_f1", "test_macro_f1", "cr_gain_total", "method", "lr"} <= set(front.columns)
    number = int(front.index[0])
    trial = study.trial(number)
    data = digits(None, 0)
    assert score(trial.model, data.validation, "macro_f1").value == pytest.approx(front.macro_f1[number])
    assert score(trial.model, data.test, "macro_f1").value == pytest.approx(front.test_macro_f1[number])
    assert trial.metrics["macro_f1"] == front.macro_f1[number] and trial.parameters["method"] in ("pttq", "ttq")
    assert (front.macro_f1.diff().dropna() <= 0).all()  # best first


def test_a_trials_model_can_be_made_once_more_from_its_parameters(study, tmp_path):
    trial = study.trial(int(study.front.index[0]))
    numbers = dict(trial.parameters)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the search's workers have: sums depend on the number of threads
    try:
        folder = study.folder.parent / "cache"
        again = ttq_plugin.compress(TASK, numbers.pop("method"), cache=folder, show=False, **numbers)
    finally:
        torch.set_num_threads(threads)
    for one, other in zip(trial.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_the_optuna_study_the_table_of_trials_and_the_report(study, tmp_path):
    assert study.optuna.study_name == "mine" and len(study.optuna.trials) == len(study.trials) >= 4
    assert set(study.trials.state) <= {"complete", "pruned", "failed"}
    page = study.report(tmp_path / "page.html")
    text = page.read_text()
    assert "<td>full precision</td>" in text and "recall of 7" in text and '<table id="parts">' in text
    store = ttq_plugin.tracking.open_store(study.store)
    [experiment] = [e for e in store.client.search_experiments() if e.name == "mine"]
    runs = store.client.search_runs([experiment.experiment_id])
    roles = {run.data.tags["role"]: run for run in runs if run.data.tags.get("pareto") != "false"}
    member, whole = roles["trial"].data, roles["study"].data.metrics
    number = int(member.tags["trial"])
    assert member.metrics["recall_7"] == pytest.approx(study.trial(number).record.parts["recall_7"], rel=1e-5)
    assert "test_recall_7" in member.metrics and "test_recall_0_fp32" in whole
    assert 0 < whole["balanced_accuracy_fp32"] <= 1
    assert page == tmp_path / "page.html" and "macro F1" in page.read_text()
    assert study.report().parent == study.folder / "reports"


def test_a_notebook_shows_the_picture_and_the_table_of_the_front(study):
    shown = study._repr_html_()
    assert f"mine: {len(study.front)} member" in shown and "<table" in shown
    [code] = re.findall('src="data:image/png;base64,([^"]+)"', shown)
    assert base64.b64decode(code) == study.picture.read_bytes()


def test_what_there_is_not_is_one_sentence(study):
    with pytest.raises(InputError, match="has no finished trial 99; it has 0, 1, "):
        study.trial(99)
    others = sorted(set(study.trials.index) - set(study.front.index))
    if others:
        with pytest.raises(InputError, match="must be on the front to have weights"):
            _ = study.trial(int(others[0])).model


def test_a_study_goes_on(study):
    more = ttq_plugin.search(
        TASK,
        trials=5,
        workers=1,
        resume="mine",
        methods=["pttq", "ttq"],
        store=study.store,
        cache=study.folder.parent / "cache",
    )
    assert more.name == "mine" and len(more.trials) == len(study.trials) == 5


def test_search_is_a_package_too():
    from ttq_plugin.search.space.load import load_space

    assert ttq_plugin.search.space.load.load_space is load_space and callable(ttq_plugin.search)


def test_bad_input_is_refused_before_anything_is_trained(tmp_path):
    with pytest.raises(InputError, match="unknown method 'bogus'"):
        ttq_plugin.search(TASK, methods=["bogus"], store=tmp_path / "runs", cache=tmp_path / "cache")
    with pytest.raises(InputError, match="task must be one of"):
        ttq_plugin.search("bogus", store=tmp_path / "runs")
    assert not (tmp_path / "cache").exists()
