"""The report that ``ttq fit`` writes next to the C code."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean
from typing import Any

from ttq_plugin.search.confirm import half_width
from ttq_plugin.support.names import in_markdown, markdown_list, shell
from ttq_plugin.tasks.metrics import Metric


def page(
    result: dict[str, Any], front: Sequence[dict[str, Any]], metric: Metric, command: Sequence[str]
) -> tuple[str, str]:
    """Make the report.

    Args:
        result: The result, as ``ttq fit --json`` prints it.
        front: Members of the search's front that fit, as plain data.
        metric: The task's metric.
        command: Arguments of the command that makes it again; only its name if it was not called from a shell.

    Returns:
        The report in Markdown, and one or two lines for the terminal.
    """
    test, spread = metric.text(result[f"test_{metric.name}"]), _spread(result, metric)
    lines = [
        f"# {in_markdown(result['task'])} on integers",
        "",
        f"{in_markdown(metric.label)} {test} on test data ({spread}); "
        f"{metric.text(result[metric.name])} on validation data, {metric.text(result[f'{metric.name}_float'])} "
        f"before the conversion to integers.",
        "",
        *_sizes(result),
        *_seeds(result, metric),
        *_front(front, metric),
        *(["Notes:", "", markdown_list(result["notes"]), ""] if result["notes"] else []),
    ]
    if len(command) > 1:
        lines += ["Made by:", "", f"    {shell(command)}", ""]
    summary = (
        f"{metric.label} {test} (test, integers; {spread}), {max(result['flash'].values())} bytes of flash, "
        f"{result['ram']} of memory"
    )
    return "\n".join(lines), summary


def _spread(result: dict[str, Any], metric: Metric) -> str:
    """Mean and interval of the test score over the other seeds."""
    others = [seed[f"test_{metric.name}"] for seed in result["seeds"][1:]]
    if len(others) < 2:
        return "not confirmed with other seeds"
    interval = f"{metric.text(mean(others))} ± {metric.text(half_width(others))}"
    return f"{interval} with {len(others)} other seeds, mean and 95 % interval"


def _sizes(result: dict[str, Any]) -> list[str]:
    """The bytes compared with the budget, and the settings."""
    budget, pairs = result["budget"], result["settings"].items()
    settings = ", ".join(f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in pairs)
    return [
        "| | bytes | budget |",
        "|---|---|---|",
        *(f"| flash, {cpu} | {size} | {budget['flash']} |" for cpu, size in result["flash"].items()),
        f"| memory | {result['ram']} | {budget['ram']} |",
        "",
        "Flash is code and constants, as arm-none-eabi-gcc 12.2 links them with `-Os -ffunction-sections`; memory is "
        "static memory, without the stack, the input and the output.",
        "",
        f"Settings (trial {result['trial']} of the study {in_markdown(result['study'])}): {in_markdown(settings)}; "
        f"calibration by {result['calibration']}.",
        "",
    ]


def _seeds(result: dict[str, Any], metric: Metric) -> list[str]:
    """The results of each seed, and which of them exceed the budget."""
    name, text, budget = metric.name, metric.text, result["budget"]
    over = [s["seed"] for s in result["seeds"] if s["flash"] > budget["flash"] or s["ram"] > budget["ram"]]
    return [
        f"| seed | {in_markdown(metric.label)}, validation | test | flash | memory |",
        "|---|---|---|---|---|",
        *(
            f"| {s['seed']} | {text(s[name])} | {text(s[f'test_{name}'])} | {s['flash']:.0f} | {s['ram']:.0f} |"
            for s in result["seeds"]
        ),
        "",
        *([f"Trained with the seed {', '.join(map(str, over))}, the network exceeds the budget.", ""] if over else []),
    ]


def _front(front: Sequence[dict[str, Any]], metric: Metric) -> list[str]:
    """The search's front."""
    rows = (f"| {r['trial']} | {metric.text(r[metric.name])} | {r['flash']:.0f} | {r['ram']:.0f} |" for r in front)
    return [
        "The front of the search, in floating point:",
        "",
        f"| trial | {in_markdown(metric.label)} | flash | memory |",
        "|---|---|---|---|",
        *rows,
        "",
    ]
