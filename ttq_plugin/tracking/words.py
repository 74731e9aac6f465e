"""Labels of measures in pictures and on pages."""

import re
from collections.abc import Mapping

from ttq_plugin.fronts import Objective
from ttq_plugin.support.names import in_html, metric_key
from ttq_plugin.tasks.metrics import METRICS

# Fractions, drawn in percent. Between dollars: Matplotlib's notation for the papers' symbols.
GAINS = {
    "srqw": "zero weights SRQW",
    "cr_gain_total": "compression gain $CR_G^T$",
    "cr_gain_quantized": "compression gain $CR_G^Q$",
    "cr_gain_entropy": "compression gain, entropy bound",
    "cr_gain_base3": "compression gain, 5 weights a byte",
    "cr_gain_dense2": "compression gain, 2 bits a weight",
    "cr_gain_disk": "compression gain of the file",
    "ec_gain_total": "energy gain $EC_G^T$",
    "latency_gain": "time gain, measured",
    "flash_gain": "flash saved, integer C code",
    "ram_gain": "memory saved, integer C code",
}
CHARTS = {
    "srqw": "zeros",
    "cr_gain_total": "compression gain",
    "cr_gain_quantized": "compression gain of quantised layers",
    "cr_gain_entropy": "compression gain at the entropy bound",
    "cr_gain_base3": "compression gain at 5 weights a byte",
    "cr_gain_dense2": "compression gain at 2 bits a weight",
    "cr_gain_disk": "compression gain of the file",
    "ec_gain_total": "energy gain",
    "latency_gain": "time gain",
    "flash_gain": "flash saved",
    "ram_gain": "memory saved",
}
"""The same where signs are few, as in the names of MLflow's metrics."""
SIZES = {"bits_coo34": "kB as coordinates", "bits_base3": "kB, 5 weights a byte"}
"""Sizes of a stored model that are shown next to its gains: measure in bits -> heading in kilobytes."""

_SYMBOL = re.compile(r"\$(\w+?)_(\w)\^(\w)\$")


def is_fraction(name: str) -> bool:
    """Whether a measure is read in percent."""
    if isinstance(name, Objective) and name.fraction is not None:
        return name.fraction
    metric = METRICS.get(name.removeprefix("test_"))
    return name in GAINS if metric is None else metric.fraction


def label_of(name: str) -> str:
    """The label of a measure, without its unit and split."""
    return _score_label(name) or GAINS.get(name, name)


def _score_label(name: str) -> str | None:
    """The label of a task's metric; None for anything else. Dollar signs would be taken for mathematics."""
    if isinstance(name, Objective) and name.label:
        return name.label.replace("$", "")
    metric = METRICS.get(name.removeprefix("test_"))
    return None if metric is None else metric.label


def for_picture(name: str) -> str:
    """A measure's name with its split and unit, in Matplotlib's notation."""
    split = "test" if name.startswith("test_") else "validation"
    notes = [split] if _score_label(name) else []
    notes += ["%"] if is_fraction(name) else []
    return f"{label_of(name)} ({', '.join(notes)})" if notes else label_of(name)


def for_page(name: str) -> str:
    """The same in HTML."""
    return _SYMBOL.sub(r"\1<sub>\2</sub><sup>\3</sup>", in_html(for_picture(name)))


def for_text(name: str) -> str:
    """The same in plain characters."""
    return for_picture(name).replace("$", "")


def without_symbol(name: str) -> str:
    """The same without the papers' symbol, where it could not be set."""
    return "".join(re.split(r" *\$[^$]*\$", for_picture(name)))


def for_chart(name: str) -> str:
    """The metric that MLflow's charts and tables show for a measure.

    The metric with the measure's own name holds the fraction, for programs; people read percent.

    Args:
        name: The measure.

    Returns:
        Its own name; of a fraction such as "MCC percent" and "compression gain percent".
    """
    if not is_fraction(name):
        return name
    words = CHARTS.get(name) or label_of(name)
    return metric_key(f"{words} {'test ' if name.startswith('test_') else ''}percent")


def for_size(name: str) -> str:
    """The metric that MLflow's tables show for a size of `SIZES`, in kilobytes."""
    return metric_key(SIZES[name].replace(",", ""))


def drawn(name: str, value: float) -> float:
    """A value as it is drawn: fractions in percent."""
    return 100 * value if is_fraction(name) else value


def written(name: str, value: float) -> str:
    """A value as it is written under a heading: fractions in percent, others with four significant digits."""
    return f"{100 * value:.2f}" if is_fraction(name) else f"{value:.4g}"


def kilobytes(bits: float) -> str:
    """Format a size in bits in kilobytes."""
    return f"{bits / 8000:.4g}"


def with_unit(name: str, value: float | None) -> str:
    """The same with its unit, for a sentence or a table of mixed units; empty for None."""
    if value is None:
        return ""
    return f"{written(name, value)} %" if is_fraction(name) else written(name, value)


def again_in_words(change: Mapping[str, float | int | bool] | None, name: str) -> str:
    """A mean change over other seeds, in words.

    Args:
        change: An interval as a dict, of the corrected resampled t-test; None where it is not known.
        name: The task's metric.

    Returns:
        Such as "-0.31 points (95 % interval -1.2 to +0.58 over 3 seeds, corrected resampled t-test)"; "" for None.
    """
    if change is None:
        return ""
    value, low, high = (f"{drawn(name, change[key]):+.3g}" for key in ("value", "low", "high"))
    unit = " points" if is_fraction(name) else ""
    return f"{value}{unit} (95 % interval {low} to {high} over {change['units']} seeds, corrected resampled t-test)"


def again_in_numbers(change: Mapping[str, float | int | bool] | None, name: str) -> dict[str, float]:
    """The same as flat numbers for MLflow; nothing for None."""
    if change is None:
        return {}
    ends = {"": "value", "_low": "low", "_high": "high"}
    return {f"{name}_change_confirmed{end}": float(change[key]) for end, key in ends.items()}
