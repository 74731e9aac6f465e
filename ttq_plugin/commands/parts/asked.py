"""The options of ``ttq search``, and the arguments that repeat them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ttq_plugin.commands.report import default_storage, store_folder
from ttq_plugin.errors import InputError
from ttq_plugin.search.space.ranges import number
from ttq_plugin.search.space.stopping import GiveUp
from ttq_plugin.search.study.storage import HEARTBEAT


@dataclass(frozen=True)
class Asked:
    """The options of ``ttq search``, by the names that the command line gives them.

    Attributes:
        schema: Whether to print the JSON schema of space files, and nothing else.
        space: A space file, or the name of a built-in one.
        task: The task to search; needed if only a file names a task of the user's own.
        store: MLflow's folder or address.
        storage: The study's database; None for a file in the folder.
        study: Name of a new study, or None.
        resume: Name of the study to continue, or None.
        trials: Number of trials in all; None for the space's.
        workers: Number of workers; None for one per core.
        engine: "processes" or "ray".
        heartbeat: Seconds between signs of life of a worker elsewhere.
        methods: Search only these methods of the space.
        thresholds: Whether to search initial thresholds where the space has a share of zeros.
        objectives: Objectives separated by commas, instead of the space's.
        constraints: Constraints, instead of the space's.
        sampler: Sampler, instead of the space's.
        timeout: Seconds after which no trial begins, instead of the space's.
        stagnation: Trials without progress that end the search, instead of the space's.
        halving: Whether to stop trials early by successive halving, whatever the space says.
        give_up: KEY=NUMBER pairs, instead of the space's.
        warm_start: Studies and tables whose settings are tried first.
        confirm: Number of other seeds with which each front member is trained again.
        margin: Largest loss on test data that would not matter, as people write it.
        epoch_curves: Whose training losses MLflow gets: "front", "all" or "none".
        seed: Random seed; None for a resumed study's own, or 0.
        data: Data file or folder; None for the task's own.
        cache: Folder of full-precision models.
        device: Torch's name of the device.
        as_json: Whether to print one JSON object.
        weights: The user's own full-precision model.
        retrain: Whether to train the full-precision model again.
    """

    schema: bool = False
    space: str = "mnist-cnn"
    task: str | None = None
    store: str = "mlflow_runs"
    storage: str | None = None
    study: str | None = None
    resume: str | None = None
    trials: int | None = None
    workers: int | None = None
    engine: str = "processes"
    heartbeat: int = HEARTBEAT
    methods: Sequence[str] = ()
    thresholds: bool = False
    objectives: str | None = None
    constraints: Sequence[str] = ()
    sampler: str | None = None
    timeout: float | None = None
    stagnation: int | None = None
    halving: bool = False
    give_up: Sequence[str] = ()
    warm_start: Sequence[str] = ()
    confirm: int | None = None
    margin: float | None = None
    epoch_curves: str = "front"
    seed: int | None = None
    data: Path | None = None
    cache: Path | None = None
    device: str = "cpu"
    as_json: bool = False
    weights: Path | None = None
    retrain: bool = False

    @property
    def changes(self) -> dict[str, Any]:
        """Changes to the space that these options request, in the form that `load_space` takes."""
        given: dict[str, Any] = {
            "only": list(self.methods),
            "objectives": [name.strip() for name in self.objectives.split(",")]
            if self.objectives is not None
            else None,
            "constraints": list(self.constraints),
            "sampler": self.sampler,
            "timeout": self.timeout,
            "stagnation": self.stagnation,
            "give_up": _limits(self.give_up),
            "stop_early": {"halving": {}} if self.halving else {},
        }
        return {key: value for key, value in given.items() if value not in (None, [], {})}

    @property
    def words(self) -> list[str]:
        """The options that a resumed search needs again, because the study does not keep them."""
        kept = ("trials", "workers", "engine", "heartbeat", "confirm", "epoch_curves", "data", "cache", "weights")
        given = {name: getattr(self, name) for name in (*kept, "device", "margin")}
        changed = {name: value for name, value in given.items() if value != getattr(Asked, name)}
        words = [word for name, value in changed.items() for word in (f"--{name.replace('_', '-')}", str(value))]
        return [*words, *(["--json"] if self.as_json else [])]

    @property
    def folder(self) -> Path:
        """Local folder of models, pictures and, unless another database is named, the study."""
        return store_folder(self.store)

    @property
    def own_storage(self) -> str:
        """The URL of the study's database if none is given."""
        return default_storage(self.folder)

    @property
    def places(self) -> dict[str, Any]:
        """Options that `run_search` and `confirm_front` have in common."""
        return {
            "workers": self.workers,
            "data": self.data,
            "cache": self.cache,
            "weights": self.weights,
            "device": self.device,
            "engine": self.engine,
        }


def _limits(texts: Sequence[str]) -> dict[str, float]:
    """The requested changes to the space's `give_up`; no key may be given twice."""
    given = [_limit(text) for text in texts]
    keys = [key for key, _ in given]
    if again := [key for key in keys if keys.count(key) > 1]:
        raise InputError(f"--give-up must name a key once, got {again[0]!r} {keys.count(again[0])} times.")
    return dict(given)


def _limit(text: str) -> tuple[str, float]:
    """A key of the space's `give_up`, and its value."""
    key, _, value = text.partition("=")
    if (found := number(value)) is None:
        keys = ", ".join(GiveUp.model_fields)
        raise InputError(f"--give-up must be KEY=NUMBER, with a key among {keys}, got {text!r}.")
    return key, int(found) if found.is_integer() else found


def space_words(changes: dict[str, Any]) -> list[str]:
    """The options that request these changes to a space.

    Args:
        changes: What ``Asked.changes`` gave.

    Returns:
        Arguments of a command.
    """
    words = [word for name in changes.get("only", ()) for word in ("--method", name)]
    words += ["--objectives", ",".join(changes["objectives"])] if "objectives" in changes else []
    words += [word for text in changes.get("constraints", ()) for word in ("--constraint", text)]
    words += [word for item in changes.get("give_up", {}).items() for word in ("--give-up", f"{item[0]}={item[1]}")]
    words += ["--halving"] if "stop_early" in changes else []
    for key in ("sampler", "timeout", "stagnation"):
        words += [f"--{key}", str(changes[key])] if key in changes else []
    return words
