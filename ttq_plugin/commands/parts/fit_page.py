"""The page that ``ttq fit`` writes beside the C code."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean
from typing import Any

from ttq_plugin.search.confirm import half_width
from ttq_plugin.support.names import shell
from ttq_plugin.tasks.metrics import Metric


def page(
    result: dict[str, Any], front: Sequence[dict[str, Any]], metric: Metric, command: Sequence[str]
) -> tuple[str, str]:
    """Write the page.

    Args:
        result: What was found, as ``ttq fit --json`` prints it.
        front: Members of the search's front that fit, as plain data.
        metric: The task's.
        command: Words of the command that makes it again; empty where it was not called from a shell.

    Returns:
        Markdown, and one or two lines for the terminal.
    """
    name, text = metric.name, metric.text
    others = [seed[f"test_{name}"] for seed in result["seeds"][1:]]
    spread = "not confirmed"
    if len(others) > 1:
        spread = f"{text(mean(others))} ± {text(half_width(others))} with {len(others)} other seeds"
    budget, flash = result["budget"], result["flash"]
    over = [s["seed"] for s in result["seeds"] if s["flash"] > budget["flash"] or s["ram"] > budget["ram"]]
    pairs = result["settings"].items()
    settings = ", ".join(f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in pairs)
    lines = [
        f"# {result['task']} on integers",
        "",
        f"{metric.label} {text(result[f'test_{name}'])} on test data, {spread} (mean and 95 % interval of the test "
        f"score); {text(result[name])} on validation data, {text(result[f'{name}_float'])} before the network was put "
        "on integers.",
        "",
        "| | bytes | budget |",
        "|---|---|---|",
        *(f"| flash, {cpu} | {size} | {budget['flash']} |" for cpu, size in flash.items()),
        f"| memory | {result['ram']} | {budget['ram']} |",
        "",
        "Flash is code and constants, as arm-none-eabi-gcc 12.2 links them with `-Os -ffunction-sections`; memory is "
        "static, beside the stack, the input and the output.",
        "",
        f"Settings (trial {result['trial']} of the study `{result['study']}`): {settings}; calibration by "
        f"{result['calibration']}.",
        "",
        f"| seed | {metric.label}, validation | test | flash | memory |",
        "|---|---|---|---|---|",
        *(
            f"| {s['seed']} | {text(s[name])} | {text(s[f'test_{name}'])} | {s['flash']:.0f} | {s['ram']:.0f} |"
            for s in result["seeds"]
        ),
        "",
    ]
    if over:
        lines += [f"Trained with the seed {', '.join(map(str, over))}, the network exceeds the budget.", ""]
    lines += [
        "The front of the search, on float numbers:",
        "",
        f"| trial | {metric.label} | flash | memory |",
        "|---|---|---|---|",
        *(f"| {row['trial']} | {text(row[name])} | {row['flash']:.0f} | {row['ram']:.0f} |" for row in front),
        "",
        *(f"Note: {note}.\n" for note in result["notes"]),
    ]
    if command:
        lines += ["Made by:", "", f"    {shell(['ttq', *command])}", ""]
    summary = (
        f"{metric.label} {text(result[f'test_{name}'])} (test, integers; {spread}), "
        f"{max(flash.values())} bytes of flash, {result['ram']} of memory"
    )
    return "\n".join(lines), summary
