"""Samples that a torch Dataset reads one at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset

from ttq_plugin.errors import InputError
from ttq_plugin.support import inputs
from ttq_plugin.support.frames import of_the_user
from ttq_plugin.support.seeds import seeded
from ttq_plugin.tasks.memory import Batch, Split, feed, group_array, seeded_order, tensors_of

FROM_DISK = 64
"""The most samples of a batch that is only scored."""


@dataclass(frozen=True)
class Stream:
    """Samples that a map-style torch Dataset reads, one at a time, with workers where asked.

    Attributes:
        dataset: Yields (x, y) or (x, y, group).
        collate: Makes a batch (x, y) of a list of pairs (x, y), such as sequences of unequal length; None: torch's own.
        workers: Processes that read ahead; 0: none.
        device: Where batches go.
        name: Name of the split, for messages.
    """

    dataset: Dataset[Any]
    collate: Callable[[list[Any]], Any] | None = None
    workers: int = 0
    device: str = "cpu"
    name: str = field(default="", compare=False)
    _cache: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]

    def to(self, device: str) -> Stream:
        """The same samples, whose batches go to ``device``."""
        return Stream(self.dataset, self.collate, self.workers, device, self.name, self._cache)

    def head(self, count: int) -> Split:
        """The first samples, at most ``count`` of them, as one batch in memory."""
        x, y = self._collated([self._read(i)[:2] for i in range(min(count, len(self)))])
        return Split(x, y).to(self.device)

    def batches(self, size: int, generator: torch.Generator | None = None) -> Iterator[Batch]:
        """As ``Split.batches``; batches are made by ``collate`` and moved to the device.

        Args:
            size: Samples per batch.
            generator: Shuffles them; None: in order.

        Yields:
            Inputs and targets.
        """
        order = [part.tolist() for part in seeded_order(len(self), generator).split(size)]
        # Of the workers' own random numbers: they follow the order, and nobody else's move.
        noise = torch.Generator().manual_seed(int(hashlib.sha256(repr(order).encode()).hexdigest()[:15], 16))
        loader = DataLoader(
            _Pairs(self.dataset),
            batch_sampler=order,
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
        """The groups as an array (samples,), read once and kept; None if the Dataset has none."""
        self._scan()
        return group_array(self._cache["groups"])

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

    def _read(self, place: int) -> tuple[Any, ...]:
        """A sample as it is; whatever error there is becomes one sentence."""
        of = f" of the {self.name} split" if self.name else ""
        with of_the_user(f"The Dataset{of}, asked for sample {place} of {len(self)},"):
            return _pair(self.dataset[place])

    def _as_tensors(self, tree: Any, place: int) -> Any:
        try:
            return tensors_of(tree)
        except InputError as error:
            raise InputError(f"Sample {place} of a Dataset: {error}") from None

    def _collated(self, pairs: list[Any]) -> Batch:
        from torch.utils.data import default_collate

        try:
            if self.collate is None:
                made = tuple(_as_it_was(default_collate([pair[k] for pair in pairs]), pairs[0][k]) for k in (0, 1))
            else:
                made = self.collate(pairs)
        except (RuntimeError, TypeError, ValueError) as error:
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
                item = self._read(number)
                groups += list(item[2:])
                row = hashlib.blake2b(digest_size=16)
                for place, tree in enumerate(item[:2]):
                    for path, tensor in inputs.named_tensors(self._as_tensors(tree, number)):
                        feed(row, (str(place), *path), tensor)
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


def _pair(item: Any) -> tuple[Any, ...]:
    if not isinstance(item, tuple | list) or len(item) not in (2, 3):
        raise InputError(f"A Dataset must yield (x, y) or (x, y, group), got {type(item).__name__}; return a tuple.")
    return tuple(item)


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
