"""A small deterministic study, and what the tests of real services need."""

import os
import random
import socket
import time
from pathlib import Path

import pytest

from ttq_plugin.tracking import StudyRecorder, TrialRecord, front
from ttq_plugin.tracking.interface.together import Front

OBJECTIVES = ("mcc", "cr_gain_total", "ec_gain_total")
START = time.time() - 3600
FULL_PRECISION = 0.9871


def make_trial(number: int, metrics: dict | None = None, **changes) -> TrialRecord:
    values = {
        "state": "complete",
        "parameters": {"method": "pttq", "t_min": 0.5 + number / 100, "t": None, "epochs": 5},
        "metrics": metrics or {},
        "origin": "search",
        "seed": 100 + number,
        "started": START + 60 * number,
        "seconds": 30.5,
    }
    return TrialRecord(number, **(values | changes))


def make_study(trials: int = 24) -> list[TrialRecord]:
    """Accuracy falls where compression rises; trial 0 is published, trial 5 failed."""
    numbers = random.Random(3)
    records = []
    for number in range(trials):
        gain = numbers.uniform(0.5, 0.95)
        mcc = 0.98 - 0.3 * (gain - 0.5) ** 2 - abs(numbers.gauss(0, 0.02))
        metrics = dict(zip(OBJECTIVES, (mcc, gain, 0.8 * gain + numbers.gauss(0, 0.02)), strict=True))
        metrics |= {"srqw": gain, "bits_coo34": 123456789}
        records.append(make_trial(number, metrics, origin="paper" if number == 0 else "search"))
    records[5] = make_trial(5, state="failed", reason="Diverged: the loss became NaN in epoch 2")
    return records


def front_of(recorder: StudyRecorder, records: list[TrialRecord], task: str = "mnist-cnn") -> Front:
    """A recorded study's front, as a search shows it beside others."""
    numbers = front(records, recorder.objectives)
    members = [record for record in records if record.number in numbers]
    runs = {number: recorder.run_of(number) for number in numbers}
    about = (recorder.study_name, task, recorder.objectives, recorder.score)
    return Front(*about, members, runs, recorder.experiment_id, recorder.full_precision)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def require(program: str) -> str:
    """The path of a program a service test needs: skipped without it, failed where services are promised."""
    if not Path(program).exists():
        message = f"{program} is missing; install it (Debian: apt-get install chromium chromium-driver)"
        if os.environ.get("TTQ_REQUIRE_SERVICES") == "1":
            pytest.fail(message)
        pytest.skip(message)
    return program
