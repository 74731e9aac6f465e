"""Results of entrants as plain data: means with intervals, and who wins at equal bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ttq_plugin.reproduce.peers.rounds import FULL
from ttq_plugin.reproduce.statistics import sample
from ttq_plugin.tasks.metrics import Metric

Result = Mapping[str, Any]


def best_trials(results: Sequence[Result], metric: Metric) -> dict[str, dict[str, Any]]:
    """The settings of each entrant's best tuning trial.

    Args:
        results: The results of the tuning, in the order of their trials.
        metric: The task's metric.

    Returns:
        Row -> settings; an entrant whose trials all diverged keeps its first.
    """
    found: dict[str, Result] = {}
    for result in results:
        known = found.setdefault(result["row"], result)
        if result["score"] is None:
            continue
        if known["score"] is None or metric.better(result["score"], known["score"]):
            found[result["row"]] = result
    return {row: dict(result["settings"]) for row, result in found.items()}


def summarize(results: Sequence[Result], metric: Metric) -> list[dict[str, Any]]:
    """Summarise each entrant in one row.

    Args:
        results: The results of the repetitions.
        metric: The task's metric.

    Returns:
        ``row``, ``repetitions``, ``diverged``, ``settings``, ``seconds``, ``notes``, ``values`` (test scores by seed);
        and mean, standard deviation and 95 % interval of ``test``, ``change`` (from full precision of the same seed),
        ``bytes`` and ``zeros``, None where all diverged.
    """
    full = {result["seed"]: result["test"] for result in results if result["row"] == FULL}
    rows = []
    for name in dict.fromkeys(result["row"] for result in results):
        own = [result for result in results if result["row"] == name]
        done = [result for result in own if result["test"] is not None]
        columns = {
            "test": [result["test"] for result in done],
            "change": [
                result["test"] - full[result["seed"]] for result in done if full.get(result["seed"]) is not None
            ],
            "bytes": [result["bytes"] for result in done],
            "zeros": [result["zeros"] for result in done],
        }
        rows.append(
            {
                "row": name,
                "repetitions": len(own),
                "diverged": len(own) - len(done),
                "settings": own[0]["settings"],
                "seconds": sum(result["seconds"] for result in own),
                "notes": sorted({note for result in own for note in result["notes"]}),
                "values": {str(result["seed"]): result["test"] for result in done},
                **{key: _entry(values) for key, values in columns.items()},
            }
        )
    return rows


def duels(rows: Sequence[Mapping[str, Any]], metric: Metric, own: str = "pttq") -> list[dict[str, Any]]:
    """Compare each peer with our best row that takes no more bytes.

    Args:
        rows: What ``summarize`` returned.
        metric: The task's metric.
        own: Prefix of the names of our rows.

    Returns:
        ``peer``, ``ours`` (None if none of ours is as small), ``difference`` (ours less the peer's, on the same seeds,
        better is positive) with its ``interval``, and ``verdict``: ``ours``, ``peer`` or ``open``.
    """
    mine = [row for row in rows if row["row"].startswith(own) and row["bytes"]]
    sign = 1 if metric.higher else -1
    found = []
    for peer in rows:
        if peer["row"] == FULL or peer in mine or not peer["bytes"]:
            continue
        able = [row for row in mine if row["bytes"]["mean"] <= 1.02 * peer["bytes"]["mean"]]
        entry: dict[str, Any] = {"peer": peer["row"], "ours": None, "verdict": "open"}
        if able:
            best = max(able, key=lambda row: sign * row["test"]["mean"])
            seeds = [seed for seed in peer["values"] if seed in best["values"]]
            gains = [sign * (best["values"][seed] - peer["values"][seed]) for seed in seeds]
            told = _entry(gains)
            entry |= {"ours": best["row"], "difference": told and told["mean"], "interval": told and told["interval"]}
            if told and told["interval"]:
                low, high = told["interval"]
                entry["verdict"] = "ours" if low > 0 else "peer" if high < 0 else "open"
        found.append(entry)
    return found


def _entry(values: Sequence[float]) -> dict[str, Any] | None:
    ours = sample(list(values))
    return None if ours is None else {"mean": ours.mean, "std": ours.std, "interval": ours.interval()}
