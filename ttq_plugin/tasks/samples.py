"""Samples with their targets: in memory, or read one at a time from a torch Dataset that may be larger than it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from ttq_plugin.errors import InputError
from ttq_plugin.support import inputs
from ttq_plugin.support.seeds import seeded

Batch = tuple[Any, Any]
"""Inputs and targets of some samples, both of any nesting."""

IN_MEMORY, FROM_DISK = 500, 64
"""The most samples of a batch that is only scored."""

MOST_VALUES = 1 << 24
"""The most input values of such a batch: pictures come in smaller ones."""


def seeded_order(count: int, generator: torch.Generator | None) -> Tensor:
    """Places of all samples, shuffled if a generator is given."""
    return torch.arange(count) if generator is None else torch.randperm(count, generator=generator)


@dataclass(frozen=True)
class Split:
    """Samples in memory.

    Attributes:
        x: inputs, shape (samples, ...) of each tensor: a tuple is the model's positional arguments, a dict its keyword
            arguments, anything else its one argument.
        y: targets, shape (samples, ...) of each tensor; class indices are int64.
        groups: which subject, recording or speaker each sample is of, numbers or words, (samples,); None: not known.

    Examples:
        >>> import torch
        >>> from ttq_plugin.tasks.task import Split
        >>> split = Split(torch.zeros(4, 3), torch.tensor([0, 1, 0, 1]), groups=["ann", "ann", "bob", "bob"])
        >>> len(split), split.group_ids.tolist()
        (4, ['ann', 'ann', 'bob', 'bob'])
    """

    x: Any
    y: Any
    groups: Any = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "x", _tensors_of(self.x))
        object.__setattr__(self, "y", _tensors_of(self.y))

    def __len__(self) -> int:
        return inputs.batch_size(self.y)

    def to(self, device: str) -> Split:
        """The same samples on ``device``."""
        return Split(inputs.to_device(self.x, device), inputs.to_device(self.y, device), self.groups)

    def take(self, rows: Any) -> Split:
        """The samples at these places.

        Args:
            rows: a slice, or a tensor or list of places.

        Returns:
            Them, with their groups.
        """
        groups = self.group_ids
        chosen = None if groups is None else groups[rows.cpu().numpy() if isinstance(rows, Tensor) else rows]
        return Split(inputs.index(self.x, rows), inputs.index(self.y, rows), chosen)

    def head(self, count: int) -> Split:
        """The first samples, at most ``count`` of them."""
        return self.take(slice(count))

    def batches(self, size: int, generator: torch.Generator | None = None) -> Iterator[Batch]:
        """Go through all samples.

        Args:
            size: samples a batch; the last may have fewer.
            generator: shuffles them; None: in order.

        Yields:
            Inputs and targets, on the samples' device.
        """
        for part in seeded_order(len(self), generator).to(inputs.first_tensor(self.y).device).split(size):
            yield inputs.index(self.x, part), inputs.index(self.y, part)

    def targets(self) -> Any:
        """All targets."""
        return self.y

    @property
    def group_ids(self) -> NDArray[Any] | None:
        """The groups as an array (samples,), or None."""
        return _group_array(self.groups)

    @property
    def scoring_batch(self) -> int:
        """Samples a batch where nothing is learned."""
        values = sum(tensor[:1].numel() for tensor in inputs.tensors(self.x))
        return max(1, min(IN_MEMORY, MOST_VALUES // max(1, values)))

    def digest(self) -> str:
        """A hash of the samples; groups have no part in it."""
        found = hashlib.sha256()
        for tree in (self.x, self.y):
            for path, tensor in inputs.named_tensors(tree):
                _feed(found, path, tensor)
        return found.hexdigest()


@dataclass(frozen=True)
class Stream:
    """Samples that a map-style torch Dataset reads, one at a time, with workers where asked.

    Attributes:
        dataset: yields (x, y) or (x, y, group).
        collate: makes a batch (x, y) of a list of pairs (x, y), such as sequences of unequal length; None: torch's own.
        workers: processes that read ahead; 0: none.
        device: where batches go.
    """

    dataset: Dataset[Any]
    collate: Callable[[list[Any]], Any] | None = None
    workers: int = 0
    device: str = "cpu"
    _cache: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def to(self, device: str) -> Stream:
        """The same samples, whose batches go to ``device``."""
        return Stream(self.dataset, self.collate, self.workers, device, self._cache)

    def head(self, count: int) -> Split:
        """The first samples, at most ``count`` of them, as one batch in memory."""
        x, y = self._collated([_pair(self.dataset[i])[:2] for i in range(min(count, len(self)))])
        return Split(x, y).to(self.device)

    def batches(self, size: int, generator: torch.Generator | None = None) -> Iterator[Batch]:
        """As ``Split.batches``; batches are made by ``collate`` and moved to the device.

        Args:
            size: samples a batch.
            generator: shuffles them; None: in order.

        Yields:
            Inputs and targets.
        """
        order = [part.tolist() for part in seeded_order(len(self), generator).split(size)]
        # Of the workers' own random numbers: they follow the order, and nobody else's move.
        noise = torch.Generator().manual_seed(int(hashlib.sha256(repr(order).encode()).hexdigest()[:15], 16))
        loader = DataLoader(
            _Pairs(self.dataset),
            batch_sampler=order,  # type: ignore[arg-type]
            num_workers=self.workers,
            collate_fn=self._collated,
            generator=noise,
        )
        for x, y in loader:
            yield inputs.to_device(x, self.device), inputs.to_device(y, self.device)

    def targets(self) -> Any:
        """All targets, read once and kept; of targets that cannot be joined a list, a batch each."""
        self._scan()
        return self._cache["targets"]

    @property
    def group_ids(self) -> NDArray[Any] | None:
        """The groups as an array (samples,), read once and kept; None where the Dataset tells none."""
        self._scan()
        return _group_array(self._cache["groups"])

    @property
    def scoring_batch(self) -> int:
        """Samples a batch where nothing is learned."""
        return FROM_DISK

    def digest(self) -> str:
        """A hash of the samples, or the Dataset's own ``fingerprint`` where it has one.

        Reading a Dataset through takes as long as an epoch does without training: one that knows a name for its
        contents (a file's hash, say) saves that.

        Returns:
            64 hexadecimal digits.
        """
        own = getattr(self.dataset, "fingerprint", None)
        if own is not None:
            return hashlib.sha256(str(own() if callable(own) else own).encode()).hexdigest()
        self._scan()
        return str(self._cache["digest"])

    @property
    def scanned(self) -> bool:
        """Whether the targets have been read."""
        return bool(self._cache)

    def broken(self) -> list[int]:
        """Places of the samples whose inputs are NaN or infinite."""
        self._scan()
        return list(self._cache["broken"])

    @property
    def uneven(self) -> bool:
        """Whether targets of different batches cannot be joined, since their shapes differ."""
        self._scan()
        return bool(self._cache["uneven"])

    def rows(self) -> list[bytes]:
        """A hash of each sample, inputs and target."""
        self._scan()
        return list(self._cache["rows"])

    def _collated(self, pairs: list[Any]) -> Batch:
        from torch.utils.data import default_collate

        try:
            if self.collate is None:
                made = tuple(_as_it_was(default_collate([pair[k] for pair in pairs]), pairs[0][k]) for k in (0, 1))
            else:
                made = self.collate(pairs)
        except (RuntimeError, TypeError) as error:
            if self.collate is not None:
                raise
            raise InputError(
                f"Samples of a Dataset must make one batch of tensors, but torch cannot ({str(error).splitlines()[0]})"
                "; give Data(..., collate=...) a function that pads or converts them."
            ) from None
        if not isinstance(made, (tuple, list)) or len(made) != 2:
            raise InputError(
                f"The collate function must return a pair (x, y), got {type(made).__name__}; it is given a list of "
                "pairs (x, y)."
            )
        return made[0], made[1]

    def _scan(self) -> None:
        """One pass in order, under fixed seeds, so that random augmentations look the same each time."""
        if self._cache:
            return
        targets, groups, broken, rows, pairs = [], [], [], [], []
        with seeded(0):
            for number in range(len(self)):
                item = _pair(self.dataset[number])
                groups += list(item[2:])
                row = hashlib.blake2b(digest_size=16)
                for place, tree in enumerate(item[:2]):
                    for path, tensor in inputs.named_tensors(_tensors_of(tree)):
                        _feed(row, (str(place), *path), tensor)
                        if place == 0 and tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                            broken.append(number)
                rows.append(row.digest())
                pairs.append(item[:2])
                if len(pairs) == FROM_DISK or number + 1 == len(self):
                    targets.append(self._collated(pairs)[1])
                    pairs = []
        if groups and len(groups) != len(self):
            raise InputError(
                f"A Dataset must tell the group of every sample or of none, got {len(groups)} groups for {len(self)} "
                "samples."
            )
        joined = _joined(targets)
        self._cache.update(
            digest=hashlib.sha256(b"".join(rows)).hexdigest(),
            targets=targets if joined is None else joined,
            uneven=joined is None,
            groups=groups or None,
            broken=broken,
            rows=rows,
        )


class _Pairs(Dataset[Any]):
    """The Dataset without its groups."""

    def __init__(self, dataset: Dataset[Any]) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def __getitem__(self, place: int) -> Any:
        return _pair(self.dataset[place])[:2]


Samples = Split | Stream


def as_samples(value: Any, name: str, collate: Callable[[list[Any]], Any] | None, workers: int) -> Samples:
    """What a task's ``load`` gave for a split, as samples.

    Args:
        value: a Split, or a map-style Dataset.
        name: of the split, for messages.
        collate: for a Dataset.
        workers: for a Dataset.

    Returns:
        The samples.

    Raises:
        InputError: if it is neither; the message says what to give instead.
    """
    if isinstance(value, Split | Stream):
        return value
    if isinstance(value, DataLoader):
        raise InputError(
            f"The {name} split must be a Split or a Dataset, got a DataLoader; give its dataset, and its collate_fn "
            "and num_workers as Data(..., collate=..., workers=...)."
        )
    if isinstance(value, IterableDataset) or not (hasattr(value, "__getitem__") and hasattr(value, "__len__")):
        raise InputError(
            f"The {name} split must be a Split(x, y) or a map-style Dataset with __len__ and __getitem__, got "
            f"{type(value).__name__}; read it into a Split, or give it an index."
        )
    if isinstance(value, tuple | list | Mapping | Tensor):
        raise InputError(f"The {name} split must be a Split(x, y) or a Dataset, got {type(value).__name__}; wrap it.")
    return Stream(value, collate, workers)


def _pair(item: Any) -> tuple[Any, ...]:
    if not isinstance(item, tuple | list) or len(item) not in (2, 3):
        raise InputError(f"A Dataset must yield (x, y) or (x, y, group), got {type(item).__name__}; return a tuple.")
    return tuple(item)


def _tensors_of(tree: Any) -> Any:
    """The nesting with NumPy arrays, numbers and lists of numbers as tensors."""
    if isinstance(tree, np.ndarray | np.generic | int | float):
        return torch.as_tensor(tree)
    if isinstance(tree, list) and (numbers := _numbers(tree)) is not None:
        return torch.as_tensor(numbers)
    if isinstance(tree, tuple) and not hasattr(tree, "_fields"):
        return tuple(_tensors_of(part) for part in tree)
    if isinstance(tree, list):
        return [_tensors_of(part) for part in tree]
    if type(tree) is dict:
        return {key: _tensors_of(part) for key, part in tree.items()}
    return tree


def _numbers(tree: list[Any]) -> NDArray[Any] | None:
    """A list of numbers, or of such lists of one length, as an array; None for anything else."""
    leaf: Any = tree
    while isinstance(leaf, list) and leaf:
        leaf = leaf[0]
    if not isinstance(leaf, int | float | np.generic):
        return None
    try:
        found = np.asarray(tree)
    except ValueError:  # of unequal length
        return None
    return found if found.dtype.kind in "biuf" else None


def _as_it_was(batch: Any, sample: Any) -> Any:
    """A batch with the tuples of its samples, of which torch makes lists: a tuple is a model's arguments."""
    if isinstance(batch, Mapping):
        return {key: _as_it_was(part, sample[key]) for key, part in batch.items()}
    if isinstance(batch, list | tuple) and isinstance(sample, list | tuple) and not hasattr(sample, "_fields"):
        return type(sample)(_as_it_was(part, item) for part, item in zip(batch, sample, strict=True))
    return batch


def _joined(parts: Sequence[Any]) -> Any:
    try:
        return inputs.join(parts)
    except (InputError, RuntimeError, IndexError):
        return None


def _group_array(groups: Any) -> NDArray[Any] | None:
    if groups is None:
        return None
    return groups.cpu().numpy() if isinstance(groups, Tensor) else np.asarray(groups)


def _feed(found: Any, path: tuple[str, ...], tensor: Tensor) -> None:
    found.update(f"{path}{tensor.dtype}{tuple(tensor.shape)}".encode())
    found.update(
        tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data if tensor.numel() else b""
    )
