"""Follows a search: keeps MLflow up to date, removes the weights of dominated trials, and moves the progress bar."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from rich.progress import Progress

from ttq_plugin.commands.parts.console import err
from ttq_plugin.commands.train import marked
from ttq_plugin.fronts import upward
from ttq_plugin.search.crew.patience import patiently
from ttq_plugin.search.space.space import Space
from ttq_plugin.search.study.ledger import RunningTrial
from ttq_plugin.tracking import Store, StudyRecorder, TrialRecord, open_store
from ttq_plugin.tracking.faults import explain, store_faults
from ttq_plugin.tracking.records import GrowingFront
from ttq_plugin.tracking.remake import remake
from ttq_plugin.tracking.words import label_of, with_unit
from ttq_plugin.trial.run import Prepared

LAST_PATIENCE = 60.0
"""Seconds that a finished search waits for an unreachable MLflow store; the trials are safe in the study."""

_SHORTEST, _LONGEST = 5.0, 60.0
"""Seconds between two attempts while the search runs, because a server that does not answer delays each attempt."""

_CALM = 4
"""MLflow is updated again after this many times the duration of the last update, which takes longer for thousands of
trials than for ten."""

T = TypeVar("T")


@dataclass
class Watch:
    """Called by `run_search` about twice a second.

    Attributes:
        space: The space that is searched.
        study: The study's name.
        store: MLflow's store, or the folder that becomes one.
        models: The folder of the complete trials' weights.
        target: How many trials count in all.
        ready: Data and model that all trials share.
        parameters: The parameters of the study, for MLflow.
        bars: Where progress is shown.
        records: The finished trials, as of the last call.
        remarks: Remarks on front members, by number.
        inputs: Further inputs that a trial's model depends on, see ``tracking.remake.inputs_of``.
    """

    space: Space
    study: str
    store: Store | str
    models: Path
    target: int
    ready: Prepared
    parameters: dict[str, Any]
    bars: Progress
    records: list[TrialRecord] = field(default_factory=list)
    remarks: dict[int, str] = field(default_factory=dict)
    inputs: Mapping[str, str | None] = field(default_factory=dict)
    _recorder: StudyRecorder | None = None
    _logged: int = -1
    _again: float = 0.0
    _pause: float = _SHORTEST
    _bar: Any = None
    _front: GrowingFront | None = None
    _seen: set[int] = field(default_factory=set)
    _best: float | None = None

    @property
    def recorder(self) -> StudyRecorder:
        """The recorder, created once the study is open, so that a refused search leaves nothing in MLflow."""
        if self._recorder is None:
            store = self.store if isinstance(self.store, Store) else open_store(self.store)
            tags = {"task": self.space.task} | marked(self.ready)
            self._recorder = StudyRecorder(
                store,
                self.study,
                self.space.objectives,
                self.parameters,
                tags,
                self.space.score,
                lambda record: remake(self.space.task, record, self.inputs),
            )
        return self._recorder

    def members(self) -> set[int]:
        """Numbers of the trials on the front."""
        return set() if self._front is None else self._front.members

    def __call__(self, finished: Sequence[TrialRecord], running: Sequence[RunningTrial]) -> None:
        """Process the finished and the running trials."""
        if self._bar is None:
            self._bar = self.bars.add_task("trials", total=self.target, note="")
        if len(finished) > len(self.records):
            self.records = list(finished)
            for record in finished:
                if record.number not in self._seen:
                    self._take(record)
        if len(self.records) > self._logged and time.monotonic() >= self._again:
            self._log()
        score = self.space.score
        best = "" if self._best is None else f"best {label_of(score)} {with_unit(score, self._best)}, "
        note = f"{best}front {len(self.members())}, running {len(running)}"
        # Trials that were lost with a killed worker and ran again are records too, and must not fill the bar early.
        done = min(len(self.records), self.target - len(running))
        self.bars.update(self._bar, completed=done, note=note)

    def last(self, action: Callable[[], T]) -> T:
        """Run the final step in MLflow, and retry it for a while if the store cannot be reached."""
        return patiently(action, LAST_PATIENCE, faults=store_faults(), on_wait=self._fail)

    def _log(self) -> None:
        """Log the finished trials; if the store fails, they stay in the study and are logged later."""
        begun = time.monotonic()
        try:
            self.recorder.sync(self.records)
        except store_faults() as error:
            self._fail(error)
            self._again, self._pause = time.monotonic() + self._pause, min(2 * self._pause, _LONGEST)
            return
        if self._pause > _SHORTEST:
            err.print("MLflow is back; all finished trials are logged.")
        self._logged, self._pause = len(self.records), _SHORTEST
        ended = time.monotonic()
        self._again = ended + min(_CALM * (ended - begun), _LONGEST)

    def _fail(self, error: Exception) -> None:
        if self._pause == _SHORTEST:
            err.print(f"MLflow cannot be written ({explain(error)}); finished trials are kept and logged later.")
            self._pause += 1
        # Whether the last request arrived is not known; the next recorder checks what is there.
        self._recorder = None

    def _take(self, record: TrialRecord) -> None:
        """Remove the weights of dominated trials, which can never return to the front."""
        score = self.space.score
        if self._front is None:
            self._front = GrowingFront(self.space.objectives)
        for number in self._front.add(record):
            (self.models / f"trial-{number}.safetensors").unlink(missing_ok=True)
        if record.state == "complete" and score in record.metrics:
            values = [record.metrics[score], *([] if self._best is None else [self._best])]
            self._best = max(values, key=partial(upward, score))
        self._seen.add(record.number)
