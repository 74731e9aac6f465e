"""The report: what it says, that it needs nothing beside it, and that its JSON twin holds the same numbers."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace

import pytest

from ttq_plugin.reproduce import plots
from ttq_plugin.reproduce.beyond import goals
from ttq_plugin.reproduce.cells import Cell, Plan, cells
from ttq_plugin.reproduce.published import published
from ttq_plugin.reproduce.report import grouped, write_report
from ttq_plugin.reproduce.summary import environments, summarize
from ttq_plugin.support.machine import environment


def result(cell: Cell, **changes):
    """Made-up numbers of a cell, different for each seed."""
    metrics = {"mcc": 0.9, "srqw": 0.6, "cr_gain_total": 0.3, "cr_gain_quantized": 0.5, "ec_gain_total": 0.4}
    base = {
        "seed": cell.seed,
        "settings": cell.settings,
        "metrics": metrics if cell.settings else {"mcc": 0.9},
        "test_mcc": 0.94 + cell.seed / 100,
        "fp_test_mcc": 0.95,
        "fp_mcc": 0.91,
        "curve": [0.5, 0.6] if cell.settings else [],
        "notes": [],
        "seconds": 2.0,
    }
    return base | changes


CIRCUMSTANCES = {
    "command": "ttq reproduce main",
    "seeds": [0, 1],
    "scale": 1.0,
    "precision": "float32",
    "layers": ["conv1", "conv2"],
    "recipe": {"epochs": 70, "lr": 1e-3, "schedule": "plateau", "dropout": None, "warmup": 4000},
    "samples": 4800,
    "refit": False,
    "simulated": False,
    "data": "mnist.npz",
    "contradictions": ["pttq: a number is off."],
    "environments": [
        {"processor": "one", "cores": 2, "gpu": None, "python": "3.11", "torch": "2.13.0", "trainings": 12},
        {"processor": "two", "cores": 16, "gpu": "a card", "python": "3.12", "torch": "2.11.0", "trainings": 2},
    ],
    "seconds": 10.0,
}


def summary(table, name="mnist-cnn", change=lambda cell: {}, **circumstances):
    paper = published(name)
    pairs = [(cell, result(cell, **change(cell))) for cell in cells(table, paper, Plan([0, 1]))]
    return summarize(table, paper, pairs) | CIRCUMSTANCES | circumstances


def columns(made, row):
    return next(entry["columns"] for entry in made["rows"] if entry["row"] == row)


def test_ours_beside_the_published():
    made = summary("main")
    pttq = columns(made, "pttq")
    assert pttq["mcc"]["mean"] == pytest.approx(94.5) and pttq["mcc"]["published"] == [91.01, 0.61]
    assert pttq["mcc"]["difference"] == pytest.approx(3.49)
    assert pttq["mcc_change"]["mean"] == pytest.approx(-0.5)
    assert pttq["mcc_change"]["published"] == pytest.approx([-3.38, (0.61**2 + 0.46**2) ** 0.5])
    assert pttq["srqw"]["published"] == [65.79, 1.8] and "published" not in columns(made, "lsq-int2")["srqw"]
    assert columns(made, "fp").keys() == {"mcc"}


def test_a_row_that_diverged_is_counted_and_not_averaged():
    lost = {"metrics": None, "test_mcc": None, "notes": ["diverged: the loss became nan"], "curve": []}
    made = summary("main", change=lambda cell: lost if (cell.row, cell.seed) == ("ttq", 1) else {})
    row = next(entry for entry in made["rows"] if entry["row"] == "ttq")
    assert (row["repetitions"], row["diverged"]) == (2, 1) and row["columns"]["mcc"]["values"] == pytest.approx([94.0])
    both = summary("main", change=lambda cell: lost if cell.row == "ttq" else {})
    assert columns(both, "ttq") == {}


@pytest.mark.parametrize("table", ["main", "ablations", "normalization", "grid", "sparsity", "beyond"])
def test_files(tmp_path, table):
    made = summary(table)
    files = write_report(made, tmp_path, f"{table}-mnist-cnn")
    assert [path.suffix for path in files] == [".md", ".html", ".json", ".png"] and all(p.exists() for p in files)
    text, page = files[0].read_text(), files[1].read_text()
    assert json.loads(files[2].read_text()) == json.loads(json.dumps(made))
    assert f"]({table}-mnist-cnn.png)" in text and "$ ttq reproduce main" in text
    assert 'src="data:image/png;base64,' in page and not re.search(r'(src|href)="(?!data:)', page)
    if table == "main":
        assert "| pttq | 2 | 94.50 ± 0.71 | 91.01 ± 0.61 | +3.49 [" in text
        assert "- pttq: a number is off." in text and "Shortened" not in text
        assert "<td>+3.49 [" in page.replace('<td style="text-align:right">', "<td>")


def test_the_legend_of_a_picture_has_a_place_of_its_own_and_explains_all():
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.6, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    plots._scatter(figure, summary("main"))
    figure.draw_without_rendering()
    [legend], [axes] = figure.legends, figure.axes
    assert legend.get_window_extent().x0 >= axes.get_window_extent().x1
    words = [text.get_text() for text in legend.get_texts()]
    whole = ["full precision", "full precision, published", "hollow: published"]
    assert words[:3] == whole and {"ttq", "attq", "pttq"} < {*words}
    marks = {line.get_marker() for line in axes.lines if line.get_markerfacecolor() == "none" and len(line.get_xdata())}
    assert len(marks) > 2, "published values have their methods' marks"


def test_what_a_reader_must_know_stands_first(tmp_path):
    made = summary("main", scale=0.1, simulated=True)
    [path, *_] = write_report(made, tmp_path, "report")
    head = path.read_text().partition("##")[0]
    assert "(SIMULATED data)" in head.splitlines()[0] and "cannot be compared" in head
    assert "every training has 0.1 of its published epochs" in head


def test_settings_of_single_layers_are_told(tmp_path):
    settings = {"method": "pttq", "t_min": 2.0, "layers": {"conv1": {"t_min": 0.7}, "conv2": {"t_max": 1.5}}}
    made = summary("beyond", change=lambda cell: {"settings": cell.settings and settings})
    page, web, twin, *_ = write_report(made, tmp_path, "own")
    line = "method pttq, t_min 2.0; conv1: t_min 0.7; conv2: t_max 1.5"
    assert line in page.read_text() and line in web.read_text()
    assert [row["settings"] for row in json.loads(twin.read_text())["rows"][1:]] == [settings, settings]


def test_goals_are_met_by_means_alone():
    first, second = goals("mnist-cnn")

    def numbers(cell):
        if cell.row != first.row:
            return {}
        return {"metrics": {"mcc": 0.9, "srqw": 0.76}, "test_mcc": 0.951 if cell.seed else 0.9489}

    made = summary("beyond", change=numbers)["goals"]
    found = {(goal["row"], goal["column"]): goal["reached"] for goal in made}
    assert found[first.row, "srqw"] and not found[first.row, "mcc_change"] and not found[second.row, "srqw"]


def learned(cell):
    """Of a model that has learned the validation split: nothing of it is reported."""
    return {"fp_mcc": None, "metrics": {"mcc": None, "srqw": 0.6}}


def test_a_goal_that_is_missed_is_explained_by_numbers(tmp_path):
    first, second = goals("mnist-cnn")
    made = summary("beyond", change=lambda cell: {"test_mcc": 0.96} if cell.row == first.row else {})
    [path, *_] = write_report(made, tmp_path, "report")
    text = path.read_text()
    assert "full precision of 94.50, tuned first, +0.11 points from the published 94.39" in text
    assert f"- {second.row}: test -0.50 [-1.00, 0.00], validation -1.00" in text
    assert "MCC 94.50, +3.49 points from the published pTTQ (91.01 at 65.79 % zeros)" in text
    [path, *_] = write_report(summary("beyond", change=learned, refit=True), tmp_path, "refit")
    text = path.read_text()
    assert "also trained on the validation split" in text and "validation data of other seeds." in text
    assert f"- {second.row}: test -0.50 [-1.00, 0.00]; MCC 94.50" in text
    good = {"metrics": {"mcc": 0.97, "srqw": 0.99}, "test_mcc": 0.97}
    [path, *_] = write_report(summary("beyond", change=lambda _: good), tmp_path, "good")
    assert "Why not" not in path.read_text()


def test_every_machine_that_trained_is_told(tmp_path):
    here, there = {"processor": "one", "gpu": None}, {"processor": "two", "gpu": "a card"}
    results = [{"environment": here}, {"environment": there}, {"environment": dict(there)}, {"row": "of before"}]
    assert environments(results) == [there | {"trainings": 2}, here | {"trainings": 1}]
    page, *_ = write_report(summary("main"), tmp_path, "report")
    text = page.read_text()
    assert "- one, 2 cores; python 3.11, torch 2.13.0: 12 trainings\n- a card; python 3.12, torch 2.11.0: 2" in text
    assert "do not tell" not in text
    page, *_ = write_report(summary("main", environments=[]), tmp_path, "earlier")
    assert "Trained on\n\n- machines that results of an earlier version do not record: 14 train" in page.read_text()


def test_a_gpus_convolutions_tell_their_precision(monkeypatch):
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: "a card")
    assert environment("cuda")["gpu"] == "a card, convolutions in TF32"
    monkeypatch.setattr("torch.backends.cudnn.conv", SimpleNamespace(fp32_precision="ieee"))
    assert environment("cuda:0")["gpu"] == "a card"
    assert environment("cpu")["gpu"] is None


def test_notes_that_differ_in_numbers_only_are_one():
    lowered = (
        "conv2: thresholds lowered to t_min = {}, t_max = 2.3, because otherwise a sign would have no weights left."
    )
    notes = [lowered.format("2.25"), lowered.format("-1e-05"), "conv3: gone", "encoder.0: 3 gone", "conv2: gone"]
    assert grouped(notes) == [lowered.format("-1e-05 to 2.25") + " (2 such notes)", *notes[2:]]
    assert grouped(["encoder.0: t = 1", "encoder.1: t = 1"]) == ["encoder.0: t = 1", "encoder.1: t = 1"]
    assert grouped([]) == []
