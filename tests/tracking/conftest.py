"""A store, a study recorded in it, and the real MLflow server on it."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from ttq_plugin.tracking import StudyRecorder, TrialRecord, front, open_store, ui
from ttq_plugin.tracking.interface.together import show_together

from .browser import open_browser
from .study import FULL_PRECISION, OBJECTIVES, free_port, front_of, make_study, make_trial


@pytest.fixture
def records() -> list[TrialRecord]:
    return make_study()


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory) -> Path:
    """MLflow takes seconds to create its tables: done once, then copied."""
    return open_store(tmp_path_factory.mktemp("empty") / "mlflow_runs").directory


@pytest.fixture
def store(tmp_path, empty_store):
    shutil.copytree(empty_store, tmp_path / "mlflow_runs")
    return open_store(tmp_path / "mlflow_runs")


@pytest.fixture(scope="session")
def served(tmp_path_factory, empty_store) -> Iterator[SimpleNamespace]:
    """A finished study behind the real server: .url, .records, .recorder, .process; and one of 120 trials, .many."""
    store = open_store(shutil.copytree(empty_store, tmp_path_factory.mktemp("served") / "mlflow_runs"))
    far = make_trial(24, dict(zip(OBJECTIVES, (0.2, 0.55, 0.4), strict=True)))
    records = [*make_study(), far]
    facts = {"seed": 7, "task": "mnist-cnn", "mcc_fp32": FULL_PRECISION}
    recorder = StudyRecorder(store, "mnist-cnn pttq", OBJECTIVES, facts, command=lambda r: f"ttq compress {r.number}")
    recorder.sync(records)
    recorder.log_test(max(front(records, OBJECTIVES)), 0.9123)
    recorder.finish(records)
    show_together(store, front_of(recorder, records))
    # More than the hundred runs that MLflow loads at first; the front's are the oldest, with the least MCC.
    crowd = [make_trial(n, dict(zip(OBJECTIVES, (n / 1000, 0.1, 0.1), strict=True))) for n in range(10, 120)]
    best = [make_trial(n, dict(zip(OBJECTIVES, (0.001 * n, 0.9 - n / 100, 0.9), strict=True))) for n in range(10)]
    many = StudyRecorder(store, "many", OBJECTIVES)
    many.finish([*best, *crowd])
    fronts = show_together(store, front_of(many, [*best, *crowd]))
    port = free_port()
    process = ui.start(store, port=port)
    try:
        url = f"http://127.0.0.1:{port}"
        ui.wait_ready(url, process=process)
        yield SimpleNamespace(
            url=url, port=port, records=records, recorder=recorder, many=many, process=process, store=store,
            fronts=fronts,
        )  # fmt: skip
    finally:
        ui.stop(process)


@pytest.fixture(scope="session")
def browser():
    with open_browser() as window:
        yield window
