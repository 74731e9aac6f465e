"""Scores from confusion matrices are those of scikit-learn from the samples."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ttq_plugin.statistics.counts import FROM_COUNTS, OF_ONE_LOGIT
from ttq_plugin.tasks.metrics import METRICS


@pytest.mark.parametrize("name", FROM_COUNTS)
@pytest.mark.filterwarnings("ignore:A single label")
@settings(deadline=None, max_examples=60)
@given(classes=st.integers(2, 5), seed=st.integers(0, 10_000), count=st.integers(1, 40), binary=st.booleans())
def test_a_score_from_counts_is_scikit_learns(name, classes, seed, count, binary):
    generator = torch.Generator().manual_seed(seed)
    classes = 2 if binary else classes
    truth = torch.randint(classes, (count,), generator=generator)
    logits = torch.randn(count, *([] if binary else [classes]), generator=generator)
    said = (logits > 0).long() if binary else logits.argmax(1)
    table = np.zeros((classes, classes))
    np.add.at(table, (truth.numpy(), said.numpy()), 1)
    expected = METRICS[name].function(logits, truth)
    formula = (OF_ONE_LOGIT if binary else FROM_COUNTS)[name]
    assert formula(table) == pytest.approx(expected, abs=1e-12)
    assert formula(np.stack([table, 3 * table])) == pytest.approx([expected] * 2, abs=1e-12)
