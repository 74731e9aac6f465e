"""A reproduced table in MLflow: one experiment a table and task, one run a repetition, one for the report."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ttq_plugin.support.names import markdown_list
from ttq_plugin.tracking.children import rounded
from ttq_plugin.tracking.runs.single import open_experiment
from ttq_plugin.tracking.store import Store


class ReproductionRecorder:
    """Logs results of cells; each is logged once, however often the table is reproduced.

    Args:
        store: The MLflow store.
        experiment: The experiment's name.
    """

    def __init__(self, store: Store, experiment: str) -> None:
        self.store = store
        self.experiment_id = open_experiment(store, experiment)
        self._known = {
            run.data.tags.get("fingerprint")
            for run in self._runs("tags.role = 'repetition' and attributes.status = 'FINISHED'")
        }

    def record(self, key: str, result: Mapping[str, Any]) -> None:
        """Log one repetition, if it is not there yet.

        Args:
            key: Name of its cell.
            result: The result, as the runner stores it.
        """
        from mlflow.entities import Metric, Param, RunTag

        if result["fingerprint"] in self._known:
            return
        client, now = self.store.client, round(1000 * time.time())
        tags = {"role": "repetition", "cell": key, "fingerprint": result["fingerprint"], "row": result["row"]}
        tags |= {"simulated": "true"} if result["simulated"] else {}
        if result["notes"]:
            tags["mlflow.note.content"] = markdown_list(result["notes"])[:5000]
        run_id = client.create_run(self.experiment_id, run_name=key).info.run_id
        numbers = dict(result["metrics"] or {}) | {"duration_seconds": result["seconds"]}
        numbers |= {name: result[name] for name in ("test_mcc", "fp_mcc", "fp_test_mcc") if name in result}
        if "test" in result:  # of a task with a metric of its own
            numbers[f"test_{result['metric']}"] = result["test"]
        metrics = [Metric(k, rounded(v), now, 0) for k, v in numbers.items() if v is not None]
        metrics += [Metric("srqw_epoch", rounded(v), now, i) for i, v in enumerate(result["curve"], 1)]
        settings = {"row": result["row"], "seed": result["seed"], "task": result["task"]} | (result["settings"] or {})
        params = [Param(k, str(v)) for k, v in settings.items() if v is not None]
        client.log_batch(run_id, metrics, params, [RunTag(k, v) for k, v in tags.items()])
        client.set_terminated(run_id, "FAILED" if result["metrics"] is None else "FINISHED")
        self._known.add(result["fingerprint"])

    def finish(self, files: Iterable[Path], simulated: bool) -> str:
        """Attach the report to its own run, one per table.

        Args:
            files: The files of the report.
            simulated: Whether its data are.

        Returns:
            The address of that run; of a local store, a fragment that starts with "#".
        """
        client = self.store.client
        found = self._runs("tags.role = 'report'")
        if found:
            run_id = found[0].info.run_id
        else:
            tags = {"role": "report"} | ({"simulated": "true"} if simulated else {})
            run_id = client.create_run(self.experiment_id, run_name="report", tags=tags).info.run_id
        for path in files:
            client.log_artifact(run_id, str(path))
        client.set_terminated(run_id, "FINISHED")
        return f"{self.store.base}#/experiments/{self.experiment_id}/runs/{run_id}"

    def _runs(self, condition: str) -> list[Any]:
        runs, token = [], None
        while True:
            page = self.store.client.search_runs([self.experiment_id], condition, max_results=1000, page_token=token)
            runs += list(page)
            token = page.token
            if not token:
                return runs
