"""Records a study in MLflow from plain trial records; only one process writes."""

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ttq_plugin.errors import InputError
from ttq_plugin.fronts import Objective
from ttq_plugin.tracking import children, study_run, views
from ttq_plugin.tracking.interface.about import description, loading, run_name, study_note
from ttq_plugin.tracking.pictures.front import plot_front, title_of
from ttq_plugin.tracking.pictures.table import write_front
from ttq_plugin.tracking.pictures.window import beyond
from ttq_plugin.tracking.records import Parameter, TrialRecord, front
from ttq_plugin.tracking.store import Store

if TYPE_CHECKING:
    pass

_NOTE, _LONGEST_NOTE = "mlflow.note.content", 5000


class StudyRecorder:
    """One experiment a study; in it one run for the study and one child run for each finished trial.

    Only one process may record a study at a time. Everything it writes follows from the records it is given, so a
    search that was killed and resumed neither counts a trial twice nor leaves a run open.

    Args:
        store: The MLflow store.
        study_name: The experiment's name.
        objectives: Metric names; at least two.
        parameters: The parameters of the study (seed, task, sampler, trials, method): parameters of its run.
        tags: More tags of its run.
        score: The task's metric; logged of every trial, as `test_<score>` of front members.
        command: Gives the command that makes a trial's model again, for its page.
    """

    def __init__(
        self,
        store: Store,
        study_name: str,
        objectives: Sequence[str],
        parameters: Mapping[str, Parameter] | None = None,
        tags: Mapping[str, str] | None = None,
        score: str = "mcc",
        command: Callable[[TrialRecord], str] | None = None,
    ):
        if len(objectives) < 2:
            raise InputError(f"a study needs at least two objectives, got {list(objectives)}; name another metric")
        self.store, self.study_name, self.objectives, self.score = store, study_name, tuple(objectives), score
        given = parameters or {}
        self._method = None if given.get("method") is None else str(given["method"])
        whole = given.get(f"{score}_fp32")
        self.full_precision = float(whole) if isinstance(whole, (int, float)) else None
        self._command = command
        self._together: str | None = None
        self.experiment_id = study_run.experiment_of(store, study_name)
        store.sweep(study_name)
        task = given.get("task") or (tags or {}).get("task")
        self._task = None if task is None else str(task)
        run = study_run.open_run(store, self.experiment_id, study_name, self.objectives, tags or {})
        self.run_id: str = run.info.run_id
        self._created: int = run.info.start_time
        study_run.log_parameters(store, run, given)
        if self.full_precision is not None:
            children.full_precision(store, self.experiment_id, self.run_id, score, self.full_precision, self.objectives)
        self._children = children.existing(store, self.experiment_id, self.run_id, score)
        self._experiment_tags: dict[str, str] = dict(store.client.get_experiment(self.experiment_id).tags)

    def sync(self, records: Sequence[TrialRecord]) -> None:
        """Log every finished trial that is not there yet, then update the trials that joined or left the front.

        Args:
            records: All finished trials of the study so far.
        """
        members = front(records, self.objectives)
        far = beyond(records, members, self.objectives, self.score, self.full_precision)
        for record in sorted(records, key=lambda record: record.number):
            pareto, away = record.number in members, record.number in far
            child = self._children.get(record.number)
            if child is None:
                child = self._create(record, children.membership(pareto, away))
            if not child.done:
                children.fill(self.store, child, record, (*self.objectives, self.score))
            if (child.pareto, child.far) != (pareto, away):
                study_run.tag_run(self.store, child.run_id, children.membership(pareto, away))
                child.pareto, child.far = pareto, away
        self._tag_experiment(records)

    def _create(self, record: TrialRecord, tags: dict[str, str]) -> children.Child:
        command = self._command(record) if self._command and record.state == "complete" else None
        note = description(record, self.objectives, self.score, self.full_precision, command)
        more = {_NOTE: note[:_LONGEST_NOTE]}
        if self._method and not record.parameters.get("method"):
            more["method"] = self._method
        name = run_name(record, self.score, self._method)
        child = children.create(self.store, self.experiment_id, self.run_id, record, tags | more, name)
        self._children[record.number] = child
        return child

    def log_test(self, number: int, value: float) -> None:
        """Add the test score of a front member to its run.

        Args:
            number: The trial.
            value: The value of the task's metric on the test set.

        Raises:
            InputError: When the trial is not on the front: testing every trial would make the test set a second
                validation set.
        """
        child, name = self._child(number), f"test_{self.score}"
        if not child.pareto:
            raise InputError(f"{name} is for members of the front, got trial {number}; sync first, or leave it out")
        if child.test != children.rounded(value):
            child.test = children.rounded(value)
            self.store.client.log_metric(child.run_id, name, child.test)
            test = self.score.on_test if isinstance(self.score, Objective) else name
            children.percent(self.store, child.run_id, test, value)

    def log_full_precision(self, parts: Mapping[str, float], tests: Mapping[str, float]) -> None:
        """Log the parts of the full-precision model's scores in the study's run.

        Args:
            parts: The parts, on validation data, logged as NAME_fp32.
            tests: The tests, on test data, logged as test_NAME_fp32.
        """
        values = {f"{name}_fp32": value for name, value in parts.items()}
        values |= {f"test_{name}_fp32": value for name, value in tests.items()}
        known = self.store.client.get_run(self.run_id).data.metrics
        for name, value in list(values.items())[: 2 * children.MOST_PARTS]:
            if known.get(name) != children.rounded(value):
                self.store.client.log_metric(self.run_id, name, children.rounded(value))

    def log_test_parts(self, number: int, parts: Mapping[str, float]) -> None:
        """Log the parts of a front member's test score.

        Args:
            number: The trial.
            parts: Logged as test_NAME.
        """
        run_id = self._child(number).run_id
        for name, value in list(parts.items())[: children.MOST_PARTS]:
            self.store.client.log_metric(run_id, f"test_{name}", children.rounded(value))

    def log_evidence(self, number: int, values: Mapping[str, float]) -> None:
        """Log the uncertainty of a front member's test score.

        Args:
            number: The trial.
            values: The values, by name, such as ``test_mcc_change_low``.
        """
        run_id = self._child(number).run_id
        for name, value in values.items():
            self.store.client.log_metric(run_id, name, children.rounded(value))

    def log_confirmed(self, number: int, holds: bool, means: Mapping[str, float], changes: Mapping[str, float]) -> None:
        """Log the results with other seeds for a front member.

        Args:
            number: The trial.
            holds: Whether it stays on the front.
            means: The means of each objective over the other seeds, logged as NAME_confirmed.
            changes: The mean change from full precision and the ends of its interval, by name.
        """
        run_id = self._child(number).run_id
        study_run.tag_run(self.store, run_id, {"confirmed": "holds" if holds else "falls off"})
        for name, value in means.items():
            self.store.client.log_metric(run_id, f"{name}_confirmed", children.rounded(value))
        for name, value in changes.items():
            self.store.client.log_metric(run_id, name, children.rounded(value))

    def tested(self) -> dict[int, float]:
        """The test score of each trial that has one: what was tested once is not tested again."""
        return {number: child.test for number, child in self._children.items() if child.test is not None}

    def log_file(self, path: Path, artifact_path: str | None = None, number: int | None = None) -> None:
        """Attach a file to the study's run, or with `number` to a trial's.

        Args:
            path: The file.
            artifact_path: A folder among the run's artifacts.
            number: The trial.
        """
        run_id = self.run_id if number is None else self._child(number).run_id
        self.store.client.log_artifact(run_id, str(path), artifact_path)

    def log_model(self, number: int, model: str) -> None:
        """Describe on a trial's page how its model is loaded, and on the model's page what it is; done once.

        Args:
            number: The trial.
            model: Its id among MLflow's models.
        """
        run_id = self._child(number).run_id
        told = self.store.client.get_run(run_id).data.tags.get(_NOTE, "")
        if model not in told:
            children.describe_model(self.store, run_id, model, told)
            end = loading(model)
            study_run.tag_run(self.store, run_id, {_NOTE: told[: _LONGEST_NOTE - len(end)] + end})

    def beside(self, together: str, records: Sequence[TrialRecord]) -> None:
        """Link the page that shows this front with those of the task's other studies.

        Args:
            together: Its address.
            records: All finished trials of the study.
        """
        self._together = together
        self._tag_experiment(records)

    def run_of(self, number: int) -> str:
        """The id of a trial's run."""
        return self._child(number).run_id

    def finish(self, records: Sequence[TrialRecord], status: str = "FINISHED", curves: str = "front") -> None:
        """Bring MLflow up to date, write the front as a table and a picture, and end the study's run.

        Args:
            records: All finished trials of the study.
            status: "FINISHED", or "KILLED" when the user stopped the search.
            curves: Whose epochs are logged: "front", "all" or "none".
        """
        self.sync(records)
        self._close_orphans({record.number for record in records})
        self._draw_curves(records, curves)
        self._write_artifacts(records)
        self._write_summary(records)
        self.store.client.set_terminated(self.run_id, status)

    def link(self, host: str | None = None, port: int | None = None, view: str = "front", mode: str = "CHART") -> str:
        """The address that opens a saved view; without a host, of a local store only the fragment.

        Args:
            host: Address on which `ttq ui` listens; a store on a server has its own address.
            port: Its port.
            view: A key of what `views.study_views` gives.
            mode: "CHART" or "TABLE".

        Returns:
            A URL, or a fragment that starts with "#".
        """
        base = self.store.base or (f"http://{host}:{port}/" if host else "")
        return base + views.fragment(self.experiment_id, view, mode)

    def _child(self, number: int) -> children.Child:
        if number not in self._children:
            raise InputError(f"the trial must have been recorded, got number {number}; sync its record first")
        return self._children[number]

    def _tag_experiment(self, records: Sequence[TrialRecord]) -> None:
        about = (self.experiment_id, self.study_name, records, self.objectives)
        tags = views.experiment_tags(*about, created=self._created, score=self.score, together=self._together)
        for name, value in tags.items():
            if self._experiment_tags.get(name) != value:
                self.store.client.set_experiment_tag(self.experiment_id, name, value)
                self._experiment_tags[name] = value

    def _close_orphans(self, numbers: set[int]) -> None:
        """End runs whose writer was killed and whose trial the study no longer knows."""
        for number, child in self._children.items():
            if not child.done and number not in numbers:
                self.store.client.set_terminated(child.run_id, "KILLED")
                child.done = True

    def _draw_curves(self, records: Sequence[TrialRecord], whose: str) -> None:
        """Log the curves of the front's members at the end; the curves of a thousand trials would obscure them."""
        for record in records:
            child = self._children[record.number]
            if record.curves and not child.curved and (whose == "all" or (whose == "front" and child.pareto)):
                children.draw_curves(self.store, child, record)

    def _write_artifacts(self, records: Sequence[TrialRecord]) -> None:
        tests = self.tested()
        with tempfile.TemporaryDirectory() as directory:
            self.log_file(write_front(records, self.objectives, tests, Path(directory) / "front.csv", self.score))
            complete = sum(record.state == "complete" for record in records)
            title = title_of(self.study_name, self._task, complete, len(front(records, self.objectives)))
            whole: dict[str, Any] = {"score": self.score, "full_precision": self.full_precision}
            self.log_file(plot_front(records, self.objectives, Path(directory) / "front.png", title, **whole))

    def _write_summary(self, records: Sequence[TrialRecord]) -> None:
        from mlflow.entities import Metric

        summary = {
            "trials": len(records),
            "failed": sum(record.state == "failed" for record in records),
            "front_size": len(front(records, self.objectives)),
        }
        now = round(1000 * time.time())
        known = self.store.client.get_run(self.run_id).data.metrics
        new = [Metric(name, value, now, 0) for name, value in summary.items() if known.get(name) != value]
        self.store.client.log_batch(self.run_id, metrics=new)
        complete = sum(record.state == "complete" for record in records)
        about = (self._task, len(records), complete, summary["front_size"], views.fragment(self.experiment_id))
        study_run.describe(self.store, self.run_id, study_note(self.study_name, *about))
