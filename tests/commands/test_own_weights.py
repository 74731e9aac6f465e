"""`--weights` and `--retrain` from the command line: whose full-precision model it is, and that it is said."""

from __future__ import annotations

import json

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from ttq_plugin import InputError
from ttq_plugin.cli import cli

TASK = "tests.reproduce.tiny:TASK"


def ttq(*words):
    done = CliRunner().invoke(cli, [*map(str, words), "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    return folder, ttq("train", TASK, "--cache", folder / "cache", "--out", folder / "own.safetensors")


def test_the_cache_answers_until_it_is_asked_to_retrain(trained):
    folder, first = trained
    again = ttq("train", TASK, "--cache", folder / "cache")
    anew = ttq("train", TASK, "--cache", folder / "cache", "--retrain")
    assert "from the cache (" in again["origin"] and "from the cache" not in first["origin"] + anew["origin"]
    metric = first["metric"]
    assert first[metric] == again[metric] == anew[metric]  # one seed, one model


def test_own_weights_are_scored_and_compressed_instead_of_a_training(trained, tmp_path):
    folder, first = trained
    metric, file = first["metric"], folder / "own.safetensors"
    own = ttq("train", TASK, "--cache", tmp_path / "empty", "--weights", file)
    assert "own.safetensors" in own["origin"] and own[metric] == first[metric]
    assert not list((tmp_path / "empty").rglob("*.safetensors"))  # nothing was trained
    zeros = {name: torch.zeros_like(value) for name, value in load_file(file).items()}
    save_file(zeros, tmp_path / "zeros.safetensors")
    worse = ttq("train", TASK, "--cache", tmp_path / "empty", "--weights", tmp_path / "zeros.safetensors")
    assert worse[metric] != first[metric]
    small = ttq("compress", TASK, "--weights", file, "--epochs", 1, "--cache", tmp_path / "other")
    assert small[f"{metric}_fp32"] == first[metric]


def test_weights_of_another_model_are_refused(trained, tmp_path):
    save_file({"nothing": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match=r"other\.safetensors"):
        ttq("train", TASK, "--cache", tmp_path, "--weights", tmp_path / "other.safetensors")
