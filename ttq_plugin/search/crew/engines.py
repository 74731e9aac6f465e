"""Where workers run: processes of this machine, or tasks on a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ttq_plugin.errors import InputError
from ttq_plugin.search.crew.crew import Crew, Processes
from ttq_plugin.search.crew.job import Job
from ttq_plugin.support.processes import cores

ENGINES = ("processes", "ray")


@dataclass(frozen=True)
class Engine:
    """A place for workers.

    Attributes:
        crew: Function that makes a crew without members from the job.
        room: How many workers it holds, one a core.
    """

    crew: Callable[[Job], Crew]
    room: int


def get_engine(name: str, storage: str) -> Engine:
    """The engine of that name; whether it can be used is found out now.

    Args:
        name: One of ENGINES.
        storage: The study's database URL.

    Returns:
        The engine.

    Raises:
        InputError: There is no such engine, or it cannot be used.
    """
    if name == "processes":
        return Engine(Processes, cores())
    if name != "ray":
        raise InputError(f"The engine must be one of {', '.join(ENGINES)}, got {name!r}.")
    from ttq_plugin.search.crew.tasks_on_ray import Tasks, connect

    return Engine(Tasks, connect(storage))
