"""Results that survive: workers and the parent killed, settings changed, files damaged, two at once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import psutil
import pytest

from tests.conftest import ROOT
from ttq_plugin.errors import InputError
from ttq_plugin.reproduce.cells import Plan, cells
from ttq_plugin.reproduce.published import published
from ttq_plugin.reproduce.runner import Folder, data_identity, run_cells
from ttq_plugin.reproduce.train import Place

OWN = "tests.reproduce.tiny:TASK"


def some(rows=("ttq", "pttq"), seeds=(0,), task=OWN):
    paper = replace(published("mnist-cnn"), task=task)
    return cells("main", paper, Plan(seeds, scale=0.02, rows=rows))


def go(todo, folder, tmp_path, data=None, workers=1):
    seen = {}
    place = Place(data=str(data) if data else None, cache=str(tmp_path / "cache"))
    count = run_cells(
        todo, place, folder, workers=workers, on_result=lambda cell, result: seen.update({cell.key: result})
    )
    return count, seen


def test_nothing_is_trained_twice_and_what_changed_is_trained_again(tmp_path):
    folder = Folder(tmp_path / "cells", "own")
    count, first = go(some(), folder, tmp_path)
    assert count == 3 and set(first) == {"fp-seed0", "ttq-seed0", "pttq-seed0"}
    for result in first.values():
        assert -1 <= result["test_mcc"] <= 1 and result["simulated"] and result["seconds"] > 0
    assert first["fp-seed0"]["test_mcc"] == first["ttq-seed0"]["fp_test_mcc"]
    assert len(first["ttq-seed0"]["curve"]) == 4  # 200 epochs, shortened
    assert first["ttq-seed0"]["curve"][-1] == pytest.approx(first["ttq-seed0"]["metrics"]["srqw"])

    assert go(some(), folder, tmp_path) == (0, first)
    (tmp_path / "cells" / "ttq-seed0.json").write_text("{")
    changed = [replace(c, settings=c.settings | {"lr": 1e-2}) if c.row == "pttq" else c for c in some()]
    count, second = go(changed, folder, tmp_path)
    assert count == 2 and second["fp-seed0"] == first["fp-seed0"]
    assert second["ttq-seed0"]["test_mcc"] == first["ttq-seed0"]["test_mcc"]  # bit for bit, in a new process
    assert second["ttq-seed0"]["metrics"] == first["ttq-seed0"]["metrics"]
    assert go(changed, Folder(tmp_path / "cells", "other data"), tmp_path)[0] == 3


def test_a_result_with_a_changed_number_does_not_count(tmp_path):
    [cell] = some(rows=("ttq",))[:1]
    folder = Folder(tmp_path, "own")
    folder.keep(cell, {"test_mcc": 0.361, "curve": [0.1, 0.2], "notes": ["é"]})
    kept = folder.known(cell)
    assert kept["test_mcc"] == 0.361 and kept["fingerprint"] == cell.fingerprint("own")
    path = tmp_path / f"{cell.key}.json"
    text = path.read_text()
    path.write_text(text.replace("0.361", "0.961"))
    assert "0.961" in path.read_text() and folder.known(cell) is None
    path.write_text(text.replace("0.361", "0.3610"))  # the same number
    assert folder.known(cell) == kept
    path.write_text("[" * 100_000)
    assert folder.known(cell) is None


def test_a_refit_learns_the_validation_split_and_reports_nothing_of_it(tmp_path):
    todo = some(rows=("ttq",))
    again = [replace(cell, refit=True) for cell in todo]
    assert todo[0].fingerprint("own") != again[0].fingerprint("own")
    _, first = go(todo, Folder(tmp_path / "cells", "own"), tmp_path)
    _, second = go(again, Folder(tmp_path / "refit", "own"), tmp_path)
    assert [result["samples"] for result in (*first.values(), *second.values())] == [60, 60, 120, 120]
    for key, result in second.items():
        assert result["fp_mcc"] is None and result["metrics"]["mcc"] is None
        assert result["test_mcc"] is not None and first[key]["fp_mcc"] is not None
    assert second["ttq-seed0"]["metrics"]["srqw"] > 0


def test_a_killed_worker_is_replaced(tmp_path):
    todo = some(rows=("ttq",))
    marker = tmp_path / "killed"
    count, seen = go(todo, Folder(tmp_path / "cells", "own"), tmp_path, data=marker)
    assert marker.exists() and count == len(seen) == 2


def test_a_cell_without_data_stops_the_run_with_its_sentence(tmp_path):
    with pytest.raises(InputError, match="there are no recordings here"):
        go(some(task="tests.reproduce.tiny:REFUSING"), Folder(tmp_path / "cells", "own"), tmp_path)
    assert list((tmp_path / "cells").glob("*.json")) == []


def test_one_run_a_folder(tmp_path):
    folder = Folder(tmp_path / "cells", "own")
    with folder.alone(), pytest.raises(InputError, match="another process is writing results to"), folder.alone():
        pass


SCRIPT = """
import signal
import sys
from pathlib import Path
from tests.reproduce.test_runner import go, some
from ttq_plugin.reproduce.runner import Folder
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a program started in the background may ignore it
    folder = Path(sys.argv[1])
    go(some(rows=("ttq", "attq", "pttq"), seeds=range(2)), Folder(folder / "cells", "own"), folder)
"""


def started(tmp_path):
    """A run in a process of its own, with some results, and where they are."""
    script = tmp_path / "go.py"
    script.write_text(SCRIPT)
    process = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
    )
    kept = tmp_path / "cells"
    until = time.monotonic() + 120
    while len(list(kept.glob("*.json"))) < 3:
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.1)
    return process, kept


def ended(process, number):
    """What the run writes when it is sent the signal; it leaves no process behind."""
    workers = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    _, text = process.communicate(timeout=600)
    _, left = psutil.wait_procs(workers, timeout=600)
    assert workers and not left, "a worker outlived its parent"
    return text


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_ends_its_workers_and_frees_all(tmp_path, number):
    process, kept = started(tmp_path)
    text = ended(process, number)
    assert process.returncode != 0 and text.rstrip().endswith("KeyboardInterrupt") and "leaked" not in text
    assert all("test_mcc" in json.loads(path.read_text()) for path in kept.glob("*.json"))


def test_the_parent_killed_leaves_no_worker_and_whole_results(tmp_path):
    process, kept = started(tmp_path)
    ended(process, signal.SIGKILL)
    before = {path.name: json.loads(path.read_text()) for path in kept.glob("*.json")}
    todo = some(rows=("ttq", "attq", "pttq"), seeds=range(2))
    count, seen = go(todo, Folder(kept, "own"), tmp_path)
    after = {path.name for path in kept.glob("*.json")}
    assert count <= len(todo) - len(before) and len(seen) == len(todo) == len(after)
    whole = {name: {k: v for k, v in result.items() if k != "digest"} for name, result in before.items()}
    assert all(seen[name.removesuffix(".json")] == result for name, result in whole.items())


def test_data_are_named_by_file_and_size(tmp_path, monkeypatch):
    monkeypatch.delenv("TTQ_DATA_DIR", raising=False)
    assert data_identity(None) == "own"
    (tmp_path / "a.npz").write_bytes(b"123")
    assert data_identity(str(tmp_path / "a.npz")) == "a.npz:3"
    monkeypatch.setenv("TTQ_DATA_DIR", str(tmp_path))
    assert data_identity(None) == f"{tmp_path.name}:folder"


def test_single_layers_have_settings_of_their_own(tmp_path):
    todo = some(rows=("pttq",))
    shared = {
        "t_min": 0.8,
        "t_max": 0.8,
        "layers": {"conv2": {"t_min": 0.2, "t_max": 0.2, "granularity": "out_channel"}},
    }
    mine = [replace(cell, settings=cell.settings and cell.settings | shared) for cell in todo]
    links = mine[1].links()
    assert [link.config_list[0]["op_names"] for link in links] == [["conv1"], ["conv2"]]
    assert [link.options["t_min"] for link in links] == [0.8, 0.2]
    assert [link.config_list[0].get("granularity") for link in links] == [None, "out_channel"]
    assert todo[1].links() == [] and todo[1].fingerprint("own") != mine[1].fingerprint("own")
    every = replace(mine[1], settings=mine[1].settings | {"layers": {"conv1": {}, "conv2": {}}})
    alike = replace(mine[1], settings={k: v for k, v in mine[1].settings.items() if k != "layers"})
    found = []
    for number, cell in enumerate((mine[1], every, alike)):
        found.append(go([mine[0], cell], Folder(tmp_path / str(number), "own"), tmp_path)[1]["pttq-seed0"])
    assert found[0]["settings"] == mine[1].settings and found[0]["metrics"]["srqw"] < found[1]["metrics"]["srqw"]
    assert found[1]["metrics"] == found[2]["metrics"] and found[1]["test_mcc"] == found[2]["test_mcc"]
