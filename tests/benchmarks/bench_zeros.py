"""A prescribed share of zeros: does each training end with it, and what does it cost against thresholds left free?

``python -m tests.benchmarks.bench_zeros endings`` trains tiny networks (several kinds, methods, granularities, seeds,
shares from 40 to 99 %) and prints the distribution of the distance between the share asked for and the one found;
``compare`` trains built-in tasks with a share prescribed and with free thresholds from several starts, and prints
validation MCC at equal zeros, the free ones interpolated between their neighbours, for each seed alone; ``cost`` prints
the time of a training step with a share over one without, in turns. It needs torch, numpy and scikit-learn only, and
for ``compare`` the file that ``data`` writes (``build/zeros-data.npz``), where the tasks' own readers are installed.
``--processes N`` trains N at a time, one thread each; ``--device cuda`` puts all of them on the GPU.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import statistics
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.metrics import matthews_corrcoef
from torch import Tensor, nn

from ttq_plugin.core import bake, parameter_groups, project_, ternarize
from ttq_plugin.core.model import course
from ttq_plugin.methods import LR_THRESHOLD
from ttq_plugin.tasks import get_task

DATA = Path("build/zeros-data.npz")
SHARES = (0.75, 0.85, 0.92, 0.95, 0.97)
STARTS = (1.0, 1.3, 1.6, 1.9, 2.2, 2.6, 3.0)
LAYERS = {
    "mnist-cnn": ["conv1", "conv2"],
    "watch-cnn": ["conv1", "conv2", "conv3", "conv4"],
    "esr-2dcnn": ["conv2", "conv3", "conv4"],
    "esr-cnn-transformer": ["conv2", *(f"encoder.{i}.linear2" for i in range(4))],
}
FULL = {"mnist-cnn": (40, 3e-3), "watch-cnn": (30, 5e-3), "esr-2dcnn": (8, 1e-3), "esr-cnn-transformer": (40, 1e-3)}
TERNARY = {"mnist-cnn": (30, 2e-3), "watch-cnn": (30, 2e-3), "esr-2dcnn": (8, 1e-3), "esr-cnn-transformer": (15, 5e-4)}
BATCH = 32

Split = tuple[Tensor, Tensor]


def write_data() -> None:
    """The tasks' splits as one file."""
    full = Path("../shared/data/Epileptic Seizure Recognition.csv.gz")
    arrays: dict[str, Any] = {}
    for name in LAYERS:
        splits = get_task(name).load(full if name.startswith("esr") else None, 0)
        for part in ("train", "validation"):
            split: Any = getattr(splits, part)
            arrays[f"{name}/{part}/x"] = split.x.numpy().astype(np.float16)
            arrays[f"{name}/{part}/y"] = split.y.numpy()
    DATA.parent.mkdir(exist_ok=True)
    np.savez_compressed(DATA, **arrays)


def read_data(name: str, part: str, device: str) -> Split:
    with np.load(DATA) as arrays:
        x, y = (torch.from_numpy(arrays[f"{name}/{part}/{key}"]) for key in "xy")
    return x.float().to(device), y.long().to(device)


def mcc(model: nn.Module, split: Split) -> float:
    model.eval()
    with torch.no_grad():
        found = torch.cat([model(x).argmax(1) for x in split[0].split(512)])
    return float(matthews_corrcoef(split[1].cpu(), found.cpu()))


def fit(model: nn.Module, split: Split, epochs: int, lr: float, lr_threshold: Any, seed: int) -> None:
    """Adamax, a cosine, batches of 32: what compressions of the built-in convolutional networks train with."""
    order, n = torch.Generator().manual_seed(seed), len(split[1])
    groups = parameter_groups(model, lr_scale=1e-3, lr_threshold=lr_threshold)
    optimizer = torch.optim.Adamax(groups, lr=lr)
    steps = epochs * (n // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    model.train()
    for _ in range(epochs):
        for rows in torch.randperm(n, generator=order).to(split[1].device)[: n // BATCH * BATCH].split(BATCH):
            optimizer.zero_grad()
            F.cross_entropy(model(split[0][rows]), split[1][rows]).backward()
            optimizer.step()
            project_(model)
            schedule.step()


def zeros_of(model: nn.Module, layers: list[str]) -> tuple[int, int, bool]:
    """How many weights are zero, of how many, and whether every layer has both signs."""
    weights = [model.get_submodule(name).weight for name in layers]
    both = all(bool((w > 0).any() and (w < 0).any()) for w in weights)  # type: ignore[operator]
    return sum(int((w == 0).sum()) for w in weights), sum(w.numel() for w in weights), both  # type: ignore[operator,misc]


def full_precision(job: dict[str, Any]) -> nn.Module:
    """A trained model, kept beside the data."""
    name, seed, device = job["task"], job["seed"], job["device"]
    file = DATA.with_name(f"zeros-{name}-{seed}.pt")
    torch.manual_seed(seed)
    model = get_task(name).model().to(device)
    if file.is_file():
        model.load_state_dict(torch.load(file, weights_only=True, map_location=device))
    else:
        fit(model, read_data(name, "train", device), *FULL[name], None, seed)
        torch.save(model.state_dict(), file)
    return model


def trained(job: dict[str, Any]) -> dict[str, Any]:
    """A full-precision model, so that those who compress it find it beside the data."""
    full_precision(job)
    return job


def compared(job: dict[str, Any]) -> dict[str, Any]:
    """One training of a built-in task."""
    for key, value in job.get("course", {}).items():
        setattr(course, key, value)
    name, device, layers = job["task"], job["device"], LAYERS[job["task"]]
    model = full_precision(job)
    validation = read_data(name, "validation", device)
    full = mcc(model, validation)
    train = read_data(name, "train", device)
    epochs, lr = TERNARY[name]
    torch.manual_seed(job["seed"])
    options = dict(job["options"])
    if "zeros" in options:
        options["zeros_steps"] = epochs * (len(train[1]) // BATCH)
    started = time.perf_counter()
    with warnings.catch_warnings(action="ignore"):
        ternarize(model, layers, job["method"], on_empty="clip", **options)
    fit(model, train, epochs, lr, job["lr_threshold"], job["seed"] + 100)
    plain = bake(model)
    zeros, total, both = zeros_of(plain, layers)
    found = {"fp": full, "mcc": mcc(plain, validation), "zeros": zeros / total, "both": both}
    return job | found | {"seconds": time.perf_counter() - started}


NETS: dict[str, tuple[Any, list[str]]] = {
    "mlp": (
        lambda: nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 3)),
        ["0", "2"],
    ),
    "conv": (
        lambda: nn.Sequential(
            *(nn.Unflatten(1, (1, 20)), nn.Conv1d(1, 16, 5), nn.BatchNorm1d(16), nn.ReLU()),
            *(nn.Conv1d(16, 24, 5), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(24, 3)),
        ),
        ["1", "4"],
    ),
    "deep": (
        lambda: nn.Sequential(*(m for n in (20, 40, 40, 40) for m in (nn.Linear(n, 40), nn.Tanh())), nn.Linear(40, 3)),
        ["0", "2", "4", "6", "8"],
    ),
    "large": (
        lambda: nn.Sequential(nn.Linear(20, 400), nn.ReLU(), nn.Linear(400, 300), nn.ReLU(), nn.Linear(300, 3)),
        ["0", "2"],
    ),
}


def ended(job: dict[str, Any]) -> dict[str, Any]:
    """One training of a tiny network on points around random centres."""
    source = torch.Generator().manual_seed(job["seed"])
    y = torch.randint(3, (512,), generator=source)
    x = torch.randn(3, 20, generator=source)[y] + 1.5 * torch.randn(512, 20, generator=source)
    torch.manual_seed(job["seed"])
    make, layers = NETS[job["net"]]
    model = make().to(job["device"])
    split = x.to(job["device"]), y.to(job["device"])
    fit(model, split, 4, 3e-3, None, job["seed"])
    options = {"zeros": job["zeros"], "zeros_steps": 8 * 16, "granularity": job["granularity"]}
    ternarize(model, layers, job["method"], **options)
    fit(model, split, 8, 3e-3, LR_THRESHOLD, job["seed"] + 1)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        plain = bake(model)
    zeros, total, both = zeros_of(plain, layers)
    notes = [str(warning.message) for warning in said]
    return job | {
        "found": zeros,
        "total": total,
        "off": abs(zeros / total - job["zeros"]),
        "both": both,
        "notes": notes,
    }


def ending_jobs(device: str, count: int) -> Iterator[dict[str, Any]]:
    kinds = itertools.cycle(
        [
            ("pttq", "default"),
            ("pttq", "out_channel"),
            ("attq", "default"),
            ("pttq-global", "default"),
            ("ttq", "default"),
        ]
    )
    nets, draw = itertools.cycle(NETS), np.random.default_rng(0)
    for index in range(count):
        method, granularity = next(kinds)
        net = next(nets)
        if granularity == "out_channel" and net == "conv":
            net = "mlp"  # channels of five weights often have one sign only
        high = {"out_channel": 0.9, "default": 0.99}[granularity]
        zeros = round(float(draw.uniform(0.4, high)), 3)
        yield dict(net=net, method=method, granularity=granularity, zeros=zeros, seed=index, device=device)


def compare_jobs(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    for name, seed in itertools.product(args.tasks, range(args.seeds)):
        common = {"task": name, "seed": seed, "device": args.device, "method": "pttq"}
        for share in args.shares:
            yield common | {"options": {"zeros": share}, "lr_threshold": args.lr_threshold, "course": args.course}
        for t in args.starts:
            yield common | {"options": {"t_min": t, "t_max": t}, "lr_threshold": args.lr_free}


def attempted(pair: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    torch.set_num_threads(1)
    kind, job = pair
    try:
        return {"ended": ended, "compared": compared, "trained": trained}[kind](job)
    except Exception as error:
        return job | {"error": f"{type(error).__name__}: {error}"}


def results(kind: str, jobs: list[dict[str, Any]], processes: int, out: Path | None) -> list[dict[str, Any]]:
    pairs = [(kind, job) for job in jobs]
    rows = []
    pool = torch.multiprocessing.get_context("spawn").Pool(processes) if processes > 1 else None
    for row in pool.imap_unordered(attempted, pairs) if pool else map(attempted, pairs):
        rows.append(row)
        if out is not None:
            with out.open("a") as file:
                file.write(json.dumps(row) + "\n")
    return rows


def tell_endings(rows: list[dict[str, Any]]) -> None:
    refused = [row for row in rows if "error" in row]
    done = [row for row in rows if "error" not in row]
    off = sorted(row["off"] for row in done)
    met = sum(abs(row["found"] - row["zeros"] * row["total"]) <= max(0.5 + 1e-6, 0.001 * row["total"]) for row in done)
    print(f"{len(done)} trainings, {met} met to the nearest weight or to 0.1 points, {len(refused)} refused")
    both, near = sum(row["both"] for row in done), sum(x <= 0.001 for x in off)
    print(f"{both} with both signs in each layer, {near} within 0.1 points")
    print(f"off by: median {statistics.median(off):.6f}, 95 % {off[int(0.95 * len(off))]:.6f}, most {off[-1]:.6f}")
    for row in refused + [row for row in done if row["notes"]]:
        print(
            {key: row[key] for key in ("net", "method", "granularity", "zeros", "seed")},
            row.get("error", row.get("notes")),
        )


def tell_comparison(rows: list[dict[str, Any]], shares: list[float]) -> None:
    for row in rows:
        if "error" in row:
            print(row)
    rows = [row for row in rows if "error" not in row]
    for name in dict.fromkeys(row["task"] for row in rows):
        for share in shares:
            ours, free = [], []
            for seed in sorted({row["seed"] for row in rows}):
                own = [row for row in rows if row["task"] == name and row["seed"] == seed]
                points = sorted((row["zeros"], row["mcc"]) for row in own if "zeros" not in row["options"])
                found = [row["mcc"] for row in own if row["options"].get("zeros") == share]
                if found and len(points) > 1 and points[0][0] <= share <= points[-1][0]:
                    ours.append(100 * found[0])
                    free.append(100 * float(np.interp(share, *zip(*points, strict=True))))
            if ours:
                gain = [a - b for a, b in zip(ours, free, strict=True)]
                spread = statistics.stdev(gain) if len(gain) > 1 else 0.0
                print(f"{name} {share:.0%}: zeros {statistics.mean(ours):.2f}, free {statistics.mean(free):.2f}, "
                      f"difference {statistics.mean(gain):+.2f} +- {spread:.2f} ({len(gain)} seeds)")  # fmt: skip
        full = [100 * row["fp"] for row in rows if row["task"] == name]
        seconds = [row["seconds"] for row in rows if row["task"] == name]
        print(f"{name}: full precision {statistics.mean(full):.2f}; {statistics.mean(seconds):.1f} s a training")


def tell_cost(device: str) -> None:
    for name in ("mnist-cnn", "esr-2dcnn"):
        ratios, pair = [], []
        shape = {"mnist-cnn": (BATCH, 1, 20, 20), "esr-2dcnn": (BATCH, 1, 32, 37)}[name]
        torch.manual_seed(0)
        x, y = torch.randn(shape, device=device), torch.randint(2, (BATCH,), device=device)
        plain = get_task(name).model().to(device)
        for options in ({}, {"zeros": 0.9, "zeros_steps": 400}):
            model = ternarize(copy.deepcopy(plain), LAYERS[name], "pttq", on_empty="clip", **options)
            pair.append((model, torch.optim.Adamax(parameter_groups(model), lr=1e-3)))
        turns, steps = (60, 50) if name == "mnist-cnn" or device != "cpu" else (12, 10)
        for turn in range(turns + 1):
            times = []
            for model, optimizer in pair if turn % 2 else pair[::-1]:
                started = time.perf_counter()
                for _ in range(steps):
                    optimizer.zero_grad()
                    F.cross_entropy(model(x), y).backward()
                    optimizer.step()
                    project_(model)
                if device != "cpu":
                    torch.cuda.synchronize()
                times.append(time.perf_counter() - started)
            if turn:
                ratios.append(times[1] / times[0] if turn % 2 else times[0] / times[1])
        low, middle, high = statistics.quantiles(ratios, n=4)
        print(f"{name} on {device}: a step with zeros over one without {middle:.4f} [{low:.4f}, {high:.4f}]")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("data", "endings", "compare", "cost"))
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--tasks", nargs="+", default=["mnist-cnn", "watch-cnn"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--shares", nargs="+", type=float, default=list(SHARES))
    parser.add_argument("--starts", nargs="*", type=float, default=list(STARTS))
    parser.add_argument("--lr-threshold", type=float, default=LR_THRESHOLD)
    parser.add_argument("--lr-free", type=float, default=1e-3)
    parser.add_argument("--course", type=json.loads, default={}, help="constants of ttq_plugin.core.model.course")
    parser.add_argument("--out", type=Path, help="append one JSON line a training")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.what == "data":
        write_data()
    elif args.what == "cost":
        tell_cost(args.device)
    elif args.what == "endings":
        tell_endings(results("ended", list(ending_jobs(args.device, args.count)), args.processes, args.out))
    else:
        models = [{"task": n, "seed": s, "device": args.device} for n in args.tasks for s in range(args.seeds)]
        results("trained", models, args.processes, None)
        tell_comparison(results("compared", list(compare_jobs(args)), args.processes, args.out), args.shares)


if __name__ == "__main__":
    main()
