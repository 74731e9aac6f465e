"""A table's report: Markdown, the same as one HTML file with its picture inside, and a JSON twin of its numbers."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ttq_plugin.reproduce.cells import FULL, OWN
from ttq_plugin.reproduce.plots import draw
from ttq_plugin.reproduce.published import repetitions, source
from ttq_plugin.reproduce.summary import COLUMNS
from ttq_plugin.support.files import write_text
from ttq_plugin.support.names import in_html, in_markdown

Summary = dict[str, Any]

NUMBER = re.compile(r"(?<![\w.-])-?\d+(?:\.\d+)?(?:e[+-]?\d+)?(?!\w)")
"""A number in a note, but not a layer's, as in ``conv2`` or ``encoder.0``."""

STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:66em;margin:2em auto;padding:0 1em;color:#222}
table{border-collapse:collapse;margin:1em 0}td,th{padding:.25em .7em;border-bottom:1px solid #ddd;text-align:right}
td:first-child,th:first-child{text-align:left}code,pre{background:#f5f5f5}pre{padding:.6em;overflow:auto}
img{max-width:100%}"""


def write_report(summary: Summary, folder: Path, name: str) -> list[Path]:
    """Write ``name.md``, ``name.html``, ``name.json`` and ``name.png``, each whole or not at all.

    Args:
        summary: What ``summarize`` returned, with ``command``, ``environments``, ``seeds``, ``scale``, ``precision``,
            ``recipe``, ``samples``, ``data``, ``simulated``, ``contradictions`` and ``seconds``.
        folder: The folder where the files are written.
        name: The name, without ending.

    Returns:
        The files.
    """
    picture = folder / f"{name}.png"
    caption = draw(summary, picture)
    text = markdown(summary, picture.name if caption else None, caption)
    title = f"ttq reproduce {summary['table']}: {summary['task']}"
    files = {"md": text, "html": html(text, title, [picture] if caption else [])}
    files["json"] = json.dumps(summary, indent=1, allow_nan=False) + "\n"
    for ending, content in files.items():
        write_text(folder / f"{name}.{ending}", content)
    return [folder / f"{name}.{ending}" for ending in files] + ([picture] if caption else [])


def markdown(summary: Summary, picture: str | None, caption: str | None) -> str:
    """The report's text.

    Args:
        summary: The summary, as in ``write_report``.
        picture: The picture's file name, or None.
        caption: What it shows.

    Returns:
        Markdown.
    """
    simulated = " (SIMULATED data)" if summary["simulated"] else ""
    parts = [f"# Table `{summary['table']}` of {in_markdown(summary['task'])}{simulated}", *_introduction(summary)]
    if picture:
        parts.append(f"![{caption}]({picture})")
    if "goals" in summary:
        parts += ["## Goals", _goal_table(summary), *_beside_goals(summary)]
    for column, words in COLUMNS.items():
        if lines := list(_column(summary, column)):
            parts += [f"## {words} (%)" if column != "mcc_change" else f"## {words} (points)", "\n".join(lines)]
    parts += ["## Settings", _settings(summary), *_notes(summary), "## Where", _where(summary)]
    return "\n\n".join(parts) + "\n"


def _introduction(summary: Summary) -> Iterator[str]:
    yield f"Made by\n\n```console\n$ {summary['command']}\n```"
    yield (
        f"Our numbers are means ± standard deviations over repetitions (seeds {_seeds(summary['seeds'])}). The MCC is "
        "measured on test data, once for each model. Brackets hold 95 % bootstrap intervals. The MCC change is "
        "measured from the full-precision model of the same repetition. The published numbers are those of "
        f"{source()}, with {repetitions()} repetitions."
    )
    if summary["scale"] != 1:
        yield (
            f"**Shortened:** every training has {summary['scale']:g} of its published epochs (and warm-up), at least "
            "one. The results compare methods at that length, not the published trainings."
        )
    if summary["refit"]:
        yield (
            "The models were also trained on the validation split, as the papers' models were trained on everything "
            "except the test split; the settings were chosen before, on models that were not."
        )
    if summary["simulated"]:
        yield "**The data are SIMULATED.** The published numbers come from clinical recordings and cannot be compared."
    if any(row["row"] == "pttq-released" for row in summary["rows"]):
        yield (
            "`pttq` has exact threshold gradients and its own units of alpha (default 5); `pttq-released` is what the "
            "authors' code does, with their alpha. Both are compared with the published pTTQ. `lsq-int2` is NNI's own "
            "LsqQuantizer with aTTQ's learning rate and pTTQ's epochs."
        )


def _seeds(seeds: Sequence[int]) -> str:
    return str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"


def _column(summary: Summary, column: str) -> Iterator[str]:
    """One column of the table as a table of its own, published numbers beside ours where there are any."""
    rows = [row for row in summary["rows"] if column in row["columns"]]
    if not rows or summary["table"] == "grid":
        return
    compared = any("published" in row["columns"][column] for row in rows)
    yield "| row | n | ours |" + (" published | difference |" if compared else "")
    yield "|---|---|---|" + ("---|---|" if compared else "")
    for row in rows:
        entry = row["columns"][column]
        line = f"| {row['row']} | {len(entry['values'])} | {_pm(entry['mean'], entry['std'])}{_interval(entry)} |"
        if compared:
            line += _beside(entry)
        yield line


def _beside(entry: Mapping[str, Any]) -> str:
    if "published" not in entry:
        return "  |  |"
    mean, std = entry["published"]
    return f" {_pm(mean, std)} | {entry['difference']:+.2f}{_brackets(entry['difference_interval'])} |"


def _pm(mean: float, std: float | None) -> str:
    return f"{mean:.2f}" if std is None else f"{mean:.2f} ± {std:.2f}"


def _interval(entry: Mapping[str, Any]) -> str:
    return "" if "published" in entry else _brackets(entry["interval"])


def _brackets(interval: Sequence[float] | None) -> str:
    return "" if interval is None else f" [{interval[0]:.2f}, {interval[1]:.2f}]"


def _goal_table(summary: Summary) -> str:
    lines = ["| row | measure | to reach | mean | reached |", "|---|---|---|---|---|"]
    for goal in summary["goals"]:
        mean = "" if goal["mean"] is None else f"{goal['mean']:.2f}"
        words, yes = COLUMNS[goal["column"]], "yes" if goal["reached"] else "**no**"
        lines.append(f"| {goal['row']} | {words} | {goal['goal']:.2f} | {mean} | {yes} |")
    return "\n".join(lines)


def _beside_goals(summary: Summary) -> Iterator[str]:
    """What a reader needs to judge a goal that is not reached: the baseline, the choice of settings, the papers."""
    missed = {goal["row"] for goal in summary["goals"] if not goal["reached"]}
    rows = {row["row"]: row for row in summary["rows"]}
    if not missed or "mcc" not in rows[FULL]["columns"]:
        return
    full, papers = rows[FULL]["columns"]["mcc"]["mean"], summary["papers"]
    luck = "; these models' change on their own validation data shows how much of it is the split's luck"
    yield (
        f"Why not: the changes are measured from a full precision of {full:.2f}, tuned first, "
        f"{full - papers['fp'][0]:+.2f} points from the published {papers['fp'][0]:.2f}. The settings were chosen on "
        f"validation data of other seeds{'' if summary['refit'] else luck}."
    )
    lines = []
    for name in (name for name in rows if name in missed and "mcc" in rows[name]["columns"]):
        test, seen = rows[name]["columns"]["mcc_change"], rows[name]["validation_change"]
        mcc = rows[name]["columns"]["mcc"]["mean"]
        own = f", validation {seen['mean']:+.2f}{_brackets(seen['interval'])}" if seen else ""
        lines.append(
            f"- {name}: test {test['mean']:+.2f}{_brackets(test['interval'])}{own}; MCC {mcc:.2f}, "
            f"{mcc - papers['pttq'][0]:+.2f} points from the published pTTQ ({papers['pttq'][0]:.2f} at "
            f"{papers['zeros'][0]:.2f} % zeros)"
        )
    yield "\n".join(lines)


def _settings(summary: Summary) -> str:
    recipe = summary["recipe"]
    known = ", ".join(
        f"{k} {v}"
        for k, v in recipe.items()
        if v is not None and (recipe["schedule"] == "noam" or k not in {"width", "warmup"})
    )
    lines = [
        f"Layers: {in_markdown(', '.join(summary['layers']))}. Full precision: {known}. Compressions share batch "
        "size, optimiser and schedule, start from the full-precision model, and have",
        "",
    ]
    for row in summary["rows"]:
        if row["row"] != FULL and summary["table"] != "grid":
            shared = {k: v for k, v in row["settings"].items() if k != OWN}
            own = [f"; {layer}: {_words(own)}" for layer, own in row["settings"].get(OWN, {}).items()]
            lines.append(f"- {row['row']}: {_words(shared)}{''.join(own)}")
    if summary["table"] == "grid":
        shown = next(row["settings"] for row in summary["rows"] if row["row"] != FULL)
        lines.append(f"- {_words({k: v for k, v in shown.items() if k not in {'t_min', 't_max'}})}")
    return "\n".join(lines)


def _words(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items())


def _notes(summary: Summary) -> Iterator[str]:
    lost = [
        f"- {row['row']}: {row['diverged']} of {row['repetitions']} diverged"
        for row in summary["rows"]
        if row["diverged"]
    ]
    noted = [
        f"- {row['row']}: {in_markdown(note)}"
        for row in summary["rows"]
        for note in grouped(row["notes"])
        if summary["table"] != "grid"
    ]
    if lost or noted:
        yield "## What happened\n\n" + "\n".join(lost + noted[:40])
    if summary["contradictions"]:
        yield (
            "## Published numbers that do not follow from their own equations\n\nRecomputed from the published share "
            "of zeros, spread evenly, with the papers' storage and energy models:\n\n"
            + "\n".join(f"- {sentence}" for sentence in summary["contradictions"])
        )


def grouped(notes: Sequence[str]) -> list[str]:
    """Notes that differ in their numbers only, as one.

    Args:
        notes: The notes of several trainings.

    Returns:
        Each kind of note once, in place of a number that differs its least and greatest value: ``t = 2.1 to 2.3``.
    """
    kinds: dict[tuple[str, ...], list[list[str]]] = {}
    for note in notes:
        words = NUMBER.split(note)
        kinds.setdefault(tuple(words), []).append(NUMBER.findall(note))
    lines = []
    for parts, found in kinds.items():
        ranges = [_range(column) for column in zip(*found, strict=True)]
        line = "".join(word + number for word, number in zip(parts, [*ranges, ""], strict=True))
        lines.append(line + (f" ({len(found)} such notes)" if len(found) > 1 else ""))
    return lines


def _range(numbers: Sequence[str]) -> str:
    least, most = min(numbers, key=float), max(numbers, key=float)
    return least if float(least) == float(most) else f"{least} to {most}"


def _where(summary: Summary) -> str:
    lines = [f"{summary['samples']} training samples from {in_markdown(summary['data'])}. Trained on", ""]
    lines += [f"- {machine(known)}" for known in summary["environments"]]
    told = sum(known["trainings"] for known in summary["environments"])
    if untold := sum(row["repetitions"] for row in summary["rows"]) - told:
        lines += [f"- machines that results of an earlier version do not record: {untold} trainings"]
    lines += [""]
    lines += ["| row | trainings | seconds each |", "|---|---|---|"]
    lines += [
        f"| {row['row']} | {row['repetitions']} | {row['seconds'] / row['repetitions']:.0f} |"
        for row in summary["rows"]
        if summary["table"] != "grid"
    ]
    return "\n".join(lines)


def machine(known: Mapping[str, Any]) -> str:
    """A machine and its versions in words, and how many trainings it did."""
    device = known["gpu"] or f"{known['processor']}, {known['cores']} cores"
    own = {"processor", "cores", "gpu", "trainings"}
    return f"{device}; {_words({k: v for k, v in known.items() if k not in own})}: {known['trainings']} trainings"


def html(text: str, title: str, pictures: Sequence[Path]) -> str:
    """A report as one HTML file with its pictures inside.

    Args:
        text: Markdown.
        title: Title of the page, plain text.
        pictures: PNG files that the text names.

    Returns:
        The page.
    """
    from markdown_it import MarkdownIt

    body = MarkdownIt("commonmark").enable("table").render(text)
    for picture in pictures:
        data = base64.b64encode(picture.read_bytes()).decode()
        body = body.replace(f'src="{quote(picture.name)}"', f'src="data:image/png;base64,{data}"')
    head = f'<meta charset="utf-8"><title>{in_html(title)}</title><style>{STYLE}</style>'
    return f"<!doctype html>\n<html lang=en><head>{head}</head>\n<body>\n{body}</body></html>\n"
