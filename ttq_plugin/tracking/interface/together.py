"""Shows the fronts of a task's studies together in MLflow, in one experiment per task.

A run has one colour there, so each member has two runs: one in its study's colour, one in its method's.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

from ttq_plugin.methods import METHODS
from ttq_plugin.support.names import in_markdown
from ttq_plugin.tracking import children
from ttq_plugin.tracking.interface.about import run_name, short
from ttq_plugin.tracking.pictures.comparison import COLOURS
from ttq_plugin.tracking.pictures.window import far_off
from ttq_plugin.tracking.records import TrialRecord
from ttq_plugin.tracking.runs.single import open_experiment
from ttq_plugin.tracking.store import Store
from ttq_plugin.tracking.views import NEAR, View, fragment, packed
from ttq_plugin.tracking.words import label_of

if TYPE_CHECKING:
    from mlflow.entities import Run

BY = ("study", "method")
"""What the colours show; there is one view for each."""


@dataclass(frozen=True)
class Front:
    """A study's front, for the page that shows several.

    Attributes:
        study: The study's name.
        task: What it searched.
        objectives: What spans the front.
        score: The task's metric.
        members: The trials on the front.
        runs: Their runs in the study's experiment, by number.
        experiment_id: The study's experiment.
        full_precision: The full-precision model's score; None where it is not known.
    """

    study: str
    task: str
    objectives: Sequence[str]
    score: str
    members: Sequence[TrialRecord]
    runs: Mapping[int, str]
    experiment_id: str
    full_precision: float | None = None


def experiment_of(task: str) -> str:
    """The name of the experiment that shows the fronts of a task's studies."""
    return f"{task} fronts"


def show_together(store: Store, front: Front) -> str:
    """Show a study's front with those of the task's other studies; earlier entries of this study are replaced.

    Args:
        store: The MLflow store.
        front: The study's front.

    Returns:
        The address of the view in which each study has its colour; of a local store, a fragment that starts with "#".
    """
    experiment_id = open_experiment(store, experiment_of(front.task))
    known = _known(store, experiment_id)
    colour = _colour(front.study, known)
    wanted = {f"{by} {key}": (by, record) for by in BY for key, record in _runs(front)}
    own = [run for run in known if run.data.tags.get("study") == front.study]
    there = {run.data.tags["key"]: run for run in own if run.info.status == "FINISHED"}
    for run in own:
        # A member no more; or a killed writer began it, or it came twice.
        if run.data.tags["key"] not in wanted or run not in there.values():
            store.client.delete_run(run.info.run_id)
    numbers = {record.number for record in front.members}
    away = far_off(front.members, numbers, front.objectives, front.score, front.full_precision)
    for key, (by, record) in wanted.items():
        far = str(record is not None and record.number in away).lower()
        if key not in there:
            colours = {children.COLOUR: _of(by, record, colour)}
            _write(
                store, experiment_id, front, record, {"key": key, "study": front.study, "by": by, "far": far} | colours
            )
        elif there[key].data.tags.get("far") != far:
            store.client.set_tag(there[key].info.run_id, "far", far)
    for name, value in _tags(experiment_id, front).items():
        store.client.set_experiment_tag(experiment_id, name, value)
    return store.base + fragment(experiment_id, "by-study")


def _runs(front: Front) -> Iterator[tuple[str, TrialRecord | None]]:
    """What is shown of a study: its members, and None for full precision where its score is known."""
    for record in front.members:
        yield str(record.number), record
    if front.full_precision is not None:
        yield "full precision", None


def _known(store: Store, experiment_id: str) -> list[Run]:
    found, token = [], None
    while True:
        page = store.client.search_runs(
            [experiment_id],
            "tags.role = 'member'",
            order_by=["attributes.start_time ASC"],
            max_results=1000,
            page_token=token,
        )
        found += list(page)
        token = page.token
        if not token:
            return found


def _colour(study: str, known: Sequence[Run]) -> str:
    """A study's own colour, and for a new study the one that the fewest others have."""
    taken = {
        run.data.tags["study"]: run.data.tags.get(children.COLOUR, "")
        for run in known
        if run.data.tags.get("by") == "study" and not run.data.tags["key"].endswith("full precision")
    }
    used = list(taken.values())
    return taken.get(study) or min(COLOURS, key=lambda colour: (used.count(colour), COLOURS.index(colour)))


def _of(by: str, record: TrialRecord | None, study: str) -> str:
    if record is None:
        return children.WHOLE_COLOUR
    if by == "study":
        return study
    methods, own = list(METHODS), str(record.parameters.get("method"))
    return COLOURS[methods.index(own) % len(COLOURS)] if own in methods else children.REST_COLOUR


def _write(store: Store, experiment_id: str, front: Front, record: TrialRecord | None, tags: Mapping[str, str]) -> None:
    """One run: a member, or with None the full-precision model."""
    from mlflow.entities import Param

    study = f"[{in_markdown(front.study)}]({fragment(front.experiment_id)})"
    whole = front.full_precision or 0.0
    if record is None:
        words, method = f"full precision, {label_of(front.score)} {short(front.score, whole)}", "full precision"
        note = f"What the study {study} began with."
    else:
        words, method = run_name(record, front.score), str(record.parameters.get("method") or "")
        link = f"#/experiments/{front.experiment_id}/runs/{front.runs[record.number]}"
        note = f"A member of the front of {study}. [Its own page]({link}) has its command and its model."
    own = {"role": "member", "method": method, "mlflow.note.content": note}
    run = store.client.create_run(experiment_id, run_name=f"{words} ({front.study})"[:250], tags={**own, **tags})
    now = run.info.start_time
    if record is None:
        metrics, given = children.whole_metrics(front.score, whole, front.objectives, now), []
    else:
        metrics = children.shown_metrics(record.metrics, (*front.objectives, front.score), now)
        given = [Param(name, str(value)) for name, value in record.parameters.items() if value is not None]
    store.client.log_batch(run.info.run_id, metrics, given)
    store.client.set_terminated(run.info.run_id)


def _tags(experiment_id: str, front: Front) -> dict[str, str]:
    """The views, and a line that links them. MLflow loads a hundred runs: those of the newest studies."""
    now = round(1000 * time.time())
    pairs = tuple(combinations(front.objectives, 2))
    columns = ("tags.`study`",)
    tags = {
        "mlflow.experimentKind": "custom_model_development",
        "mlflow.note.content": f"The fronts of all studies of {in_markdown(front.task)}: "
        f"[coloured by study]({fragment(experiment_id, 'by-study')}), "
        f"[by method]({fragment(experiment_id, 'by-method')}); black is full precision.",
    }
    for by in BY:
        view = View(f"Fronts by {by}", f"tags.by = '{by}' and {NEAR}", "attributes.start_time", pairs, None, columns)
        tags |= packed(f"by-{by}", view, front.objectives, now)
    return tags
