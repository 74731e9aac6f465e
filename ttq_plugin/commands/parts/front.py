"""What ``ttq search`` does with its front: scores it on the test split once, logs and draws it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ttq_plugin.commands.parts.watch import Watch
from ttq_plugin.deploy.mlflow.pyfunc import log_model
from ttq_plugin.errors import InputError
from ttq_plugin.fronts import upward
from ttq_plugin.search.confirm import Confirmed
from ttq_plugin.search.runner import Summary
from ttq_plugin.statistics.noninferiority import Verdict
from ttq_plugin.support.inputs import to_device
from ttq_plugin.support.names import file_name
from ttq_plugin.tasks import TASKS
from ttq_plugin.tracking import TrialRecord, plot_front
from ttq_plugin.tracking.interface.together import Front, show_together
from ttq_plugin.tracking.pictures.front import title_of
from ttq_plugin.tracking.words import again_in_numbers
from ttq_plugin.trial.run import load_weights
from ttq_plugin.trial.tested import Tested, margin_of, not_inferior, score_on_test

FULL_PRECISION = -1
"""The number that stands for the full-precision model among the tested members."""


def finish(
    watch: Watch,
    summary: Summary,
    data: Path | None,
    folder: Path,
    seed: int,
    confirmed: Mapping[int, Confirmed],
    curves: str,
    margin: float | None = None,
) -> dict[str, Any]:
    """Score the front on the test split, end the study's run in MLflow, and draw the front.

    Args:
        watch: The object that followed the search.
        summary: How the search ended.
        data: The user's data file or folder, or None.
        folder: Folder for the picture.
        seed: Random seed of the splits.
        confirmed: Results with other seeds, by the member's number.
        curves: Whose training losses MLflow gets: "front", "all" or "none".
        margin: Largest loss on test data that would not matter; None for the default.

    Returns:
        The front and the events of the search, as plain data.
    """
    recorder, members = watch.recorder, watch.members()
    recorder.sync(watch.records)  # first, because the store may have been unreachable and lack the last trials
    scores, tests = _test(watch, sorted(members), data, seed)
    evidence = Evidence(scores, tests, _verdicts(watch, members, tests, margin), confirmed)
    _log(watch, evidence)
    recorder.finish(watch.records, "KILLED" if summary.interrupted else "FINISHED", curves)
    together = show_together(recorder.store, _shown(watch)) if members else None
    if together is not None:
        recorder.beside(together, watch.records)
    picture = _draw(watch, summary, folder, confirmed) if members else None
    rows = [_row(watch, record, evidence) for record in watch.records if record.number in members]
    return _told(watch, summary, rows, scores.get(FULL_PRECISION)) | {
        "picture": None if picture is None else str(picture.absolute()),
        "link": recorder.link("127.0.0.1", 5000),
        "fronts": together,
    }


def _shown(watch: Watch) -> Front:
    """The front as an entry of the page that shows all studies of this task."""
    space, recorder, numbers = watch.space, watch.recorder, watch.members()
    return Front(
        watch.study,
        space.task,
        space.objectives,
        space.score,
        [record for record in watch.records if record.number in numbers],
        {number: recorder.run_of(number) for number in numbers},
        recorder.experiment_id,
        recorder.full_precision,
    )


@dataclass(frozen=True)
class Evidence:
    """What is known about the front's members beyond the search, by their numbers.

    Attributes:
        scores: Test scores, including those of members that an earlier call tested and of ``FULL_PRECISION``.
        tests: Test scores with intervals, for members whose weights are stored.
        verdicts: Whether a member is shown to lose less than the margin.
        confirmed: Results with other seeds.
    """

    scores: Mapping[int, float]
    tests: Mapping[int, Tested]
    verdicts: Mapping[int, Verdict]
    confirmed: Mapping[int, Confirmed]


def _verdicts(
    watch: Watch, members: Collection[int], tests: Mapping[int, Tested], margin: float | None
) -> Mapping[int, Verdict]:
    """Which of the members that were tested now are shown to lose less than the margin."""
    metric = watch.ready.task.score
    tested = {number: tests[number] for number in sorted(members) if number in tests}
    return not_inferior(tested, metric, margin_of(metric, margin))


def _log(watch: Watch, evidence: Evidence) -> None:
    """Log the front to MLflow."""
    for number, test in evidence.tests.items():
        if number != FULL_PRECISION:
            told = _intervals(test, evidence.verdicts.get(number), watch.space.score)
            watch.recorder.log_evidence(number, told)
    for number, found in evidence.confirmed.items():
        means = dict(zip(watch.space.objectives, found.mean, strict=True))
        watch.recorder.log_confirmed(number, found.holds, means, again_in_numbers(found.change, watch.space.score))


def _draw(watch: Watch, summary: Summary, folder: Path, confirmed: Mapping[int, Confirmed]) -> Path:
    """Draw the front and return the picture's path."""
    picture = folder / "fronts" / f"{file_name(watch.study)}.png"
    picture.parent.mkdir(parents=True, exist_ok=True)
    study = f"{watch.study}{' (SIMULATED data)' if watch.ready.simulated else ''}"
    title = title_of(study, watch.space.task, summary.complete, len(watch.members()))
    again = {number: asdict(found) for number, found in confirmed.items()}
    whole: dict[str, Any] = {"score": watch.space.score, "full_precision": watch.ready.score}
    plot_front(watch.records, watch.space.objectives, picture, title, again, **whole)
    return picture


def _row(watch: Watch, record: TrialRecord, evidence: Evidence) -> dict[str, Any]:
    """A member of the front as plain data."""
    number = record.number
    row = {
        "trial": number,
        "origin": record.origin,
        **{name: value for name, value in record.parameters.items() if value is not None},
        **record.metrics,
        watch.space.score.on_test: evidence.scores.get(number),
        "notes": [*record.notes, *([watch.remarks[number]] if number in watch.remarks else [])],
        "parts": record.parts,
    }
    if number in evidence.tests:
        row |= evidence.tests[number].to_dict()
    if number in evidence.verdicts:
        row["not_inferior"] = vars(evidence.verdicts[number])
    if number in evidence.confirmed:
        row["confirmed"] = asdict(evidence.confirmed[number])
    return row


def _told(watch: Watch, summary: Summary, rows: list[dict[str, Any]], test: float | None) -> dict[str, Any]:
    """The search and its front as plain data, with the best score first."""
    score = watch.space.score
    return {
        "study": watch.study,
        "simulated": watch.ready.simulated,
        "trials": {name: getattr(summary, name) for name in ("complete", "failed", "lost", "pruned")},
        "metric": score,
        "ended": summary.ended,
        "saved_seconds": summary.saved,
        "full_precision": {score: watch.ready.score, score.on_test: test, "parts": watch.ready.parts},
        "front": sorted(rows, key=lambda row: -upward(score, row[score])),
    }


def _intervals(test: Tested, verdict: Verdict | None, score: str) -> dict[str, float]:
    """What MLflow stores of a member's test: intervals, the change from full precision, and the p-value."""
    proof = {} if verdict is None else {f"test_{score}_p_inferior": verdict.adjusted}
    return test.evidence(score) | proof


def _test(watch: Watch, members: list[int], data: Path | None, seed: int) -> tuple[dict[int, float], dict[int, Tested]]:
    """Score the front's members on test data.

    Returns:
        The scores by number, including those of members tested before, and scores with intervals for members whose
        weights are stored.
    """
    recorder, task = watch.recorder, watch.ready.task
    known = recorder.tested()
    models, numbers = [watch.ready.model.cpu()], [FULL_PRECISION]
    for number in members:
        path = watch.models / f"trial-{number}.safetensors"
        if path.is_file():
            model = task.model().eval()
            load_weights(model, path)
            models.append(model)
            numbers.append(number)
            _log_model(watch, number, path, model)
    tested = score_on_test(task, models, seed=seed, data=data, fingerprint=watch.ready.fingerprint)
    tests = dict(zip(numbers, tested, strict=True))
    for number, found in tests.items():
        if number != FULL_PRECISION and number not in known:
            recorder.log_test(number, found.value)
            recorder.log_test_parts(number, found.parts)
    recorder.log_full_precision(watch.ready.parts, tests[FULL_PRECISION].parts)
    return {number: found.value for number, found in tests.items()} | known, tests


def _log_model(watch: Watch, number: int, path: Path, model: Any) -> None:
    """Log the weights as a file and as an MLflow model, or a remark on why there is no model; each is logged once."""
    recorder, task = watch.recorder, watch.ready.task.name
    client, run = recorder.store.client, recorder.run_of(number)
    recorder.log_file(path, "model", number)
    outputs = client.get_run(run).outputs
    if outputs is not None and outputs.model_outputs:
        recorder.log_model(number, outputs.model_outputs[0].model_id)
        return
    example = None if task in TASKS else to_device(watch.ready.validation.head(2).x, "cpu")
    try:
        recorder.log_model(number, log_model(client, run, model, task, name=f"trial-{number}", example=example))
    except InputError as error:
        if task in TASKS:
            raise
        watch.remarks[number] = f"There is no MLflow model of it: {error}"
        client.set_tag(run, "no_model", str(error))
