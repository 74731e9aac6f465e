"""The sensor tasks' table: answers joined over seeds and people, the goal, and the command on a task in small."""

from __future__ import annotations

import json
from concurrent.futures import Future
from dataclasses import replace

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from tests.reproduce import tiny
from ttq_plugin import InputError
from ttq_plugin.cli import cli
from ttq_plugin.commands.parts import sensors
from ttq_plugin.deploy.bench import instructions
from ttq_plugin.deploy.integer.module import integerize
from ttq_plugin.reproduce import runner
from ttq_plugin.reproduce.peers.rounds import FULL
from ttq_plugin.reproduce.sensors import members
from ttq_plugin.reproduce.sensors.evidence import confusion, goal, pooled, summarize
from ttq_plugin.reproduce.sensors.examples import LEVELS, decoded, examples
from ttq_plugin.reproduce.sensors.pictures import draw_bytes
from ttq_plugin.reproduce.sensors.report import _number, in_short
from ttq_plugin.statistics.resampling import interval
from ttq_plugin.tasks import get_task
from ttq_plugin.tasks.metrics import METRICS
from ttq_plugin.tasks.task import Split

ACCURACY = METRICS["accuracy"]


def table(truth, predicted, names):
    index = sorted(set(names))
    numbers = {"truth": truth, "predicted": predicted, "groups": [index.index(name) for name in names]}
    words = {key: " ".join(map(str, values)) for key, values in numbers.items()}
    return {"kind": "multi-class", "classes": 2, "grouped": True, "names": index, **words}


def result(row, seed, predicted, *, names="abab", size=100, zeros=0.95, firmware=None):
    truth = [0, 0, 1, 1]
    answers = table(truth, predicted, names)
    right = sum(a == b for a, b in zip(truth, predicted, strict=True)) / 4
    return {
        **{"row": row, "seed": seed, "answers": answers, "test": right, "bytes": size, "zeros": zeros, "notes": []},
        **{"settings": None, "seconds": 1.0, "metrics": {}, "samples": [12, 4], "milliseconds": [0.5, 2.0]},
        "firmware": firmware and {"answers": answers, "test": right, "bytes": 20, "flash": 900, "ram": 30, **firmware},
    }


def test_a_person_whom_two_seeds_test_is_one_group():
    first, second = table([0, 1, 1], [0, 1, 0], "abb"), table([0, 1, 0], [1, 1, 0], "bca")
    answers = pooled([first, second])
    found = interval(ACCURACY, answers)
    assert found is not None and found.units == 3 and found.value == pytest.approx(4 / 6)
    assert answers.groups.tolist() == list("abbbca") and answers.outputs.argmax(1).tolist() == [0, 1, 0, 1, 1, 0]
    assert confusion([first, second]) == [[2, 1], [1, 2]]


def test_changes_are_paired_with_the_full_precision_of_the_same_seed():
    results = [result(FULL, 0, [0, 0, 1, 1], size=3000, zeros=0.0), result(FULL, 1, [0, 0, 1, 0], size=3000, zeros=0.0)]
    results += [result("m", 0, [0, 0, 1, 0], firmware={"instructions": 7}), result("m", 1, [0, 0, 1, 0])]
    results += [result("lonely", 2, [0, 0, 1, 1])]  # whose full-precision model could not be trained
    rows = {row["row"]: row for row in summarize(results, ACCURACY, 0.01)}
    assert list(rows) == [FULL, "m", "m, firmware", "lonely"]
    assert rows[FULL]["change"] is None and rows[FULL]["verdict"] is None and rows["lonely"]["score"] is None
    assert rows["m"]["change"]["value"] == pytest.approx(6 / 8 - 7 / 8) and rows["m"]["seeds"] == [0, 1]
    assert rows["m"]["resampled"]["value"] == pytest.approx((-0.25 + 0) / 2) and rows["m"]["resampled"]["units"] == 2
    # Nadeau and Bengio: variance 0.25^2 / 2 of the two differences, times 1/2 + 4/12.
    assert rows["m"]["resampled"]["error"] == pytest.approx((0.25**2 / 2 * (1 / 2 + 4 / 12)) ** 0.5)
    assert rows["m"]["people"] == {"a": 1.0, "b": 0.5} and rows["m"]["speedup"] == 2.0
    whole = rows["m, firmware"]
    assert (whole["bytes"], whole["flash"], whole["ram"], whole["instructions"]) == (20, 900, 30, 7)
    assert whole["seeds"] == [0] and whole["milliseconds"] is None


def test_a_single_person_has_a_score_without_an_interval(tmp_path):
    results = [result(FULL, 0, [0, 0, 1, 0], names="aaaa"), result("m", 0, [0, 0, 1, 1], names="aaaa")]
    rows = summarize(results, ACCURACY, 0.01)
    assert [one["value"] for one in rows] == [0.75, 1.0]
    assert all(one["score"] is None and one["change"] is None and one["verdict"] is None for one in rows)
    told = list(in_short({"task": "tests.reproduce.tiny:WORN", "rows": rows}))
    assert told[1].endswith("100.00 % (one group, so no interval)") and goal(rows)["row"] is None
    assert _number({"value": rows[0]["value"]}, ACCURACY) == "75.00"
    draw_bytes([("t", ACCURACY, rows)], tmp_path / "p.png", simulated=False)
    assert (tmp_path / "p.png").is_file()


def row(name, *, holds=True, p=0.01, zeros=0.95, size=100):
    return {"row": name, "verdict": {"holds": holds, "p": p}, "zeros": zeros, "bytes": size}


def test_the_goal_takes_the_smallest_member_that_meets_all_of_it():
    full = {"row": FULL, "verdict": None, "zeros": 0.0, "bytes": 1500}
    assert goal([full, row("large"), row("small", size=90)]) == {"reached": True, "row": "small", "missed": []}
    near = goal([full, row("dense", zeros=0.0), row("far", holds=False, p=0.9), row("near", holds=False, p=0.2)])
    assert near["row"] == "dense" and near["missed"] == ["fewer than 90% zeros"] and not near["reached"]
    assert goal([full, row("far", holds=False, p=0.9), row("near", holds=False, p=0.2)])["row"] == "near"
    assert goal([full, row("fat", size=101)])["missed"] == ["more than 1/15 of the bytes"]
    assert goal([full])["row"] is None


def test_examples_are_of_one_person_and_come_back():
    x = torch.randn(20, 2, 5, generator=torch.Generator().manual_seed(0))
    kept = examples(Split(x, torch.tensor([0, 0, 0, 1, 2] * 4), ["p"] * 10 + ["q"] * 10))
    assert kept["group"] == "p" and kept["places"] == [0, 1, 3, 4, 8, 9]
    for place, one in zip(kept["places"], kept["x"], strict=True):
        step = float(x[place].max() - x[place].min()) / LEVELS
        assert abs(decoded(one) - x[place].numpy()).max() <= step / 2 + 1e-6


def test_instructions_grow_with_the_work_and_are_left_out_without_a_counter(monkeypatch):
    torch.manual_seed(0)
    x = torch.randn(8, 64)
    found = [instructions.counted(integerize(nn.Linear(64, n), x), x[:1]) for n in (32, 64, 96)]
    assert found[1] - found[0] > 32 * 64  # a multiplication and an addition for each weight, and more
    assert found[2] - found[1] == pytest.approx(found[1] - found[0], rel=0.02)
    monkeypatch.setenv("PATH", "")
    assert instructions.counted(integerize(nn.Linear(64, 4), x), x[:1]) is None


class Inline:
    """An executor that works at once, in this process."""

    _processes = None

    def __init__(self, *arguments, **options): ...

    def submit(self, work, *arguments):
        future = Future()
        try:
            future.set_result(work(*arguments))
        except InputError as error:
            future.set_exception(error)
        return future

    def shutdown(self, **options): ...


class Recorder:
    """In place of MLflow's, which the peers' test looks at."""

    def __init__(self, store, experiment):
        assert experiment == "reproduce sensors"

    def record(self, key, result):
        assert result["fingerprint"] and result["task"] in key

    def finish(self, files, simulated):
        assert simulated and all(path.is_file() for path in files)


@pytest.fixture
def quick(monkeypatch, tmp_path):
    monkeypatch.setattr(sensors, "open_store", lambda store: None)
    monkeypatch.setattr(sensors, "ReproductionRecorder", Recorder)
    monkeypatch.setattr(runner, "ProcessPoolExecutor", Inline)
    monkeypatch.setattr(members, "SECONDS", 0.01)
    monkeypatch.setattr(members, "counted", lambda module, samples: 1234.0)
    monkeypatch.chdir(tmp_path)
    words = ["reproduce", "sensors", "--workers", "1", "--cache", str(tmp_path / "cache")]
    return lambda *more: CliRunner().invoke(cli, [*words, *more], catch_exceptions=False)


def test_a_report_of_one_task_although_another_has_no_data(quick, tmp_path):
    tasks = ["--task", "tests.reproduce.tiny:WORN", "--task", "tests.reproduce.tiny:REFUSING"]
    words = [*tasks, "--seeds", "2", "--methods", "pttq 90% zeros,dense int8", "--scale", "0.5", "--json"]
    done = quick(*words)
    assert done.exit_code == 0 and "there are no recordings here." in done.stderr
    found = json.loads(done.stdout)
    [one] = found["tasks"]
    rows = {row["row"]: row for row in one["rows"]}
    assert list(rows) == [FULL, "pttq 90% zeros", "pttq 90% zeros, firmware", "dense int8"]
    assert one["task"] == "tests.reproduce.tiny:WORN" and one["epochs"] == 10 and one["simulated"]
    assert all(row["score"]["units"] == 3 and row["score"]["grouped"] for row in rows.values())
    assert rows[FULL]["score"]["value"] > 0.5 and rows["dense int8"]["settings"] == {"method": "int8"}
    assert rows["pttq 90% zeros"]["zeros"] == pytest.approx(0.9, abs=0.02)
    assert rows["pttq 90% zeros, firmware"]["instructions"] == 1234 and rows["dense int8"]["flash"] > 0
    text = next((tmp_path / "reports").glob("*.md")).read_text()
    assert "SIMULATED" in text and found["command"] in text and "there are no recordings here." in text
    page = next((tmp_path / "reports").glob("*.html")).read_text()
    assert page.count("data:image/png;base64,") == 3 == len(list((tmp_path / "reports").glob("*.png")))
    [twin] = (tmp_path / "reports").glob("*.json")
    assert json.loads(twin.read_text()) == {key: value for key, value in found.items() if key != "files"}
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "reports").rglob("*seed*.json")}
    assert len(kept) == 2 * 3
    assert quick(*words).exit_code == 0
    assert kept == {path: path.stat().st_mtime_ns for path in kept}  # nothing is trained again


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--methods", "nobody"], "peers must be some of .*dense int8.*, got 'nobody'"),
        (["--task", "tests.reproduce.tiny:REFUSING"], "there are no recordings here."),
        (["--task", "no-such-task"], "no-such-task"),
        (["--scale", "2"], r"scale must lie in \(0, 1\], got 2"),
        (["--data", "missing"], "--data must name a folder with an entry for each task"),
    ],
)
def test_bad_input_is_one_sentence(quick, words, told):
    with pytest.raises(InputError, match=told):
        quick(*words)


def test_other_tables_take_one_task_and_other_metrics_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["reproduce", "peers", "--task", "mnist-cnn", "--task", "watch-cnn"]
    with pytest.raises(InputError, match="peers reproduces one task at a time, got mnist-cnn, watch-cnn"):
        CliRunner().invoke(cli, words, catch_exceptions=False)
    assert not list(tmp_path.iterdir())
    with pytest.raises(InputError, match="must be one of mcc, accuracy, .*, got auroc"):
        members.check_metric(replace(tiny.WORN, metric="auroc"))


def test_depthwise_filters_are_left_to_eight_bits():
    layers = members.compressed_layers(get_task("speech-dscnn").model())
    assert layers and not any("depthwise" in name for name in layers)
    model = nn.Sequential(nn.Conv1d(4, 4, 3, groups=4), nn.Conv1d(4, 8, 1), nn.Flatten(), nn.Linear(8, 2))
    assert members.compressed_layers(model) == ("1", "3")
