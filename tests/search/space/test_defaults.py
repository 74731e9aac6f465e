"""Tasks without a space file: the space that follows from the recipe, and a whole search of a regression."""

import json
import subprocess
import sys
from itertools import product
from pathlib import Path

import house
import optuna
import pytest
import yaml

from ttq_plugin.core import METHODS as TERNARIZERS
from ttq_plugin.errors import InputError
from ttq_plugin.search.space.load import load_space, parse_space
from ttq_plugin.tasks.task import Recipe

MODULE = Path(house.__file__)


def test_the_space_follows_from_the_tasks_recipe_and_metric():
    space = load_space("house:TASK")
    assert space.task == "house:TASK" and space.objectives == ("rmse", "cr_gain_total", "ec_gain_total")
    assert not space.objectives[0].higher and space.trials == 40 and list(space.methods["pttq"]) == ["zeros", "alpha"]
    lr, epochs = space.parameters["lr"], space.parameters["epochs"]
    assert (lr.low, lr.high, lr.log) == (3e-4, 9e-3, True) and (epochs.low, epochs.high) == (1, 3)
    assert parse_space(space.text, "again") == space and set(space.methods) == {"pttq"}
    first = space.enqueued()
    assert [setting["pttq.zeros"] for setting in first] == [0.6, 0.8, 0.92] and {s["lr"] for s in first} == {9e-4}
    own = load_space("house:WORST", {"trials": 5})
    assert own.trials == 5 and (str(own.score), own.score.label, own.score.higher) == (
        "worst_error",
        "worst error",
        False,
    )


def test_thresholds_are_searched_instead():
    names = {"pttq": ["t_min", "t_max", "alpha"], "attq": ["t_min", "t_max"], "ttq": ["t"]}
    for space in ("house:TASK", "mnist-cnn"):
        three = load_space(space, {"only": list(names), "trials": 7}, thresholds=True)
        assert {method: list(own) for method, own in three.methods.items()} == names and three.trials == 7
        assert [entry["method"] for entry in three.enqueued()] == list(names)
        one = load_space(space, thresholds=True)
        assert list(one.methods) == ["pttq"] and one.methods["pttq"] == three.methods["pttq"]
        assert [entry["pttq.t_min"] for entry in one.enqueued()] == [1.0]
    with pytest.raises(
        InputError, match="--thresholds needs a space that gives a method a share of zeros, got one without"
    ):
        load_space("esr-2dcnn", thresholds=True)


@pytest.mark.parametrize("method", [name for name in TERNARIZERS if name != "pttq-released"])
def test_every_method_has_its_ranges(method):
    space = load_space("house:TASK", {"only": [method]})
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    for _ in range(5):
        settings = space.settings(space.suggest(study.ask()), 0)
        assert settings["method"] == method and 1 <= settings["epochs"] <= 3


@pytest.mark.parametrize("epochs, bounds", [(1, (1, 3)), (30, (3, 10)), (900, (10, 30))])
def test_the_longest_training_is_a_third_of_the_recipes(monkeypatch, epochs, bounds):
    from dataclasses import replace

    monkeypatch.setattr(house, "TASK", replace(house.TASK, recipe=Recipe(epochs, 0.1)))
    found = load_space("house:TASK").parameters["epochs"]
    assert (found.low, found.high) == bounds


def test_a_file_of_an_own_task_takes_its_metric(tmp_path, space_text):
    path = tmp_path / "space.yaml"
    path.write_text(space_text.replace("mnist-cnn", "house:TASK").replace("[mcc,", "[rmse,"))
    space = load_space(path, task="house:TASK")
    assert space.metric.name == "rmse" and yaml.safe_load(space.text)["metric"]["name"] == "rmse"
    path.write_text(space_text.replace("mnist-cnn", "house:TASK"))
    with pytest.raises(InputError, match=r"objectives\[0\]: unknown objective 'mcc', allowed: rmse, "):
        load_space(path, task="house:TASK")
    path.write_text(space_text.replace("mnist-cnn", "house:TASK") + "\nmetric: mcc\n")
    with pytest.raises(InputError, match="metric must be house:TASK's own, rmse, got 'mcc'; leave it out"):
        load_space(path, task="house:TASK")
    path.write_text(space_text.replace("mnist-cnn", "house:MISSING"))
    with pytest.raises(InputError, match="the task 'house:MISSING' cannot be imported"):
        load_space(path, task="house:MISSING")


def ttq(*arguments, cwd):
    command = [sys.executable, "-m", "ttq_plugin.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=600)


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    """A search of eight trials of a task in a module of the current folder, by the command."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "mine.py").write_text(MODULE.read_text())
    result = ttq(
        "search", "mine:TASK", "--study", "s", "--trials", 8, "--workers", 1, "--constraint", "rmse <= 1.5",
        "--store", "store", "--cache", "cache", "--json", cwd=folder,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return folder, json.loads(result.stdout)


def test_the_front_is_that_of_the_natural_values(searched):
    folder, result = searched
    assert result["metric"] == "rmse" and result["full_precision"].keys() == {"rmse", "test_rmse", "parts"}
    space = load_space_of(folder)
    from ttq_plugin.search.study.ledger import finished
    from ttq_plugin.search.study.study import load_study

    trials = finished(load_study(f"sqlite:///{folder}/store/studies.db", "s"))
    vectors = {
        t.number: [t.metrics["rmse"], *(-t.metrics[name] for name in space.objectives[1:])]
        for t in trials
        if t.state == "complete" and t.metrics["rmse"] <= 1.5
    }
    beaten = {a for (a, v), (b, w) in product(vectors.items(), repeat=2) if w != v and all(map(float.__le__, w, v))}
    assert {row["trial"] for row in result["front"]} == vectors.keys() - beaten
    errors = [row["rmse"] for row in result["front"]]
    assert errors == sorted(errors) and all(0.3 < row["test_rmse"] < 3 for row in result["front"])


def load_space_of(folder):
    from ttq_plugin.search.study.study import load_study, stored_space

    return stored_space(load_study(f"sqlite:///{folder}/store/studies.db", "s"))


def test_mlflow_and_the_report_say_rmse(searched):
    from ttq_plugin.tracking import open_store

    folder, result = searched
    client = open_store(folder / "store").client
    [experiment] = [e for e in client.search_experiments() if e.name == "s"]
    runs = client.search_runs([experiment.experiment_id], max_results=100)
    study = next(run for run in runs if run.data.tags["role"] == "study")
    assert float(study.data.params["rmse_fp32"]) == result["full_precision"]["rmse"]
    members = {row["trial"]: row for row in result["front"]}
    for run in (run for run in runs if run.data.tags["role"] == "trial"):
        member = int(run.data.tags["trial"]) in members
        assert ("test_rmse" in run.data.metrics) == member and "mcc" not in run.data.metrics
        if run.info.status == "FINISHED":
            assert run.data.metrics["rmse"] > 0
    # The study is read where the task's module is not.
    away = folder / "away"
    away.mkdir()
    made = ttq("report", "s", "--store", folder / "store", "--out", "p.html", "--floor", 9, "--json", cwd=away)
    assert made.returncode == 0, made.stderr
    pick = json.loads(made.stdout)["pick"]
    assert pick["rmse"] == pytest.approx(members[pick["trial"]]["rmse"])
    page = (away / "p.html").read_text()
    assert "<th>RMSE (validation)</th>" in page and "<th>RMSE (test)</th>" in page
    assert "MCC" not in page.split("<script>")[0]
    refused = ttq("report", "s", "--store", folder / "store", "--floor", 0.01, cwd=away)
    assert refused.returncode == 2 and "no member of the front has RMSE <= 0.01; the best has" in refused.stderr
