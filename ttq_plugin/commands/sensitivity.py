"""``ttq sensitivity``: which layers are flat."""

from __future__ import annotations

import json
from pathlib import Path

from ttq_plugin.commands.console import out as console
from ttq_plugin.commands.console import print_json, table
from ttq_plugin.commands.train import prepared
from ttq_plugin.curvature import select
from ttq_plugin.errors import InputError
from ttq_plugin.files import write_text


def sensitivity(
    task: str,
    budget: float,
    out: Path | None,
    *,
    seed: int | None,
    data: Path | None,
    cache: Path | None,
    device: str,
    as_json: bool,
) -> None:
    """Print the table and the config list, and write the latter where asked."""
    if not 0 < budget <= 1:
        raise InputError(f"--budget must lie in (0, 1], got {budget:g}: it is the share of the weights to quantise.")
    ready = prepared(task, seed=seed, data=data, cache=cache, device=device)
    selection = select(ready.traces, budget)
    if out:
        write_text(out, json.dumps(selection.config_list, indent=2) + "\n")
    if as_json:
        print_json({"task": task, **selection.to_dict()})
        return
    rows = [
        [
            "yes" if row.selected else "",
            row.layer,
            row.type,
            str(row.weights),
            f"{row.trace:.4g} +- {row.standard_error:.2g}",
            f"{row.trace_per_weight:.3g}",
        ]
        for row in selection.rows
    ]
    headings = {"selected": "left", "layer": "left", "type": "left"}
    numbers = {"weights": "right", "Hessian trace": "right", "trace / weight": "right"}
    table(f"{task}: flattest layers first", headings | numbers, rows)
    console.print(f"selected: {100 * selection.share:.2f} % of these weights (budget {100 * budget:g} %)")
    console.print(f"config list: {out or json.dumps(selection.config_list)}")
