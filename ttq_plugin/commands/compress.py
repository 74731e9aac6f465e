"""``ttq compress``: one compression, by one method or by a chain."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from ttq_plugin import api
from ttq_plugin.commands.parts.console import out, print_json, working
from ttq_plugin.commands.train import SIMULATED, marked, print_parts, trained_model
from ttq_plugin.curvature.plan import Link, chain_from_json, chain_to_json
from ttq_plugin.deploy.file.packed import load_packed, save_packed
from ttq_plugin.deploy.source import task_entries
from ttq_plugin.errors import InputError
from ttq_plugin.methods import MIXED
from ttq_plugin.statistics.noninferiority import Verdict
from ttq_plugin.support.limits import LARGEST_CONFIG, json_value, read_text
from ttq_plugin.tasks.metrics import Metric
from ttq_plugin.tasks.scoring.scores import score
from ttq_plugin.trial.defaults import defaults
from ttq_plugin.trial.run import Outcome, Prepared, Settings
from ttq_plugin.trial.settings import LIMITS
from ttq_plugin.trial.tested import Tested, change_in_words, in_words, margin_of, not_inferior, score_on_test

IN_FILE = ("share", "granularity")
"""Options that have no effect with a config list."""

IN_CHAIN = ("method", "bits", "t", "t_min", "t_max", "zeros", *LIMITS, "alpha")
"""Options that have no effect with a chain."""


def compress(
    task: str,
    *,
    seed: int | None,
    data: Path | None,
    cache: Path | None,
    device: str,
    as_json: bool,
    config: Path | None,
    given: frozenset[str],
    weights: Path | None = None,
    retrain: bool = False,
    margin: float | None = None,
    **options: Any,
) -> None:
    """Compress, print the report and write the weights if requested; ``given`` names the options that were set."""
    target, rest = options.pop("out"), options.pop("rest")
    if rest != "exact" and target is None:
        raise InputError(f"--rest {rest} applies to the file that --out writes; add --out.")
    layers: dict[str, Any] = _read(config, given) if config else {}
    if "chain" in layers:
        options["method"] = MIXED
    if "lr_threshold" not in given:
        options["lr_threshold"] = defaults(options)["lr_threshold"]
    settings = Settings(task=task, seed=seed or 0, **options)
    places = {"data": data, "cache": cache, "device": device, "weights": weights}
    trained = trained_model(task, seed or 0, places, retrain=retrain, curvature=not layers)
    ready = trained.prepared
    outcome = api.compress(trained, **{**options, **layers, "seed": seed or 0})
    if target:
        outcome = _written(target, rest, ready, settings, outcome, layers.get("chain"))
    both = [ready.model.cpu(), outcome.model.cpu()]
    with working("test scores"):
        full, test = score_on_test(task, both, seed=seed or 0, data=data, fingerprint=ready.fingerprint)
    metric, name = ready.task.score, ready.task.score.name
    verdict = not_inferior({0: test}, metric, margin_of(metric, margin)).get(0)
    scores = {f"{name}_fp32": ready.score, f"test_{name}": test.value, f"test_{name}_fp32": full.value}
    if as_json:
        print_json(
            _as_json(settings, outcome, ready, scores, test)
            | {"not_inferior": verdict and vars(verdict), "weights": target and str(target)}
        )
        return
    _print(settings, outcome, scores, ready)
    _print_test(test, metric, verdict)
    if ready.simulated:
        out.print(SIMULATED)
    if target:
        out.print(f"weights: {target}")


def _print_test(test: Tested, metric: Metric, verdict: Verdict | None) -> None:
    """Print the interval of the test score and the change from full precision."""
    if test.interval is not None:
        out.print(f"test {metric.label}, 95 % interval: {in_words(test.interval, metric)}", markup=False)
    if test.change is not None:
        out.print(f"change from full precision: {change_in_words(test.change, metric, verdict)}", markup=False)


def _as_json(
    settings: Settings, outcome: Outcome, ready: Prepared, scores: dict[str, float], test: Tested
) -> dict[str, Any]:
    """Everything that ``--json`` prints except the verdict."""
    name = ready.task.score.name
    return {
        "settings": vars(settings),
        "layers": list(outcome.layers),
        "kinds": outcome.report.kinds,
        "notes": outcome.notes,
        "simulated": ready.simulated,
        "seconds": outcome.seconds,
        **outcome.report.to_dict(),
        "metric": name,
        name: outcome.metrics[name],
        **scores,
        "parts": outcome.parts,
        "parts_fp32": ready.parts,
        "test_parts": test.parts,
        **test.to_dict(),
    }


def _print(settings: Settings, outcome: Outcome, scores: dict[str, float], ready: Prepared) -> None:
    kinds, metric = outcome.report.kinds, ready.task.score
    name, text = metric.name, metric.text
    layers = (f"{name} ({kinds[name]})" if settings.method == MIXED else name for name in outcome.layers)
    out.print(str(outcome.report))
    out.print(
        f"{settings.method} on {', '.join(layers)}: {metric.label} {text(outcome.metrics[name])} (validation; full "
        f"precision {text(ready.score)}), {text(scores[f'test_{name}'])} (test; full precision "
        f"{text(scores[f'test_{name}_fp32'])})",
        markup=False,
    )
    columns = {"full precision": ready.parts, settings.method: outcome.parts}
    print_parts("validation", columns, ready.task)
    for note in outcome.notes:
        out.print(f"note: {note}", markup=False)


def _written(
    target: Path, rest: str, ready: Prepared, settings: Settings, outcome: Outcome, chain: tuple[Link, ...] | None
) -> Outcome:
    """Write the packed file; returns the outcome with the file's size and with the model as stored in it."""
    known, of_own = task_entries(settings.task)
    more: dict[str, Any] = {"layers": list(outcome.layers), "kinds": outcome.report.kinds, "seed": settings.seed}
    more |= marked(ready) | of_own
    if chain is not None:
        more["chain"] = chain_to_json(chain)
    metric = ready.task.score
    numbers = outcome.report.to_dict() | {metric.name: outcome.metrics[metric.name]}
    method, model = settings.method, outcome.model
    info = save_packed(model, target, task=known, method=method, report=numbers, more=more, rest=rest)
    report = outcome.report.written(info.nbytes, info.packed_bytes)
    if rest == "exact":
        return replace(outcome, report=report)
    model = load_packed(target, model=ready.task.model()).to(ready.device)
    again = score(model, ready.validation, metric)
    metrics = outcome.metrics | {metric.name: again.value}
    return replace(outcome, report=report, model=model, metrics=metrics, parts=again.parts)


def _read(path: Path, given: frozenset[str]) -> dict[str, Any]:
    """Read a config list or a chain as keywords of ``run``; options that would contradict it are refused."""
    text = read_text(path, "the config list", LARGEST_CONFIG)
    value = json_value(text, f"the config list {path}", "`ttq sensitivity --out` writes one")
    if not isinstance(value, list) or not value or not all(isinstance(entry, dict) for entry in value):
        raise InputError(
            f"the config list {path} must be a list of NNI config entries, or a chain, a list of objects with "
            "compressor, config_list and options; `ttq sensitivity --out` writes both."
        )
    chained = [entry for entry in value if "compressor" in entry]
    if chained and len(chained) < len(value):
        raise InputError(f"{path} mixes the links of a chain with NNI config entries; put the entries into a link.")
    if excess := [name for name in (IN_FILE + IN_CHAIN if chained else IN_FILE) if name in given]:
        what = "the chain" if chained else "the config list"
        raise InputError(
            f"--{excess[0].replace('_', '-')} contradicts {what} {path}, which already determines it; leave it out."
        )
    if not chained:
        return {"config_list": value}
    try:
        return {"chain": chain_from_json(value)}
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
