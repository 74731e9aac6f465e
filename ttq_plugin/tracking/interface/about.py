"""Names and descriptions of runs in MLflow: what a run is, how to make it again and how to load it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ttq_plugin.support.names import in_markdown, markdown_list
from ttq_plugin.tracking.records import TrialRecord
from ttq_plugin.tracking.words import CHARTS, SIZES, is_fraction, kilobytes, label_of, with_unit

_LONGEST = 250
"""Characters of a run's name."""

_WIDTH = 64
"""Characters of a line of code on a run's page: MLflow widens the page for a longer one until nothing else fits."""

_WORD = re.compile(r"(?:\$'(?:\\.|[^'])*'|'[^']*'|\"(?:\\.|[^\"])*\"|\\.|[^\s'\"])+", re.DOTALL)


def run_name(record: TrialRecord, score: str, method: str | None = None) -> str:
    """A trial's name in lists, legends and hovers.

    Args:
        record: The trial.
        score: The task's metric.
        method: The study's method, where trials do not name their own.

    Returns:
        Such as "pttq 92 % zeros, MCC 95.7 #24", with the trial's number at the end.
    """
    words = [str(record.parameters.get("method") or method or "trial")]
    if record.state == "complete":
        words += [f"{share(record.metrics['srqw'])} zeros"] if "srqw" in record.metrics else []
        words = [" ".join(words)]
        words += [f"{label_of(score)} {short(score, record.metrics[score])}"] if score in record.metrics else []
    else:
        words = [f"{words[0]} {'ended early' if record.state == 'pruned' else record.state}"]
    end = f" #{record.number}"
    return ", ".join(words)[: _LONGEST - len(end)] + end


def share(value: float) -> str:
    """A share of zeros in percent, with more digits where the last percent matters."""
    percent = 100 * value
    return f"{percent:.0f} %" if percent < 98.5 else f"{percent:.1f} %" if percent < 99.85 else f"{percent:.2f} %"


def short(score: str, value: float) -> str:
    """A score as a name has room for."""
    return f"{100 * value:.1f}" if is_fraction(score) else f"{value:.3g}"


def description(
    record: TrialRecord,
    objectives: Sequence[str],
    score: str,
    full_precision: float | None = None,
    command: str | None = None,
) -> str:
    """The description on a trial's page in MLflow.

    Args:
        record: The trial.
        objectives: What its study optimises.
        score: The task's metric.
        full_precision: The full-precision model's score; None where it is not known.
        command: The command that makes the model again; None if it is not known.

    Returns:
        Markdown.
    """
    lines = [_sentence(record, objectives, score, full_precision)]
    if command is not None and record.state == "complete":
        lines += ["This command makes the model again:", f"```\n{folded(command)}\n```"]
    lines += [markdown_list(record.notes)] if record.notes else []
    return "\n\n".join(lines)


def _sentence(record: TrialRecord, objectives: Sequence[str], score: str, full_precision: float | None) -> str:
    start = f"Trial {record.number}" + (", a published setting" if record.origin == "paper" else "")
    if record.state != "complete":
        ended = "ended early" if record.state == "pruned" else "failed"
        return f"{start}, {ended}: {in_markdown(record.reason or 'no reason given')}"
    names = list(dict.fromkeys([score, *objectives, "srqw"]))
    values = [_value(name, record.metrics[name]) for name in names if name in record.metrics]
    if score in record.metrics:
        values[0] += " on validation data"
        values[0] += "" if full_precision is None else f" (full precision {with_unit(score, full_precision)})"
    values += [f"{kilobytes(record.metrics[size])} {words}" for size, words in SIZES.items() if size in record.metrics]
    broken = [f"breaks {in_markdown(text)}" for text in record.violated]
    return f"{start}: {'; '.join([*values, *broken])}."


def _value(name: str, value: float) -> str:
    return f"{in_markdown(CHARTS.get(name) or label_of(name))} {with_unit(name, value)}"


def folded(command: str) -> str:
    """A line for a shell as several short ones, each an option or more; the same command for a shell."""
    words = _WORD.findall(command)
    if " ".join(words) != command:
        return command
    groups: list[str] = []
    for word in words:
        if groups and not word.startswith("--"):
            groups[-1] += f" {word}"
        else:
            groups.append(word)
    lines = groups[:1]
    for group in groups[1:]:
        if len(lines[-1]) + len(group) + 3 <= _WIDTH:
            lines[-1] += f" {group}"
        else:
            lines.append(f"  {group}")
    return " \\\n".join(lines)


def study_note(study: str, task: str | None, trials: int, complete: int, members: int, link: str) -> str:
    """The description of a study's run.

    Args:
        study: The study's name.
        task: What it searched; None where it is not known.
        trials: The number of finished trials.
        complete: The number of those with a result.
        members: The number of those on the front.
        link: The address of the front.

    Returns:
        Markdown.
    """
    of = f" of the task {in_markdown(task)}" if task else ""
    return (
        f"The study {in_markdown(study)}{of}: {complete} of {trials} trials are complete, and {members} of them are on "
        f"the [trade-off front]({link}). The artifacts hold the front as a picture and as a table."
    )


def loading(model: str) -> str:
    """How a front member is loaded.

    Args:
        model: Its id among MLflow's models.

    Returns:
        Markdown that ends a description.
    """
    return f'\n\nLoad the model with `mlflow.pyfunc.load_model("models:/{model}")`; its weights are in `model/` below.'
