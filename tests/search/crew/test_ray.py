"""Searches whose workers are tasks on a real Ray cluster."""

import os
from pathlib import Path

import pytest

from ttq_plugin.errors import InputError
from ttq_plugin.search.crew.engines import get_engine
from ttq_plugin.search.runner import run_search
from ttq_plugin.search.study.ledger import losses
from ttq_plugin.search.study.study import load_study

# Ray would look for a cluster on loopback at this machine's outer address; read when ray is imported.
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"

OPTIONS = {"trial_module": "fake_trial", "poll_seconds": 0.1}


@pytest.fixture
def ray_cluster(monkeypatch):
    """A head node on loopback, which is "an existing cluster" to everybody else."""
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 2, "node_ip_address": "127.0.0.1", "include_dashboard": False, "object_store_memory": 80 << 20}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    try:
        yield cluster
    finally:
        import ray

        ray.shutdown()
        cluster.shutdown()


@pytest.mark.service
def test_workers_as_ray_tasks(space, postgres, ray_cluster, tmp_path):
    flag = tmp_path / "killed"
    summary = run_search(
        space, postgres.url(), "ray", engine="ray", trials=8, data=f"sleep=0.2,kill={flag}",
        models_dir=tmp_path / "models", **OPTIONS,
    )  # fmt: skip
    assert (summary.complete, summary.failed, summary.lost, summary.error) == (8, 0, 1, None)
    study = load_study(postgres.url(), "ray")
    assert list(losses(study).values()) == [["worker killed (WorkerCrashedError)"]]
    assert os.getpid() not in {trial.user_attrs["worker"]["pid"] for trial in study.trials}
    assert {path.name for path in (tmp_path / "models").iterdir()} == {
        f"trial-{trial.number}.safetensors" for trial in study.trials if trial.state.name == "COMPLETE"
    }


def test_without_a_cluster_it_is_said(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(InputError, match="No Ray cluster can be used .*; start one by ray start --head"):
        get_engine("ray", "postgresql://me@127.0.0.1/studies")
