"""The samples that traces are estimated on: random, seeded, each class with its share."""

from __future__ import annotations

import torch

from ttq_plugin.tasks.samples import Split, Stream
from ttq_plugin.trial.sampling import representative, subset


def drawn(targets, total, count, seed=0):
    return representative(targets, total, count, torch.Generator().manual_seed(seed))


def test_each_class_of_sorted_labels_has_its_share():
    labels = torch.repeat_interleave(torch.arange(4), torch.tensor([700, 200, 90, 10]))
    for targets in (labels, labels.float().unsqueeze(1)):
        rows = drawn(targets, 1000, 100)
        assert len(rows.unique()) == 100
        counts = torch.bincount(labels[rows], minlength=4)
        assert (counts - torch.tensor([70, 20, 9, 1])).abs().max() <= 1
        assert labels[rows][:50].unique().numel() > 1, "in random order, so that batches are mixed"
    assert torch.equal(drawn(labels, 1000, 100), drawn(labels, 1000, 100))
    assert not torch.equal(drawn(labels, 1000, 100), drawn(labels, 1000, 100, seed=1))


def test_each_sample_is_as_likely_as_the_others():
    labels = torch.repeat_interleave(torch.arange(2), torch.tensor([15, 5]))
    found = torch.stack([torch.bincount(drawn(labels, 20, 8, seed), minlength=20) for seed in range(1500)]).double()
    assert found.max() == 1 and (found.mean(0) - 0.4).abs().max() < 5 * (0.24 / 1500) ** 0.5


def test_other_targets_are_drawn_without_strata():
    numbers = torch.randn(500, generator=torch.Generator().manual_seed(0))
    for targets in (numbers, None, {"a": numbers}, torch.zeros(500, 3)):
        rows = drawn(targets, 500, 50)
        assert len(rows.unique()) == 50 and (rows >= 250).any() and (rows < 250).any()
    assert drawn(numbers, 30, 50).sort().values.tolist() == list(range(30))


def test_subsets_of_tensors_and_datasets_hold_the_same_samples():
    x, y = torch.arange(40.0).view(40, 1), torch.repeat_interleave(torch.arange(2), 20)
    stream = Stream(torch.utils.data.TensorDataset(x, y))
    stream.targets()
    found = []
    for samples in (Split(x, y), stream):
        part = subset(samples, 10, torch.Generator().manual_seed(3))
        found.append(torch.cat([batch for batch, _ in part.batches(4)]).flatten())
        assert len(part) == 10
    assert torch.equal(*found) and (found[0] >= 20).sum() == 5
