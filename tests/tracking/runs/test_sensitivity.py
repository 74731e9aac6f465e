import json

import matplotlib.image
import numpy
import pytest
import torch
from torch import nn

from ttq_plugin.commands.ui import _link
from ttq_plugin.curvature import Budget, LayerTrace, chain_to_json, select
from ttq_plugin.errors import InputError
from ttq_plugin.tracking.pictures.sensitivity import plot_sensitivity
from ttq_plugin.tracking.runs import sensitivity
from ttq_plugin.tracking.runs.sensitivity import record_sensitivity


def make_selection(traces=(3.0, 0.5, 40.0, -1.0), methods=("pttq", "int8"), budget=0.8, **rules):
    torch.manual_seed(0)
    model = nn.ModuleDict({f"layer{i}": nn.Linear(20, 10) for i in range(len(traces))})
    measured = [LayerTrace(n, "Linear", 200, t, 0.2, 8) for n, t in zip(model, traces, strict=True)]
    return select(model, measured, budget, methods=methods, example_input=None, **rules)


def read(store, link):
    """The run behind a link."""
    _, _, experiment_id, _, run_id = link.split("/")
    run = store.client.get_run(run_id)
    assert run.info.experiment_id == experiment_id
    return run


def test_everything_is_in_one_run(store, tmp_path):
    selection = make_selection(exclude=["layer2"])
    config = chain_to_json(selection.chain)
    parameters = {"seed": 3, "methods": "pttq,int8", "budget_share": 0.8, "tol": None}
    run = read(store, record_sensitivity(store, "toy", selection.to_dict(), config, parameters, "a title"))
    assert run.info.status == "FINISHED" and run.info.run_name == "a title"
    assert run.data.params == {"seed": "3", "methods": "pttq,int8", "budget_share": "0.8"}
    assert run.data.tags["role"] == "sensitivity" and run.data.tags["task"] == "toy"
    assert run.data.tags["mlflow.note.content"] == "\n".join(f"- {note}" for note in selection.notes)
    for layer, method in selection.methods.items():
        assert run.data.tags[f"method.{layer}"] == method
    metrics = run.data.metrics
    assert metrics["sensitivity"] == pytest.approx(selection.sensitivity, rel=1e-5)
    assert metrics["bits"] == selection.bits and metrics["gap"] == 0 and "energy" not in metrics
    assert [metrics[f"trace/layer{i}"] for i in range(4)] == [3.0, 0.5, 40.0, -1.0]
    assert metrics["trace_error/layer3"] == 0.2
    for row in selection.rows:
        for option in row.options:
            key = f"{row.layer}/{option.method}"
            assert metrics[f"sensitivity/{key}"] == pytest.approx(option.sensitivity, rel=1e-5)
            assert metrics[f"sensitivity_error/{key}"] == pytest.approx(option.standard_error, rel=1e-5)
    assert metrics["sensitivity/layer3/pttq"] < 0
    folder = store.client.download_artifacts(run.info.run_id, "", str(tmp_path))
    files = {path.name: path for path in tmp_path.rglob("*.*") if path.suffix in {".png", ".json"}}
    assert set(files) == {"sensitivity.png", "config.json", "sensitivity.json"} and folder
    assert json.loads(files["config.json"].read_text()) == config
    assert json.loads(files["sensitivity.json"].read_text()) == json.loads(json.dumps(selection.to_dict()))
    assert matplotlib.image.imread(files["sensitivity.png"]).shape[1] > 1000


def test_a_second_analysis_joins_the_experiment_and_a_wide_model_fits(store):
    first = read(store, record_sensitivity(store, "toy", make_selection().to_dict(), []))
    wide = make_selection(traces=[0.1 + i for i in range(120)], methods=("pttq",))
    many = {f"p{i}": i for i in range(130)}
    second = read(store, record_sensitivity(store, "toy", wide.to_dict(), [], many))
    assert first.info.experiment_id == second.info.experiment_id
    assert len([tag for tag in second.data.tags if tag.startswith("method.")]) == 120
    assert len(second.data.params) == 130
    assert len([metric for metric in second.data.metrics if metric.startswith("trace/")]) == 120


def test_the_interface_opens_at_it_where_there_is_no_study(store):
    with pytest.raises(InputError, match="holds nothing to show yet"):
        _link(store, None)
    link = record_sensitivity(store, "toy", make_selection().to_dict(), [])
    assert _link(store, None) == link.rsplit("/", 1)[0] + "?workflowType=machine_learning"
    with pytest.raises(InputError, match="there is no study 'toy' in this store; it holds none yet"):
        _link(store, "toy")


def test_a_run_that_cannot_be_completed_is_failed(store, monkeypatch):
    def broken(*_):
        raise OSError("disk full")

    monkeypatch.setattr(sensitivity, "plot_sensitivity", broken)
    with pytest.raises(OSError, match="disk full"):
        record_sensitivity(store, "toy", make_selection().to_dict(), [])
    experiment = store.client.get_experiment_by_name("toy sensitivity")
    [run] = store.client.search_runs([experiment.experiment_id])
    assert run.info.status == "FAILED"


def test_a_deleted_experiment_is_refused(store):
    record_sensitivity(store, "toy", make_selection().to_dict(), [])
    store.client.delete_experiment(store.client.get_experiment_by_name("toy sensitivity").experiment_id)
    with pytest.raises(InputError, match="'toy sensitivity' must be active in MLflow, got a deleted one"):
        record_sensitivity(store, "toy", make_selection().to_dict(), [])


RED, GREY = (214, 39, 40), (154, 160, 166)


def drawn(path, colour, panel):
    """How many pixels of that colour the panel (0, 1 or 2) of a picture holds."""
    pixels = matplotlib.image.imread(path)
    width = pixels.shape[1] // 3
    part = pixels[:, panel * width : (panel + 1) * width, :3] * 255
    return int((abs(part - numpy.array(colour)).max(axis=-1) < 12).sum())


def test_chosen_layers_are_red_and_the_others_grey(tmp_path):
    some = plot_sensitivity(make_selection(budget=0.5).to_dict(), tmp_path / "new" / "a.png", "title")
    every = plot_sensitivity(make_selection(budget=1.0).to_dict(), tmp_path / "new" / "b.png", "title")
    legend = drawn(every, GREY, 0)
    assert drawn(every, RED, 0) > drawn(some, RED, 0) > 100
    assert drawn(some, GREY, 0) > legend + 100
    assert drawn(some, RED, 1) > 100, "rings around the chosen methods"
    assert drawn(some, RED, 2) > 100
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["a.png", "b.png"]  # no temporary file stays


@pytest.mark.parametrize(
    "traces",
    [
        [1.0],
        [0.0, 0.0],
        [-1.0, -2.0],
        [1e-12, 1.0, 1e9],
        [-1e-12, 1e12],
        [0.5 + i for i in range(150)],
    ],
    ids=["one", "zero", "negative", "wide", "both", "many"],
)
def test_any_traces_can_be_drawn(traces, tmp_path, recwarn):
    selection = make_selection(traces, budget=Budget(share=0.5))
    path = plot_sensitivity(selection.to_dict(), tmp_path / "a.png")
    assert drawn(path, RED, 0) > 50
    assert [str(w.message) for w in recwarn if "matplotlib" in str(w.filename)] == []


def test_a_picture_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        plot_sensitivity(make_selection().to_dict(), tmp_path / "file" / "a.png")
