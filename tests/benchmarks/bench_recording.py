"""How long MLflow takes to record a search, training left out: python -m tests.benchmarks.bench_recording [TRIALS].

Made-up trials, handed to the recorder four at a time as a search does, then the end of the search. Printed:
seconds, seconds a trial, the same for the last tenth (it must not grow with what is there), and metrics a run.
"""

from __future__ import annotations

import sys
import tempfile
import time

from tests.tracking.study import OBJECTIVES, make_study
from ttq_plugin.tracking import StudyRecorder, front, open_store


def main(trials: int) -> None:
    records = make_study(trials)
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(folder)
        recorder = StudyRecorder(store, "bench", OBJECTIVES)
        begun = time.perf_counter()
        for end in range(4, trials + 1, 4):
            if end <= trials - trials // 10:
                late = time.perf_counter()
            recorder.sync(records[:end])
        synced = time.perf_counter()
        recorder.finish(records)
        total, tail = time.perf_counter() - begun, (synced - late) / (trials // 10)
        run = store.client.search_runs([recorder.experiment_id], "tags.role = 'trial'", max_results=1)[0]
        members = len(front(records, OBJECTIVES))
    print(f"{trials} trials, {members} on the front: {total:.1f} s, {1000 * total / trials:.0f} ms a trial, ", end="")
    print(f"{1000 * tail:.0f} ms in the last tenth; {len(run.data.metrics)} metrics a run")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
