"""Heartbeats while a trial runs, for observers on other machines."""

from __future__ import annotations

import threading
from types import TracebackType

from optuna import Study
from optuna.trial import Trial

from ttq_plugin.search.crew.patience import STORAGE_FAULTS
from ttq_plugin.search.study import insides


class Pulse:
    """Writes the trial's heartbeat every few seconds, from a thread of its own, until the block ends."""

    def __init__(self, study: Study, trial: Trial, seconds: float) -> None:
        self._study, self._trial, self._seconds = study, trial, seconds
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def _beat(self) -> None:
        while not self._over.wait(self._seconds):
            try:
                insides.beat(self._study, self._trial)
            except STORAGE_FAULTS:
                pass  # the next one may arrive; the trial itself continues in any case

    def __enter__(self) -> Pulse:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Not joined: a heartbeat that waits for a vanished server must not hold up the next trial.
        self._over.set()
