"""``ttq sensitivity``: how curved the loss is layer by layer, and which method each layer gets."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ttq_plugin.commands.parts.console import out as console
from ttq_plugin.commands.parts.console import print_json, progress, table, working
from ttq_plugin.commands.parts.lines import see, to_see
from ttq_plugin.commands.parts.places import check_place
from ttq_plugin.commands.train import SIMULATED, marked, prepared
from ttq_plugin.curvature import Budget, Row, Selection, Traces, chain_to_json, select
from ttq_plugin.curvature.candidates import WIDTHS, read_methods
from ttq_plugin.curvature.layers import candidate_layers
from ttq_plugin.curvature.probing.cost import trace_bar
from ttq_plugin.curvature.problem import Rules, kept_layers
from ttq_plugin.errors import InputError
from ttq_plugin.support.files import write_text
from ttq_plugin.tasks import get_task
from ttq_plugin.tracking import open_store
from ttq_plugin.tracking.store import check_store
from ttq_plugin.trial.prepared import TRACE_PROBES, Prepared, estimate_traces

BESIDE = 3
"""Largest number of methods whose sensitivities are shown next to the traces in one table."""


def sensitivity(
    task: str,
    *,
    budget: float | None,
    max_bits: int | None,
    max_energy: float | None,
    max_sensitivity: float | None,
    methods: str,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    keep_first: bool,
    keep_last: bool,
    probes: int | None,
    tol: float | None,
    plot: Path | None,
    out: Path | None,
    store: str,
    seed: int | None,
    data: Path | None,
    cache: Path | None,
    device: str,
    as_json: bool,
    weights: Path | None = None,
    retrain: bool = False,
) -> None:
    """Choose the layers, print the table, write the requested files and log everything."""
    limit = _budget({"share": budget, "bits": max_bits, "energy": max_energy, "sensitivity": max_sensitivity})
    names, _ = read_methods([name.strip() for name in methods.split(",") if name.strip()], None)
    rules = Rules(exclude, include, keep_first, keep_last)
    _check(task, rules, tol)
    check_store(store)
    if "://" not in str(store):
        check_place(Path(store) / "mlflow.db")
    ready = prepared(task, seed=seed, data=data, cache=cache, device=device, weights=weights, retrain=retrain)
    traces = ready.traces if probes is None and tol is None else _traces(ready, probes, tol, seed or 0)
    with working("choice of layers"):
        example = ready.validation.head(1).x
        selection = select(ready.model, traces, limit, methods=names, **vars(rules), example_input=example)
    config = _config(selection, names)
    if out and not config:
        raise InputError(
            "the budget is met in full precision, so there is nothing to write to --out; lower the budget."
        )
    title = f"{task}{' (SIMULATED data)' if ready.simulated else ''}: {', '.join(names)}; {limit}"
    asked = _asked(ready, selection, names, rules) | {"seed": seed or 0, "tol": tol}
    link = _write(task, selection, config, asked, title, store, plot, out)
    links = {"plot": str(plot) if plot else None, "config": str(out) if out else None, "link": to_see(store, link)[-1]}
    if as_json:
        print_json({"task": task, "simulated": ready.simulated, **selection.to_dict(), **links})
    else:
        _print(task, selection, names, config, links, see(store, link))
        if ready.simulated:
            console.print(SIMULATED)


def _asked(ready: Prepared, selection: Selection, names: Sequence[str], rules: Rules) -> dict[str, Any]:
    """The parameters of the choice that are logged to MLflow."""
    limit = selection.budget
    return {
        "methods": ",".join(names),
        "scheme": selection.scheme,
        f"{ready.task.score.name}_fp32": ready.score,
        f"budget_{limit.kind}": limit.limit,
        "probes": selection.traces[0].probes,
        **{name: str(value) for name, value in vars(rules).items() if value},
        **marked(ready),
    }


def _budget(options: dict[str, Any]) -> Budget:
    """The budget given on the command line, by default a share of 0.9."""
    flags = {"share": "--budget", "bits": "--max-bits", "energy": "--max-energy", "sensitivity": "--max-sensitivity"}
    given = {name: value for name, value in options.items() if value is not None} or {"share": 0.9}
    if len(given) > 1:
        raise InputError(
            f"{' and '.join(flags[name] for name in given)} are budgets of different kinds; give only one of them."
        )
    [name] = given
    try:
        return Budget(**given)
    except InputError as error:
        raise InputError(str(error).replace("`budget`", flags[name])) from None


def _check(task: str, rules: Rules, tol: float | None) -> None:
    """Refuse invalid options before the training instead of after it."""
    model = get_task(task).model()
    kept_layers(model, candidate_layers(model), rules)
    if tol is not None and not tol > 0:
        raise InputError(f"--tol must be positive, got {tol:g}; 0.1 estimates each trace to within a tenth.")


def _traces(ready: Prepared, probes: int | None, tol: float | None, seed: int) -> Traces:
    """Estimate traces with the requested number of probes or tolerance, on the samples of the cached traces."""
    most = probes or (TRACE_PROBES if tol is None else 100 * TRACE_PROBES)
    with progress() as bars:
        asked = {"seed": seed, "probes": most, "tol": tol}
        return estimate_traces(ready.task, ready.model, ready.train, **asked, on_probe=trace_bar(bars))  # type: ignore[arg-type]


def _config(selection: Selection, names: tuple[str, ...]) -> list[dict[str, Any]]:
    """The choice for ``ttq compress --config``: an NNI config list if one ternary method suffices, else a chain."""
    if len(names) == 1 and names[0] not in WIDTHS:
        return selection.config_list
    return chain_to_json(selection.chain)


def _write(
    task: str,
    selection: Selection,
    config: list[dict[str, Any]],
    asked: dict[str, Any],
    title: str,
    store: str,
    plot: Path | None,
    out: Path | None,
) -> str:
    """Write the files and the run in MLflow; returns where the run is."""
    from ttq_plugin.tracking.pictures.sensitivity import plot_sensitivity
    from ttq_plugin.tracking.runs.sensitivity import record_sensitivity

    opened = open_store(store)
    values = selection.to_dict()
    if plot:
        plot_sensitivity(values, plot, title)
    if out:
        write_text(out, json.dumps(config, indent=2) + "\n")
    return record_sensitivity(opened, task, values, config, asked, title)


def _print(
    task: str,
    selection: Selection,
    names: tuple[str, ...],
    config: list[dict[str, Any]],
    links: dict[str, str | None],
    shown: list[str],
) -> None:
    beside = names if len(names) <= BESIDE else ()
    known = {row.layer for row in selection.rows}
    kept = [
        Row(x.name, x.type, x.weights, x.trace, x.standard_error, x.trace_per_weight, "fp32", ())
        for x in selection.traces
        if x.name not in known
    ]
    rows = [_cells(row) + [_omega(row, name) for name in beside] for row in (*selection.rows, *kept)]
    headings = {"chosen": "left", "layer": "left", "type": "left"}
    numbers = {"weights": "right", "Hessian trace": "right", "trace / weight": "right"}
    table(f"{task}: flattest layers first", headings | numbers | {f"Omega {n}": "right" for n in beside}, rows)
    if not beside:
        omegas = [[row.method, row.layer, *(_omega(row, name) for name in names)] for row in selection.rows]
        table("sensitivity Omega", {"chosen": "left", "layer": "left"} | dict.fromkeys(names, "right"), omegas)
    for line in selection.summary():
        console.print(line)
    where = links["config"] or json.dumps(config)
    console.print(f"{'config list' if config == selection.config_list else 'chain'}: {where}")
    if links["plot"]:
        console.print(f"picture: {links['plot']}")
    for line in shown:
        console.print(line)


def _cells(row: Row) -> list[str]:
    mark = " (negative)" if row.trace < 0 else ""
    trace = f"{row.trace:.4g} +- {row.standard_error:.2g}{mark}"
    return [row.method, row.layer, row.type, str(row.weights), trace, f"{row.trace_per_weight:.3g}"]


def _omega(row: Row, method: str) -> str:
    """Omega of one method with its standard error; empty where the method cannot quantise the layer."""
    found = [option for option in row.options if option.method == method]
    return f"{found[0].sensitivity:.3g} +- {found[0].standard_error:.1g}" if found else ""
