"""Writes the comparison as Markdown with a picture, and its numbers as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from ttq_plugin.reproduce.peers.rounds import FULL
from ttq_plugin.support.files import write_text, write_whole
from ttq_plugin.support.names import in_markdown, in_picture
from ttq_plugin.tasks.metrics import Metric
from ttq_plugin.tracking.pictures.ticks import logarithmic

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Summary = Mapping[str, Any]

VERDICTS = {"ours": "pttq wins", "peer": "**the peer wins**", "open": "no difference shown"}


def write_report(summary: Summary, metric: Metric, folder: Path, name: str) -> list[Path]:
    """Write ``name.md``, ``name.json`` and ``name.png``, each whole or not at all.

    Args:
        summary: ``task``, ``command``, ``trials``, ``seeds``, ``epochs``, ``layers``, ``simulated``, ``rows`` and
            ``duels`` (see ``compare``), ``absent`` (entrants that could not take part, and why) and ``environments``.
        metric: The task's metric.
        folder: The folder where the files are written.
        name: The name, without ending.

    Returns:
        The files.
    """
    picture = folder / f"{name}.png"
    draw(summary["rows"], metric, summary["task"], picture, simulated=summary["simulated"])
    texts = {"md": "\n\n".join(_parts(summary, metric, picture.name)) + "\n"}
    texts["json"] = json.dumps(dict(summary), indent=1, allow_nan=False) + "\n"
    for ending, text in texts.items():
        write_text(folder / f"{name}.{ending}", text)
    return [folder / f"{name}.{ending}" for ending in texts] + [picture]


def _parts(summary: Summary, metric: Metric, picture: str) -> Iterator[str]:
    yield f"# Peers on {in_markdown(summary['task'])}: {in_markdown(metric.label)} at equal bytes"
    yield f"Made by\n\n```console\n$ {summary['command']}\n```"
    if summary["simulated"]:
        yield "**The data are SIMULATED.**"
    seeds = summary["seeds"]
    yield (
        f"Every entrant starts from the same full-precision model, compresses the same layers "
        f"({in_markdown(', '.join(summary['layers']))}) and trains for {summary['epochs']} epochs. "
        f"Each had {summary['trials']} tuning trials on seed {summary['tuning_seed']}, chosen by "
        f"validation data; then {len(seeds)} repetitions "
        f"(seeds {seeds[0]} to {seeds[-1]}) were scored on test data, once each. Bytes are those of the whole packed "
        "file; eight-bit weights count as codes, deflated or range-coded, with a scale a channel. Brackets hold "
        "95 % bootstrap intervals over the repetitions, which share a data set and are therefore a little too narrow."
    )
    yield f"![{in_markdown(metric.label)} on test data against bytes of the file]({quote(picture)})"
    yield "\n".join(_table(summary["rows"], metric))
    yield "## At equal bytes"
    yield "Each peer beside the best pttq whose file is no larger (within 2 %), on the same seeds:"
    yield "\n".join(_duels(summary["duels"], metric))
    if summary["absent"]:
        yield "Not in the comparison: " + "; ".join(f"{who} ({why})" for who, why in summary["absent"].items()) + "."
    yield "## Settings chosen"
    yield "\n".join(f"- {row['row']}: {_words(row['settings'])}" for row in summary["rows"] if row["settings"])
    noted = [f"- {row['row']}: {in_markdown(note)}" for row in summary["rows"] for note in row["notes"][:3]]
    if noted:
        yield "## Notes\n\n" + "\n".join(noted)


def _table(rows: Sequence[Mapping[str, Any]], metric: Metric) -> Iterator[str]:
    label = in_markdown(metric.label) + (" (%)" if metric.fraction else "")
    yield f"| entrant | n | file (bytes) | zeros (%) | test {label} | change from full precision |"
    yield "|---|---|---|---|---|---|"
    for row in rows:
        if row["test"] is None:
            yield f"| {row['row']} | {row['repetitions']} | | | all diverged | |"
            continue
        lost = f" ({row['diverged']} diverged)" if row["diverged"] else ""
        cells = [row["row"] + lost, str(row["repetitions"]), f"{row['bytes']['mean']:.0f}"]
        cells += [f"{100 * row['zeros']['mean']:.1f}", _number(row["test"], metric, signed=False)]
        cells += ["" if row["row"] == FULL or row["change"] is None else _number(row["change"], metric, signed=True)]
        yield "| " + " | ".join(cells) + " |"


def _number(entry: Mapping[str, Any], metric: Metric, *, signed: bool) -> str:
    scale, form = (100, "+.2f" if signed else ".2f") if metric.fraction else (1, "+.4g" if signed else ".4g")
    told = f"{scale * entry['mean']:{form}}"
    if entry["std"] is not None:
        told += f" ± {scale * entry['std']:{form.replace('+', '')}}"
    if entry["interval"] is not None:
        low, high = (f"{scale * end:{form}}" for end in entry["interval"])
        told += f" [{low}, {high}]"
    return told


def _duels(found: Sequence[Mapping[str, Any]], metric: Metric) -> Iterator[str]:
    yield "| peer | pttq | difference | verdict |"
    yield "|---|---|---|---|"
    for duel in found:
        if duel["ours"] is None:
            yield f"| {duel['peer']} | none is as small | | no comparison |"
            continue
        entry = {"mean": duel["difference"], "std": None, "interval": duel["interval"]}
        difference = _number(entry, metric, signed=True)
        yield f"| {duel['peer']} | {duel['ours']} | {difference} | {VERDICTS[duel['verdict']]} |"


def _words(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items())


def draw(rows: Sequence[Mapping[str, Any]], metric: Metric, task: str, path: Path, *, simulated: bool = False) -> None:
    """Score against bytes: ours as a line, peers as points, full precision as a dashed line.

    Args:
        rows: What ``compare.summarize`` returned.
        metric: The task's metric.
        task: Its name, for the title.
        path: The PNG file to write.
        simulated: Whether the data are simulated.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import TABLEAU_COLORS
    from matplotlib.figure import Figure

    scale = 100 if metric.fraction else 1
    figure = Figure(figsize=(8.6, 4.6), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    known = [row for row in rows if row["test"] is not None]
    ours = sorted((row for row in known if row["row"].startswith("pttq")), key=lambda row: row["bytes"]["mean"])
    first, *others = TABLEAU_COLORS.values()
    colours = iter(others * 3)
    if ours:
        _points(axes, ours, scale, label="pttq", fmt="o-", color=first)
    for row in known:
        if row not in ours and row["row"] != FULL:
            _points(axes, [row], scale, label=row["row"], fmt="s", color=next(colours))
    for row in known:
        if row["row"] == FULL:
            axes.axhline(scale * row["test"]["mean"], ls="--", color="0.4", lw=1)
            label = f"full precision, {row['bytes']['mean'] / 1000:.0f} kB"
            axes.annotate(
                label,
                (0, scale * row["test"]["mean"]),
                (4, 2),  # to the left, where files are smallest and nothing comes near full precision
                xycoords=("axes fraction", "data"),
                textcoords="offset points",
                va="bottom",
                fontsize=8,
            )
    axes.set(
        xlabel="bytes of the packed file",
        ylabel=f"test {in_picture(metric.label)}{' (%)' if metric.fraction else ''}",
    )
    bytes_ = [row["bytes"]["mean"] for row in known if row["row"] != FULL]
    wide = bool(bytes_) and max(bytes_) > 10 * min(bytes_)
    logarithmic(axes, (1, 2, 5) if wide else range(1, 10))
    axes.set_title(f"{in_picture(task)}{' (SIMULATED data)' if simulated else ''}: peers at equal training")
    axes.grid(alpha=0.3, which="both")
    figure.legend(fontsize=8, loc="outside right upper", frameon=False)
    write_whole(path, lambda temporary: figure.savefig(temporary, format="png"))


def _points(axes: Axes, rows: Sequence[Mapping[str, Any]], scale: float, **style: Any) -> None:
    """The mean scores of some rows against their bytes, with intervals."""
    mean = [scale * row["test"]["mean"] for row in rows]
    ends = [row["test"]["interval"] or (row["test"]["mean"],) * 2 for row in rows]
    below = [m - scale * low for m, (low, _) in zip(mean, ends, strict=True)]
    above = [scale * high - m for m, (_, high) in zip(mean, ends, strict=True)]
    axes.errorbar([row["bytes"]["mean"] for row in rows], mean, yerr=[below, above], capsize=2, **style)
