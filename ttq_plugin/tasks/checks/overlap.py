"""Whether splits that must be apart share samples or groups."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray

from ttq_plugin.errors import InputError
from ttq_plugin.support import inputs
from ttq_plugin.tasks.samples import Samples, Split

TOLERATED = 0.01
"""Equal samples in two splits up to this share of the smaller one may be chance, as with short or coarse signals."""


def check_overlap(splits: Mapping[str, Samples]) -> None:
    """Check that no two splits hold the same samples.

    Args:
        splits: The splits, by name.

    Raises:
        InputError: If more than 1 % of the smaller split's samples, inputs and targets, are in the other too.
    """
    for (one, first), (other, second) in combinations(splits.items(), 2):
        if first is second or (not isinstance(first, Split) and first == second):
            raise InputError(f"The splits {one} and {other} must hold different samples, got the same object for both.")
    # A Dataset's samples and those of tensors are hashed differently, and so are compared among their kind.
    hashes = {name: _rows(split) if isinstance(split, Split) else split.rows() for name, split in splits.items()}
    for (one, held), (other, asked) in combinations(hashes.items(), 2):
        known = {key: row for row, key in enumerate(held)}
        shared = [(known[key], row) for row, key in enumerate(asked) if key in known]
        if len(shared) > TOLERATED * min(len(held), len(asked)):
            raise InputError(
                f"The splits {one} and {other} must hold different samples, but {len(shared)} of {other}'s "
                f"{len(asked)} are in {one} too (first: row {shared[0][0]} there, {shared[0][1]} here); "
                "separate them, or pass Data(..., overlap=True) if equal samples are no mistake."
            )


def check_groups(splits: Mapping[str, Samples]) -> None:
    """Check that no group is in two splits.

    Args:
        splits: The splits, by name; those without groups are left out.

    Raises:
        InputError: If one is.
    """
    groups = {name: split.group_ids for name, split in splits.items()}
    known = {name: set(ids.tolist()) for name, ids in groups.items() if ids is not None}
    for (one, first), (other, second) in combinations(known.items(), 2):
        if shared := sorted(first & second, key=str):
            raise InputError(
                f"A group must be in one split only, but {len(shared)} are in {one} and {other} (first: "
                f"{shared[0]!r}); split by group, as ttq_plugin.tasks.splits.stratified_groups does, or "
                "leave the groups out."
            )


def _rows(split: Split) -> list[bytes]:
    """A hash of each sample's inputs and targets."""
    tensors = [t.detach().cpu().contiguous() for tree in (split.x, split.y) for t in inputs.tensors(tree) if t.dim()]
    found = [hashlib.blake2b(digest_size=16) for _ in range(len(split))]
    for tensor in tensors:
        rows: Iterable[NDArray[np.uint8]]
        rows = tensor.reshape(len(tensor), -1).view(torch.uint8).numpy() if tensor.numel() else []
        for digest, row in zip(found, rows, strict=False):
            digest.update(row.data)
    return [digest.digest() for digest in found]
