"""One training of one entrant: on the tuning seed scored on validation data, on the others on test data."""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ttq_plugin.core.model.layers import tensor_of
from ttq_plugin.curvature.layers import candidate_layers
from ttq_plugin.curvature.plan import ternary_entry
from ttq_plugin.deploy.file.codes import pack
from ttq_plugin.deploy.file.packed import save_packed
from ttq_plugin.errors import Diverged, InputError
from ttq_plugin.reproduce.peers.entrants import PARQ, PRUNED
from ttq_plugin.reproduce.peers.rivals import eight_bits, rival
from ttq_plugin.reproduce.train import Place
from ttq_plugin.support.machine import environment
from ttq_plugin.tasks import get_task
from ttq_plugin.tasks.scoring.scores import score
from ttq_plugin.trial.prepared import Prepared, prepare
from ttq_plugin.trial.run import run
from ttq_plugin.trial.settings import Settings
from ttq_plugin.trial.tested import score_on_test

FULL = "full precision"

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""Kinds of layers that every entrant can compress."""


@dataclass(frozen=True)
class Round:
    """A training, and all that decides its result.

    Attributes:
        row: The entrant's name.
        seed: Random seed of splits, initial weights and training.
        task: A built-in task's name, or ``module:attribute``.
        settings: ``method``, its numbers and ``epochs``; None for the full-precision model.
        trial: Number of the tuning trial; None for a repetition, which is scored on test data.
    """

    row: str
    seed: int
    task: str
    settings: dict[str, Any] | None
    trial: int | None = None

    @property
    def key(self) -> str:
        """The name of its file and its run."""
        words = "".join(letter if letter.isalnum() else "-" for letter in self.row)
        return f"{words}-seed{self.seed}" + ("" if self.trial is None else f"-trial{self.trial}")

    def fingerprint(self, data: str) -> str:
        """A short hash of all that decides the result, and of which data it was made with."""
        return hashlib.sha256(json.dumps([asdict(self), data], sort_keys=True).encode()).hexdigest()[:16]


def train_round(one: Round, place: Place) -> dict[str, Any]:
    """Train and measure.

    Args:
        one: What to train.
        place: The data, the cache and the device.

    Returns:
        Plain data: ``row``, ``seed``, ``trial``, ``settings``, ``metric``, ``score`` (validation) and ``test`` (None
        while tuning), ``zeros``, ``bytes`` of the packed file, ``notes``, ``environment``, ``seconds``; ``metrics`` is
        None if the training diverged.
    """
    started = time.perf_counter()
    options: dict[str, Any] = {"data": place.data, "device": place.device, "cache": place.cache}
    ready = prepare(get_task(one.task), seed=one.seed, curvature=False, **options)
    metric = ready.task.score
    result: dict[str, Any] = {
        **{"row": one.row, "seed": one.seed, "trial": one.trial, "task": one.task, "settings": one.settings},
        **{"simulated": ready.simulated, "metric": metric.name, "score": None, "test": None, "metrics": None},
        **{"zeros": None, "bytes": None, "notes": [], "environment": environment(place.device), "curve": []},
    }
    layers = layers_of(ready.model)
    try:
        model, notes = compressed(one, ready, layers)
    except Diverged as error:
        return result | {"notes": [f"diverged: {error}"], "seconds": time.perf_counter() - started}
    result |= {"notes": notes, "score": score(model, ready.validation, metric).value}
    result |= size(ready, model, layers, eight_bits=(one.settings or {}).get("method") == PRUNED)
    if one.trial is None:
        [tested] = score_on_test(one.task, [model.cpu()], seed=one.seed, data=place.data, intervals=False)
        result["test"] = tested.value
    result["metrics"] = {metric.name: result["score"], "file_bytes": result["bytes"], "srqw": result["zeros"]}
    return result | {"seconds": time.perf_counter() - started}


def layers_of(model: nn.Module) -> tuple[str, ...]:
    """The layers that every entrant compresses: all with one weight matrix that NNI can wrap."""
    return tuple(name for name, matrix in candidate_layers(model).items() if isinstance(matrix.module, LAYERS))


def compressed(one: Round, ready: Prepared, layers: Sequence[str]) -> tuple[nn.Module, list[str]]:
    """Train an entrant from the full-precision model.

    Args:
        one: What to train.
        ready: What compressions of the task share.
        layers: The layers whose weights are compressed.

    Returns:
        The model, and notes on it; the full-precision one itself without settings.

    Raises:
        InputError: If there is no layer to compress, or the settings cannot work.
        Diverged: If the training leaves the finite numbers.
    """  # noqa: DOC502 - raised by what it calls, too
    if one.settings is None:
        return ready.model, []
    if not layers:
        raise InputError(f"Peers are compared on convolutions and linear layers, but the model of {one.task} has none.")
    if one.settings["method"] in (PRUNED, PARQ):
        return rival(ready, layers, one.settings, one.seed), []
    settings = Settings(task=one.task, seed=one.seed, **one.settings)
    outcome = run(ready, settings, config_list=[ternary_entry(layers, settings.granularity)])
    return outcome.model, list(outcome.notes)


def size(ready: Prepared, model: nn.Module, layers: Sequence[str], *, eight_bits: bool = False) -> dict[str, Any]:
    """How much a model takes.

    Args:
        ready: What compressions of the task share.
        model: The compressed model, or the full-precision one itself.
        layers: The layers whose weights are compressed.
        eight_bits: Whether those have eight bits.

    Returns:
        ``bytes`` of the file that ``save_packed`` writes, for eight-bit weights with their codes in place of the float
        weights; and the share of ``zeros`` of the compressed weights.
    """
    if model is ready.model:
        return {"bytes": 4 * sum(p.numel() for p in model.parameters()), "zeros": 0.0}
    weights = [tensor_of(model.get_submodule(name), "weight") for name in layers]
    zeros = sum(int((weight == 0).sum()) for weight in weights) / sum(weight.numel() for weight in weights)
    with tempfile.TemporaryDirectory() as folder:
        info = save_packed(model, Path(folder) / "model.safetensors")
    if not eight_bits:
        return {"bytes": info.nbytes, "zeros": zeros}
    # The header and the other parts are the same as in every other entrant's file.
    own = [f"{name}.weight" for name in layers]
    others = sum(entry.get("bytes", 0) for name, entry in info.entries.items() if name not in own)
    header = info.nbytes - sum(entry.get("bytes", 0) for entry in info.entries.values())
    return {"bytes": header + others + sum(map(_eight_bits, weights)), "zeros": zeros}


def _eight_bits(weight: Tensor) -> int:
    """Bytes of eight-bit weights with many zeros: a scale a channel, and codes deflated or range-coded."""
    codes = eight_bits(weight)[0].cpu()
    coded = pack(codes.flatten())
    deflated = len(zlib.compress(codes.to(torch.int8).numpy().tobytes(), 9))
    # The table of values beside the range coder's codes takes a byte for each, not four.
    return 4 * len(codes) + min(deflated, *([len(coded.payload) + coded.table.numel()] if coded else []), codes.numel())
