"""Tables as cells: a cell is one repetition of one row, with everything that determines its result."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from typing import Any

from ttq_plugin.curvature.plan import Link, ternary_entry
from ttq_plugin.errors import InputError
from ttq_plugin.methods import LSQ
from ttq_plugin.reproduce.beyond import goals, recipe, refits
from ttq_plugin.reproduce.published import Published, grid_values, shorten
from ttq_plugin.tasks import get_task
from ttq_plugin.tasks.task import Recipe
from ttq_plugin.trial.settings import Settings

OWN = "layers"
"""Key of a row's settings under which single layers have their own."""

FULL = "fp"
"""The row of the full-precision model."""

MAIN = ("dorefa", "ttq", "attq", "pttq", "pttq-released", LSQ)
ABLATIONS = ("pttq", "pttq-absolute", "pttq-symmetric", "pttq-global", "pttq-fixed")


@dataclass(frozen=True)
class Cell:
    """One repetition of one row.

    Attributes:
        row: The row's label.
        seed: Random seed of splits, initial weights and training.
        task: A built-in task's name, or the user's own.
        layers: The layers to quantise.
        recipe: Recipe of the full-precision model; its optimiser and schedule also train the compression.
        settings: Keywords of ``Settings`` but task and seed, and under ``layers`` what single layers have of their own:
            the method's numbers, and ``granularity``; None for the full-precision model alone.
        warmup: Warm-up steps of the compression's schedule, where that is ``noam``.
        refit: Whether to train on the validation split as well, as in the papers; for settings that were chosen before.
            Its scores on validation data then say nothing, and are None.
    """

    row: str
    seed: int
    task: str
    layers: tuple[str, ...]
    recipe: Recipe
    settings: dict[str, Any] | None
    warmup: int = 4000
    refit: bool = False

    @property
    def key(self) -> str:
        """The name of its file and its run."""
        return f"{self.row}-seed{self.seed}".replace(" ", "")

    def fingerprint(self, data: str) -> str:
        """A short hash of everything that determines the result, including the data."""
        items = asdict(self)
        if not self.refit:  # what there was before: left out, so that its results are still found
            del items["refit"]
        return hashlib.sha256(json.dumps([items, data], sort_keys=True).encode()).hexdigest()[:16]

    def training(self) -> Settings:
        """The compression's settings, those that all layers share.

        Returns:
            Checked settings.
        """
        assert self.settings is not None
        shared = {name: value for name, value in self.settings.items() if name != OWN}
        return Settings(task=self.task, seed=self.seed, **shared)

    def links(self) -> list[Link]:
        """A compressor for each layer, where some have settings of their own.

        Returns:
            What ``trial.run`` takes as a chain; nothing if all layers share all settings.
        """
        own = (self.settings or {}).get(OWN)
        return [self._link(layer, own.get(layer, {})) for layer in self.layers] if own else []

    def _link(self, layer: str, own: Mapping[str, Any]) -> Link:
        shared = self.training()
        known = {"granularity": shared.granularity, **own}
        granularity = known.pop("granularity")
        options = {"method": shared.method, **shared.options(), **known}
        return Link("PTTQQuantizer", (ternary_entry([layer], granularity),), options)


@dataclass(frozen=True)
class Plan:
    """The requested repetitions and rows.

    Attributes:
        seeds: One for each repetition.
        scale: Epochs and warm-up are multiplied by it.
        precision: Precision of the trainings.
        rows: The rows to fill; empty for all.
    """

    seeds: Sequence[int]
    scale: float = 1.0
    precision: str = "float32"
    rows: tuple[str, ...] = ()


def cells(table: str, paper: Published, plan: Plan) -> list[Cell]:
    """The cells of a table, repetition by repetition, each one's full-precision model first.

    Args:
        table: A key of ``TABLES``.
        paper: The task.
        plan: See ``Plan``.

    Returns:
        The cells, their settings checked.

    Raises:
        InputError: For an unknown table or row, or a scale outside (0, 1].
    """
    if table not in TABLES:
        raise InputError(f"the table must be one of {', '.join(TABLES)}, got {table!r}.")
    if not 0 < plan.scale <= 1:
        raise InputError(f"the epochs' scale must lie in (0, 1], got {plan.scale:g}.")
    base, rows = TABLES[table](paper)
    if unknown := [row for row in plan.rows if row not in (FULL, *rows)]:
        raise InputError(f"the table {table} of {paper.name} has the rows {', '.join(rows)}, got {unknown[0]!r}.")
    chosen = {row: settings for row, settings in rows.items() if not plan.rows or row in plan.rows}
    trained = replace(paper.shortened(base, plan.scale), precision=plan.precision)
    # A compression never shares the full-precision model's warm-up: some papers' tasks have one of their own.
    warmup = shorten(paper.warmup, plan.scale)
    refit = table == "beyond" and refits(paper.name)
    made = []
    for seed in plan.seeds:
        made.append(Cell(FULL, seed, paper.task, paper.layers, trained, None, warmup, refit))
        for row, settings in chosen.items():
            short = settings | {"epochs": shorten(settings["epochs"], plan.scale)}
            made.append(Cell(row, seed, paper.task, paper.layers, trained, short, warmup, refit))
    for cell in made:
        if cell.settings is not None:
            cell.training()
    return made


Rows = dict[str, dict[str, Any]]


def _main(paper: Published) -> tuple[Recipe, Rows]:
    return paper.recipe, {method: paper.keywords(method) for method in MAIN}


def _ablations(paper: Published) -> tuple[Recipe, Rows]:
    return paper.recipe, {method: paper.keywords(method) for method in ABLATIONS}


def _normalization(paper: Published) -> tuple[Recipe, Rows]:
    known = paper.keywords("attq")
    return paper.recipe, {name: known | {"normalize": name == "yes"} for name in ("no", "yes")}


def _grid(paper: Published) -> tuple[Recipe, Rows]:
    known = paper.keywords("attq")
    pairs = [(low, high) for low, high in product(grid_values(), repeat=2) if low <= high]
    return paper.recipe, {f"t_min={a:g} t_max={b:g}": known | {"t_min": a, "t_max": b} for a, b in pairs}


def _sparsity(paper: Published) -> tuple[Recipe, Rows]:
    return paper.recipe, {method: paper.keywords(method) for method in ("ttq", "attq", "pttq", "pttq-released")}


def _beyond(paper: Published) -> tuple[Recipe, Rows]:
    return recipe(paper.name, get_task(paper.task).recipe), {goal.row: goal.settings for goal in goals(paper.name)}


TABLES: dict[str, Callable[[Published], tuple[Recipe, Rows]]] = {
    "main": _main,
    "ablations": _ablations,
    "normalization": _normalization,
    "grid": _grid,
    "sparsity": _sparsity,
    "beyond": _beyond,
}
"""Each gives the recipe of the full-precision model and the rows with their settings."""
