"""Workers as tasks on a running Ray cluster."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from typing import Any

from ttq_plugin.errors import InputError
from ttq_plugin.search.crew.crew import Crew, Exit
from ttq_plugin.search.crew.job import Hopeless, Job
from ttq_plugin.search.crew.worker import STOP, work
from ttq_plugin.search.study.storage import is_local
from ttq_plugin.support.names import redact
from ttq_plugin.support.release import release


def connect(storage: str) -> int:
    """Connect this process to the cluster that RAY_ADDRESS names, else to the one of this machine.

    Args:
        storage: The study's database URL.

    Returns:
        How many CPUs the cluster has.

    Raises:
        InputError: If Ray or a cluster is missing, or only this machine can reach the database.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    try:
        import ray
    except ImportError:
        raise InputError(
            "The engine ray needs the package ray, which is not installed: pip install 'ttq-plugin[ray]'."
        ) from None
    if is_local(storage):
        raise InputError(
            "The engine ray needs a database that the whole cluster reaches, --storage postgresql://..., got "
            f"{redact(storage)}."
        )
    try:
        if not ray.is_initialized():
            ray.init(address="auto", log_to_driver=False, configure_logging=False)
        return max(1, int(ray.cluster_resources().get("CPU", 1)))
    except (ConnectionError, RuntimeError, ValueError) as error:
        why = " ".join(str(error).split(". ")[0].split()).rstrip(".")
        raise InputError(
            f"No Ray cluster can be used ({why}); start one by ray start --head, or name one in RAY_ADDRESS."
        ) from None


class Tasks(Crew):
    """Ray tasks of one CPU each; Ray itself never repeats one, because the search does."""

    def _start(self, job: Job) -> Any:
        import ray

        gpus = 1 if job.device.startswith("cuda") else 0
        return ray.remote(num_cpus=1, num_gpus=gpus, max_retries=0)(_work).remote(job)

    def wait(self, seconds: float) -> None:
        """Until a task ends, at most that long."""
        import ray

        if self._live:
            ray.wait(list(self._live.values()), timeout=seconds)
        else:
            time.sleep(seconds)

    def stop(self) -> None:
        """Cancels every task by force; one that is not gone after some seconds has lost its node."""
        import ray

        tasks = list(self._live.values())
        for task in tasks:
            ray.cancel(task, force=True)
        if tasks:
            ray.wait(tasks, num_returns=len(tasks), timeout=10)
        self._live.clear()

    def _end(self, name: str, worker: Any) -> Exit | None:
        import ray

        if not ray.wait([worker], timeout=0)[0]:
            return None
        try:
            said = ray.get(worker)
        except ray.exceptions.RayTaskError as error:
            return Exit(name, 1, how=f"{type(error.cause).__name__}: {' '.join(str(error.cause).split())[:200]}")
        except ray.exceptions.RayError as error:
            return Exit(name, 1, how=type(error).__name__)
        return Exit(name, 0) if said is None else Exit(name, STOP, *said)


def _work(job: Job) -> tuple[str, str] | None:
    """The task: a worker's whole life on some machine of the cluster; what is fatal is returned as words."""
    try:
        work(replace(job, release=release()))
    except InputError as error:
        return "input", str(error)
    except Hopeless as error:
        return "error", str(error)
    return None
