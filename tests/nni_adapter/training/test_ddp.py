"""DistributedDataParallel: two gloo processes learn the same scales and thresholds."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from tests.conftest import ROOT
from tests.nni_adapter.training import ddp_worker


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each of two processes ended with."""
    folder = tmp_path_factory.mktemp("ddp")
    results = [folder / f"{rank}.pt" for rank in range(2)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", ddp_worker.__name__, str(rank), "2", str(folder / "rendezvous"), str(result)],
            env=os.environ | {"GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": str(ROOT)},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank, result in enumerate(results)
    ]
    try:
        outputs = [process.communicate(timeout=600)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, output in zip(processes, outputs, strict=True):
        assert process.returncode == 0, output
    return [torch.load(result, weights_only=True) for result in results]


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed")
@pytest.mark.parametrize("route", ["nni", "loop"])
def test_both_ranks_learn_the_same(ranks, route):
    one, two = (results[route] for results in ranks)
    alone = ddp_worker.train("whole", 0, 1)
    assert set(one["states"]) == {"conv1", "conv2"}
    for name, values in one["states"].items():
        assert not torch.equal(values["thresholds"], values["initial"])
        for key, value in values.items():
            assert torch.equal(value, two["states"][name][key]), f"{name}: {key} differs between the ranks"
            # Halves of a batch in two processes are the whole batch in one.
            torch.testing.assert_close(value, alone["states"][name][key], rtol=1e-4, atol=1e-6)
    for key, value in one["exported"].items():
        assert torch.equal(value, two["exported"][key])
    assert list(one["exported"]) == list(alone["exported"]), "the export is not distributed"


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed")
def test_both_ranks_have_the_share_of_zeros_that_was_asked_for(ranks):
    one, two = (results["zeros"]["exported"] for results in ranks)
    for name, value in one.items():
        assert torch.equal(value, two[name]), f"{name} differs between the ranks"
    weights = [one[f"{name}.weight"] for name in ("conv1", "conv2")]
    assert sum(int((w == 0).sum()) for w in weights) == round(0.75 * sum(w.numel() for w in weights))
    assert all(len(w.unique()) == 3 for w in weights)
