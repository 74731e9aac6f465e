"""What ``ttq search`` does with its front: scores it on the test split once, logs, draws and prints it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ttq_plugin.commands.parts.confirm import print_confirmed
from ttq_plugin.commands.parts.console import out, table
from ttq_plugin.commands.parts.lines import command, see, store_words
from ttq_plugin.commands.parts.watch import Watch
from ttq_plugin.commands.train import SIMULATED
from ttq_plugin.deploy.mlflow.pyfunc import log_model
from ttq_plugin.errors import InputError
from ttq_plugin.fronts import upward
from ttq_plugin.search.confirm import Confirmed
from ttq_plugin.search.runner import Summary
from ttq_plugin.search.space.space import Space
from ttq_plugin.statistics.noninferiority import Verdict
from ttq_plugin.support.inputs import to_device
from ttq_plugin.support.names import file_name
from ttq_plugin.tasks import TASKS
from ttq_plugin.tracking import plot_front
from ttq_plugin.tracking.words import label_of, with_unit
from ttq_plugin.trial.run import load_weights
from ttq_plugin.trial.tested import Tested, margin_of, not_inferior, score_on_test

HEADINGS = {
    "cr_gain_total": "CR_G",
    "cr_gain_quantized": "CR_G quant",
    "ec_gain_total": "EC_G",
    "cr_gain_disk": "file gain",
    "cr_gain_entropy": "Shannon gain",
    "srqw": "zeros",
}


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
    """Score the front on the test split, end the study's run in MLflow, and draw the front."""
    recorder, members, score = watch.recorder, sorted(watch.members()), watch.space.score
    recorder.sync(watch.records)  # first: the store may have been away until now, and has none of the last trials
    scores, tests = _test(watch, members, data, seed)
    metric = watch.ready.task.score
    verdicts = not_inferior({n: tests[n] for n in members if n in tests}, metric, margin_of(metric, margin))
    for number in (n for n in members if n in tests):
        recorder.log_evidence(number, _evidence(tests[number], verdicts.get(number), score))
    for number, found in confirmed.items():
        recorder.log_confirmed(number, found.holds, dict(zip(watch.space.objectives, found.mean, strict=True)))
    recorder.finish(watch.records, "KILLED" if summary.interrupted else "FINISHED", curves)
    picture = folder / "fronts" / f"{file_name(watch.study)}.png"
    if members:
        picture.parent.mkdir(parents=True, exist_ok=True)
        again = {number: asdict(found) for number, found in confirmed.items()}
        title = f"{watch.study}{' (SIMULATED data)' if watch.ready.simulated else ''}: {summary.complete} trials"
        plot_front(watch.records, watch.space.objectives, picture, title, again)
    rows = [
        {
            "trial": r.number,
            "origin": r.origin,
            **{k: v for k, v in r.parameters.items() if v is not None},
            **r.metrics,
            score.on_test: scores.get(r.number),
            **(tests[r.number].to_dict() if r.number in tests else {}),
            **({"not_inferior": vars(verdicts[r.number])} if r.number in verdicts else {}),
            "notes": [*r.notes, *([watch.remarks[r.number]] if r.number in watch.remarks else [])],
            "parts": r.parts,
            **({"confirmed": asdict(confirmed[r.number])} if r.number in confirmed else {}),
        }
        for r in watch.records
        if r.number in members
    ]
    return {
        "study": watch.study,
        "simulated": watch.ready.simulated,
        "trials": {
            "complete": summary.complete,
            "failed": summary.failed,
            "lost": summary.lost,
            "pruned": summary.pruned,
        },
        "metric": score,
        "ended": summary.ended,
        "saved_seconds": summary.saved,
        "full_precision": {score: watch.ready.score, score.on_test: scores.get(-1), "parts": watch.ready.parts},
        "front": sorted(rows, key=lambda row: -upward(score, row[score])),
        "picture": str(picture.absolute()) if members else None,
        "link": recorder.link("127.0.0.1", 5000),
    }


def _evidence(test: Tested, verdict: Verdict | None, score: str) -> dict[str, float]:
    """What MLflow is told of a member's test: intervals, the change from full precision, and the p-value."""
    proof = {} if verdict is None else {f"test_{score}_p_inferior": verdict.adjusted}
    return test.evidence(score) | proof


def _test(watch: Watch, members: list[int], data: Path | None, seed: int) -> tuple[dict[int, float], dict[int, Tested]]:
    """Test scores of the front's members, by number, and how sure they are; -1 is the full-precision model.

    Returns:
        The scores, of members tested before too; and scores with intervals, of members whose weights are kept.
    """
    recorder, task = watch.recorder, watch.ready.task
    known = recorder.tested()
    models, numbers = [watch.ready.model.cpu()], [-1]
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
        if number >= 0 and number not in known:
            recorder.log_test(number, found.value)
            recorder.log_test_parts(number, found.parts)
    recorder.log_full_precision(watch.ready.parts, tests[-1].parts)
    return {number: found.value for number, found in tests.items()} | known, tests


def _log_model(watch: Watch, number: int, path: Path, model: Any) -> None:
    """The weights as a file, and a model that MLflow loads, or a remark why there is none; each is logged once."""
    recorder, task = watch.recorder, watch.ready.task.name
    client, run = recorder.store.client, recorder.run_of(number)
    recorder.log_file(path, "model", number)
    if client.get_run(run).outputs.model_outputs:
        return
    example = None if task in TASKS else to_device(watch.ready.validation.head(2).x, "cpu")
    try:
        log_model(client, run, model, task, name=f"trial-{number}", example=example)
    except InputError as error:
        if task in TASKS:
            raise
        watch.remarks[number] = f"MLflow has no model of it: {error}"
        client.set_tag(run, "no_model", str(error))


def print_front(result: dict[str, Any], space: Space, store: str, storage: Sequence[str] = ()) -> None:
    """The front as a table, with what happened to the search and where its picture and its MLflow are.

    Args:
        result: What ``finish`` returned.
        space: What was searched.
        store: MLflow's folder or address.
        storage: The words of the option that names the study's database, where commands need it.
    """
    counts, full, score = result["trials"], result["full_precision"], space.score
    metrics = list(dict.fromkeys([*space.objectives, "srqw"]))
    headings = {"trial": "right", "method": "left", "from": "left"}
    names = HEADINGS | {score: f"{label_of(score)} val"}
    numbers = [names.get(name, name) for name in metrics] + [f"{label_of(score)} test", "epochs"]
    baseline = ["", "fp32", ""] + [with_unit(score, full[score]) if m == score else "" for m in metrics]
    rows = [[*baseline, with_unit(score, full[score.on_test]), ""]]
    rows += [
        [str(row["trial"]), row["method"], row["origin"]]
        + [with_unit(m, row.get(m)) for m in metrics]
        + [with_unit(score, row[score.on_test]), str(row["epochs"])]
        for row in result["front"]
    ]
    table(
        f"{result['study']}: the front of {counts['complete']} trials", headings | dict.fromkeys(numbers, "right"), rows
    )
    if result["simulated"]:
        out.print(SIMULATED)
    if counts["failed"]:
        out.print(f"{counts['failed']} trials failed; MLflow shows why.")
    if counts["pruned"]:
        out.print(
            f"{counts['pruned']} trials ended early, which saved about {result['saved_seconds']:.0f} s of training."
        )
    if result["ended"] not in {None, "trials"}:
        out.print(f"The search ended by {result['ended']}.")
    _print_proven(result)
    print_confirmed(result["front"], space)
    for row in result["front"]:
        for note in (note for note in row["notes"] if " is lost: " in note):
            out.print(f"trial {row['trial']}: {note}")
    if noted := [str(row["trial"]) for row in result["front"] if row["notes"]]:
        out.print(f"trials {', '.join(noted)} have notes (a threshold lowered, a layer collapsed): MLflow has them.")
    out.print(f"took {result['seconds']:.0f} s")
    out.print(f"picture: {result['picture']}")
    if result["front"]:
        options = [*store_words(store), *storage]
        out.print(f"report:  {command('report', [result['study']], options)}")
    for line in see(store, result["link"], result["study"]):
        out.print(line)


def _print_proven(result: dict[str, Any]) -> None:
    """Which members are proven to lose less than the margin on test data."""
    judged = [row for row in result["front"] if "not_inferior" in row]
    if not judged:
        return
    margin, change = judged[0]["not_inferior"]["margin"], judged[0]["test_change"]
    units = f"{change['units']} {'groups' if change['grouped'] else 'samples'}"
    named = with_unit(result["metric"], margin).replace(" %", " points")
    proven = ", ".join(str(row["trial"]) for row in judged if row["not_inferior"]["holds"])
    said = f"shown for trial{'s' if ',' in proven else ''} {proven}" if proven else "not shown for any trial"
    members = "member" if len(judged) == 1 else "members"
    out.print(
        f"Non-inferiority on test data within {named}: {said} ({units}, Holm's correction for {len(judged)} {members})."
    )
