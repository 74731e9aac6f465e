"""The main steps as functions: what a script or a notebook calls."""

from __future__ import annotations

import pytest
import torch
from sklearn.datasets import load_diabetes, load_digits

import ttq_plugin
from ttq_plugin.errors import InputError
from ttq_plugin.tasks.task import Data, Recipe, Split, Task


def digits(source, seed):
    x, y = (torch.as_tensor(a) for a in load_digits(return_X_y=True))
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    return Data(*(Split(x[part].float() / 16, y[part]) for part in order.tensor_split([1200, 1500])))


def mlp():
    return torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))


TASK = Task(
    "digits", "8x8 digits", digits, mlp, torch.nn.functional.cross_entropy, Recipe(epochs=6, lr=1e-2), metric="macro_f1"
)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def trained(cache):
    return ttq_plugin.train(TASK, cache=cache, test=True, curvature=True, show=False)


def test_train_gives_a_model_with_its_scores_and_takes_it_from_the_cache_again(trained, cache):
    from sklearn.metrics import f1_score

    data = digits(None, 0)
    said = trained.model(data.test.x).argmax(1)
    assert trained.metric == "macro_f1" and trained.origin == "trained now" and trained.score > 0.85
    assert trained.test.value == pytest.approx(f1_score(data.test.y, said, average="macro"))
    assert trained.parts["recall_3"] == pytest.approx(
        (trained.model(data.validation.x).argmax(1) == 3)[data.validation.y == 3].float().mean().item()
    )
    again = ttq_plugin.train(TASK, cache=cache, show=False)
    assert again.score == trained.score and again.origin.startswith("from the cache (") and again.test is None
    anew = ttq_plugin.train(TASK, cache=cache, retrain=True, show=False)
    assert anew.origin == "trained now" and anew.score == trained.score


def test_compress_takes_a_task_or_what_train_returned(trained, cache):
    numbers = {"t_min": 1.0, "t_max": 1.0, "epochs": 3}
    one = ttq_plugin.compress(trained, "pttq", show=False, **numbers)
    other = ttq_plugin.compress(TASK, "pttq", cache=cache, show=False, **numbers)
    assert one.score == other.score == one.metrics["macro_f1"] > 0.7
    for a, b in zip(one.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(a, b)
    plain = ttq_plugin.train(TASK, cache=cache, show=False)
    assert not plain.prepared.traces and plain.with_traces().traces == trained.prepared.traces
    assert ttq_plugin.compress(plain, "pttq", show=False, **numbers).layers == one.layers
    assert len(one.model[0].weight.unique()) == 3 and 0 < one.report.srqw < 1


def test_own_weights_are_used_as_they_are(trained, cache, tmp_path):
    from safetensors.torch import save_file

    weights = mlp().state_dict()
    save_file(weights, tmp_path / "own.safetensors")
    own = ttq_plugin.train(TASK, cache=cache, weights=tmp_path / "own.safetensors", show=False)
    assert all(torch.equal(own.model.state_dict()[name], value) for name, value in weights.items())
    assert "own.safetensors" in own.origin and own.score < trained.score
    save_file({"0.weight": weights["0.weight"]}, tmp_path / "half.safetensors")
    with pytest.raises(InputError, match="half.safetensors holds weights of another architecture"):
        ttq_plugin.train(TASK, cache=cache, weights=tmp_path / "half.safetensors", show=False)


def test_a_regression_is_scored_by_its_own_metric(cache):
    def load(source, seed):
        x, y = (torch.as_tensor(a).float() for a in load_diabetes(return_X_y=True))
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
        return Data(*(Split(10 * x[part], y[part, None] / 100) for part in order.tensor_split([300, 370])))

    def model():
        return torch.nn.Sequential(torch.nn.Linear(10, 64), torch.nn.ReLU(), torch.nn.Linear(64, 1))

    task = Task("diabetes", "progression", load, model, torch.nn.functional.mse_loss, Recipe(20, 1e-2), metric="rmse")
    outcome = ttq_plugin.compress(task, "ttq", cache=cache, epochs=10, show=False)
    data = load(None, 0)
    error = (outcome.model(data.validation.x) - data.validation.y).double().square().mean().sqrt().item()
    assert outcome.score == pytest.approx(error, rel=1e-5) and outcome.metric == "rmse" and outcome.parts["mae"] < error
