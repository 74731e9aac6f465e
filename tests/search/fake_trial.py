"""In place of ttq_plugin.trial.run: objectives in closed form, steered by `data`, importable by spawned workers.

data is a comma-separated list of words: sleep=0.1, diverge, nan, inf, bug, nometric, kill=FILE (the first trial that
finds FILE missing creates it and kills its worker), always-kill=METHOD, badinput, badprepare, die, hang (every
trial but the papers' own waits for ever), collapse (odd numbers of epochs lose conv1 in the second one; validation MCC
rises in proportion to the epochs), fraction (MCC is one), rmse (it takes MCC's place, an error that falls with it).
"""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

from ttq_plugin.errors import Diverged, InputError
from ttq_plugin.support.files import write_text


@dataclass(frozen=True)
class Settings:
    task: str
    method: str
    t: float | None
    t_min: float | None
    t_max: float | None
    alpha: float | None
    bits: float | None
    lr: float
    lr_threshold: float | None
    epochs: int
    seed: int
    lr_scale: float = 1e-3
    share: float = 1.0


def prepare(task, *, seed, data=None, device="cpu", cache=None, weights=None, fingerprint=None):
    words = dict(word.partition("=")[::2] for word in (data or "").split(",") if word)
    if "badinput" in words:
        raise InputError("There is no data set here.")
    if fingerprint and fingerprint != words.get("fingerprint"):
        raise InputError("load must give the same data.")
    if "badprepare" in words:
        raise OSError("the model's cache is broken")
    if "die" in words:
        os._exit(7)
    return words | ({"weights": str(weights)} if weights else {})


@dataclass(frozen=True)
class Look:
    epoch: int
    dead: tuple
    measure: object


def run(prepared, settings, on_epoch=None, on_look=None):
    begun = time.perf_counter()
    time.sleep(float(prepared.get("sleep", 0)))
    if "kill" in prepared and not Path(prepared["kill"]).exists():
        Path(prepared["kill"]).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if prepared.get("always-kill") == settings.method:
        os.kill(os.getpid(), signal.SIGKILL)
    while "hang" in prepared and settings.lr != 1e-3:
        time.sleep(0.02)
    if "bug" in prepared:
        raise RuntimeError("a bug")
    if "diverge" in prepared and settings.epochs % 2:
        raise Diverged("the loss is nan in epoch 1")
    gain = {"ttq": 20.0, "attq": 40.0, "pttq": 60.0}[settings.method] * settings.share
    metrics = {"mcc": 100 - gain**2 / 50 + settings.epochs / 10, "cr_gain_total": gain, "ec_gain_total": gain + 1}
    if settings.epochs % 2:
        metrics["mcc"] = float("nan") if "nan" in prepared else float("inf") if "inf" in prepared else metrics["mcc"]
    if "nometric" in prepared:
        del metrics["mcc"]
    if "fraction" in prepared:
        metrics["mcc"] /= 100
    if "rmse" in prepared:
        metrics["rmse"] = 110 - metrics.pop("mcc")
    metrics["energy"] = float("inf")
    for epoch in range(1, settings.epochs + 1 if on_look else 0):
        dead = ("conv1",) if "collapse" in prepared and epoch >= 2 and settings.epochs % 2 else ()
        done = {**metrics}
        if "rmse" in prepared:
            done["rmse"] = metrics["rmse"] + settings.epochs - epoch
        else:
            done["mcc"] = metrics["mcc"] * epoch / settings.epochs
        on_look(Look(epoch, dead, lambda done=done: done))
    model = f"{settings.method} {settings.lr} {prepared.get('weights', '')}".strip()
    return SimpleNamespace(
        metrics=metrics, notes=["a note"], losses=[0.5, 0.25], seconds=time.perf_counter() - begun, model=model
    )


def save_weights(model, path, metadata=None):
    write_text(Path(path), model)
