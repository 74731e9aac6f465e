"""The sensors' report: Markdown, the same as HTML with its pictures inside, and a JSON twin of its numbers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ttq_plugin.reproduce.peers.rounds import FULL
from ttq_plugin.reproduce.report import grouped, html, machine
from ttq_plugin.reproduce.sensors.evidence import ON_INTEGERS, SMALLEST
from ttq_plugin.reproduce.sensors.pictures import draw_bytes, draw_confusions, draw_examples
from ttq_plugin.statistics.resampling import Interval
from ttq_plugin.support.files import write_text
from ttq_plugin.support.names import file_name, in_markdown
from ttq_plugin.tasks import get_task
from ttq_plugin.tasks.metrics import Metric
from ttq_plugin.trial.tested import in_words

Summary = Mapping[str, Any]

MOST_PEOPLE = 12
"""Groups up to which the report lists each one."""

HELD_OUT = 5
"""People or recordings that test splits should hold in all."""


def write_report(summary: Summary, shown: Mapping[str, Mapping[str, Any]], folder: Path, name: str) -> list[Path]:
    """Write ``name.md``, ``name.html``, ``name.json`` and the pictures, each whole or not at all.

    Args:
        summary: ``command``, ``scale``, ``trials``, ``simulated``, ``refused`` (training -> why), ``shortened``,
            ``environments`` and ``tasks``, each with ``task``, ``rows``, ``goal``, ``seeds``, ``recipe``, ``epochs``,
            ``layers``, ``samples`` and ``simulated``.
        shown: The shown of each task, what ``draw_examples`` takes: ``examples`` and ``answers``.
        folder: The folder where the files are written.
        name: The name, without ending.

    Returns:
        The files.
    """
    tables = [(one["task"], get_task(one["task"]).score, one["rows"]) for one in summary["tasks"]]
    pictures = [draw_bytes(tables, folder / f"{name}.png", simulated=summary["simulated"])]
    of_tasks: dict[str, list[Path]] = {}
    for one in summary["tasks"]:
        of_tasks[one["task"]] = _pictures(one, shown.get(one["task"], {}), folder, name)
        pictures += of_tasks[one["task"]]
    text = "\n\n".join(_parts(summary, pictures[0], of_tasks)) + "\n"
    files = {"md": text, "html": html(text, "ttq reproduce sensors", pictures)}
    files["json"] = json.dumps(dict(summary), indent=1, allow_nan=False) + "\n"
    for ending, content in files.items():
        write_text(folder / f"{name}.{ending}", content)
    return [folder / f"{name}.{ending}" for ending in files] + pictures


def _pictures(one: Summary, shown: Mapping[str, Any], folder: Path, name: str) -> list[Path]:
    """The task's confusion matrices before and after, and samples with the models' answers."""
    rows = {row["row"]: row for row in one["rows"]}
    pair = [rows[key] for key in (FULL, one["goal"]["row"]) if key in rows and rows[key]["confusion"]]
    if not pair:
        return []
    classes, simulated = get_task(one["task"]).classes, one["simulated"]
    start = f"{name}-{file_name(one['task'])}" if not name.endswith(file_name(one["task"])) else name
    found = [draw_confusions(pair, classes, folder / f"{start}-confusion.png", simulated=simulated)]
    if shown:
        path = folder / f"{start}-examples.png"
        found.append(draw_examples(shown["examples"], shown["answers"], classes, path, simulated=simulated))
    return found


def _parts(summary: Summary, picture: Path, pictures: Mapping[str, Sequence[Path]]) -> Iterator[str]:
    simulated = " (SIMULATED data)" if summary["simulated"] else ""
    yield f"# Sensors: compressed networks beside full precision{simulated}"
    yield f"Made by\n\n```console\n$ {summary['command']}\n```"
    yield (
        "Each member starts from the full-precision model of its seed, compresses the same layers and trains equally "
        "long. Depthwise convolutions stay in full precision, except on integers, where they take eight bits. Scores "
        "are those of test data, scored once by each model. The answers of all seeds' models are joined; brackets hold "
        "95 % intervals that are bootstrapped over people (recordings, speakers) where the task names them, and over "
        "samples otherwise. A change is paired: both models answer about the same samples. A member is called "
        "non-inferior if the test rejects a loss of one point or more at 5 %, corrected by Holm for all members of its "
        "task. The change over seeds is that of the corrected resampled t-test (Nadeau and Bengio, 2003), which treats "
        "seeds as repetitions that share samples."
    )
    yield f"![Score on test data against bytes, by task]({quote(picture.name)})"
    yield "## Goal"
    yield (
        "At least one member that is non-inferior, has at least 90 % zeros and takes at most "
        f"1/{SMALLEST} of the bytes of full precision:"
    )
    yield "\n".join(_goals(summary))
    for one in summary["tasks"]:
        yield from _task(one, pictures[one["task"]])
    yield "## What was shortened or left out"
    yield "\n".join(f"- {in_markdown(line)}" for line in summary["shortened"])
    yield "## Where"
    yield "\n".join(f"- {machine(known)}" for known in summary["environments"])


def _goals(summary: Summary) -> Iterator[str]:
    yield "| task | reached | member | what is missing |"
    yield "|---|---|---|---|"
    for one in summary["tasks"]:
        found = one["goal"]
        member, missing = found["row"] or "", "; ".join(found["missed"])
        yield f"| {in_markdown(one['task'])} | {'yes' if found['reached'] else '**no**'} | {member} | {missing} |"


def _task(one: Summary, pictures: Sequence[Path]) -> Iterator[str]:
    task = get_task(one["task"])
    metric, people = task.score, one["rows"][0]["score"]
    tested = f"{people['units']} {'groups' if people['grouped'] else 'samples'}" if people else "one group"
    yield f"## {in_markdown(one['task'])}"
    yield (
        f"{in_markdown(task.description[:1].upper() + task.description[1:])}. {one['samples'][0]} samples train, and "
        f"test splits hold {tested} in all. Seeds {', '.join(map(str, one['seeds']))}; full precision trains for "
        f"{one['recipe']['epochs']} epochs, compressions for {one['epochs']}. Compressed layers: "
        f"{in_markdown(', '.join(one['layers']))}."
    )
    yield "\n".join(_scores(one["rows"], metric))
    yield "\n".join(_costs(one["rows"]))
    names = ("Confusion matrices before and after, in percent of the true class", "Test samples with the answers")
    for caption, picture in zip(names, pictures, strict=False):
        yield f"![{caption}]({quote(picture.name)})"
    if lines := list(_people(one["rows"], one["goal"]["row"])):
        yield "\n".join(lines)
    trained = [row for row in one["rows"] if not row["row"].endswith(ON_INTEGERS)]
    settings = [f"- {row['row']}: {_words(row['settings'])}" for row in trained if row["settings"]]
    noted = [f"- {row['row']}: {in_markdown(note)}" for row in trained for note in grouped(row["notes"])[:3]]
    yield "Settings:\n\n" + "\n".join(settings)
    if noted:
        yield "Notes:\n\n" + "\n".join(noted)


def _scores(rows: Sequence[Mapping[str, Any]], metric: Metric) -> Iterator[str]:
    label, unit = in_markdown(metric.label), " (%)" if metric.fraction else ""
    yield f"| member | seeds | test {label}{unit} | accuracy (%) | change | non-inferior | change over seeds |"
    yield "|---|---|---|---|---|---|---|"
    for row in rows:
        lost = f" ({row['diverged']} diverged)" if row["diverged"] else ""
        cells = [row["row"] + lost, str(len(row["seeds"])), _number(row["score"] or {"value": row["value"]}, metric)]
        cells += ["" if row["accuracy"] is None else f"{100 * row['accuracy']:.2f}"]
        cells += [_number(row["change"], metric, signed=True), _verdict(row["verdict"])]
        cells += [_number(row["resampled"], metric, signed=True)]
        yield "| " + " | ".join(cells) + " |"


def _verdict(verdict: Mapping[str, Any] | None) -> str:
    if verdict is None:
        return ""
    return f"{'**yes**' if verdict['holds'] else 'not shown'} (p = {verdict['adjusted']:.2g})"


def _number(entry: Mapping[str, Any] | None, metric: Metric, *, signed: bool = False) -> str:
    if entry is None or entry["value"] is None:
        return ""
    scale, form = (100, ".2f") if metric.fraction else (1, ".4g")
    if "low" not in entry:
        return f"{scale * entry['value']:{form}}"
    value, low, high = (f"{scale * entry[key]:{'+' if signed else ''}{form}}" for key in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def _costs(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield "| member | bytes | of full precision | zeros (%) | flash | RAM | instructions | ms | times torch's speed |"
    yield "|---|---|---|---|---|---|---|---|---|"
    full = next((row["bytes"] for row in rows if row["row"] == FULL), None)
    for row in rows:
        if row["bytes"] is None:
            yield f"| {row['row']} | | | | | | | | |"
            continue
        share = f"1/{full / row['bytes']:.1f}" if full and row["row"] != FULL else ""
        cells = [row["row"], f"{row['bytes']:.0f}", share, f"{100 * row['zeros']:.1f}"]
        cells += [_or_nothing(row[key], ".0f") for key in ("flash", "ram", "instructions")]
        cells += [_or_nothing(row["milliseconds"], ".3g"), _or_nothing(row["speedup"], ".2f")]
        yield "| " + " | ".join(cells) + " |"
    yield ""
    yield (
        "Bytes are those of the packed file, and on integers those of the constants; flash adds the code, both on a "
        "Cortex-M0. Instructions are counted by callgrind on this processor. Milliseconds are those of one sample in "
        "torch, and of compressed networks in the runtime."
    )


def _or_nothing(value: float | None, form: str) -> str:
    return "" if value is None else f"{value:{form}}"


def _people(rows: Sequence[Mapping[str, Any]], best: str | None) -> Iterator[str]:
    """Accuracy by group, where there are few enough to read."""
    pair = [row for row in rows if row["row"] in (FULL, best) and row["people"]]
    if not pair or len(pair[0]["people"]) > MOST_PEOPLE:
        return
    yield "| accuracy (%) on group | " + " | ".join(row["row"] for row in pair) + " |"
    yield "|---|" + "---|" * len(pair)
    for group in pair[0]["people"]:
        shares = [f"{100 * row['people'][group]:.1f}" if group in row["people"] else "" for row in pair]
        yield f"| {in_markdown(group)} | " + " | ".join(shares) + " |"


def _words(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items())


def in_short(one: Summary) -> Iterator[str]:
    """A line for each member of a task, for the console.

    Args:
        one: The one of the summary's tasks.

    Yields:
        Such as ``pttq 90% zeros: MCC 83.1 % (81.0 to 85.2 % over 4 groups), non-inferior``.
    """
    metric = get_task(one["task"]).score
    for row in one["rows"]:
        if row["value"] is None:
            yield f"{row['row']}: nothing to show of {row['repetitions']} trainings, {row['diverged']} of them diverged"
            continue
        told = in_words(Interval(**row["score"]), metric) if row["score"] else "one group, so no interval"
        verdict = row["verdict"]
        judged = "" if verdict is None else f", {'' if verdict['holds'] else 'not shown to be '}non-inferior"
        yield f"{row['row']}: {metric.label} {metric.text(row['value'])} ({told}){judged}"
