"""What a run in MLflow is called, and what its page tells: what it is, how to make it again, how to load it."""

from __future__ import annotations

from collections.abc import Sequence

from ttq_plugin.support.names import in_markdown, markdown_list
from ttq_plugin.tracking.records import TrialRecord
from ttq_plugin.tracking.words import CHARTS, SIZES, is_fraction, kilobytes, label_of, with_unit

_LONGEST = 250
"""Characters of a run's name."""


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
    """What a trial's page in MLflow tells.

    Args:
        record: The trial.
        objectives: What its study optimises.
        score: The task's metric.
        full_precision: The full-precision model's score; None where it is not known.
        command: What makes the model again; None where nobody knows.

    Returns:
        Markdown.
    """
    lines = [_sentence(record, objectives, score, full_precision)]
    if command is not None and record.state == "complete":
        lines += ["This command makes the model again:", f"```\n{command}\n```"]
    lines += [markdown_list(record.notes)] if record.notes else []
    return "\n\n".join(lines)


def _sentence(record: TrialRecord, objectives: Sequence[str], score: str, full_precision: float | None) -> str:
    start = f"Trial {record.number}" + (", a published setting" if record.origin == "paper" else "")
    if record.state != "complete":
        ended = "ended early" if record.state == "pruned" else "failed"
        return f"{start}, {ended}: {in_markdown(record.reason or 'no reason told')}"
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


def loading(model: str) -> str:
    """How a front member is loaded.

    Args:
        model: Its id among MLflow's models.

    Returns:
        Markdown that ends a description.
    """
    return f'\n\nLoad the model with `mlflow.pyfunc.load_model("models:/{model}")`; its weights are in `model/` below.'
