"""A compression of a network whose layers NNI cannot wrap, from the task to the measured model."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ttq_plugin.tasks.task import Data, Recipe, Split, Task
from ttq_plugin.trial.run import Settings, prepare, run


def load(source, seed):
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(90) // 30
    waves = torch.sin(torch.arange(6.0)[None, :, None] * (y[:, None, None] + 1))
    x = waves + 0.3 * torch.randn(90, 6, 4, generator=generator)
    return Data(*(Split(x[i::3], y[i::3]) for i in range(3)), simulated=True)


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.fc = nn.LSTM(4, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, x):
        return self.fc(self.lstm(x)[0].mean(1))


TASK = Task(
    "waves", "waves of three frequencies", load, Recurrent, F.cross_entropy, Recipe(epochs=2, lr=1e-2), shape=(6, 4)
)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return prepare(TASK, cache=tmp_path_factory.mktemp("cache"))


def test_recurrent_matrices_are_compressed_and_measured(prepared):
    assert [trace.name for trace in prepared.traces] == ["lstm.weight_ih_l0", "lstm.weight_hh_l0", "fc"]
    outcome = run(prepared, Settings("waves", method="pttq", epochs=2, share=1.0))
    assert outcome.layers == ("fc", "lstm.weight_hh_l0", "lstm.weight_ih_l0")
    for name in ("lstm.weight_ih_l0", "lstm.weight_hh_l0"):
        assert len(outcome.model.get_parameter(name).unique()) == 3
        assert not torch.equal(outcome.model.get_parameter(name), prepared.model.get_parameter(name))
    assert {row.name for row in outcome.report.selected} == set(outcome.layers)
    assert all({f"{name}.zeros" for name in outcome.layers} <= look.keys() for look in outcome.health)


def test_what_nni_s_own_quantizer_cannot_wrap_is_told(prepared):
    outcome = run(prepared, Settings("waves", method="lsq-int2", epochs=1, share=1.0))
    assert outcome.layers == ("fc",)
    for name in ("lstm.weight_ih_l0", "lstm.weight_hh_l0"):
        assert f"{name}: stays in full precision, NNI's LsqQuantizer cannot wrap it." in outcome.notes


class Attentive(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention, self.fc = nn.MultiheadAttention(4, 2, batch_first=True), nn.Linear(4, 3)

    def forward(self, x):
        return self.fc((x + self.attention(x, x, x)[0]).mean(1))


@pytest.mark.parametrize(
    "settings",
    [
        Settings("focus", method="pttq", epochs=1, share=1.0),
        Settings("focus", method="lsq-int2", epochs=1, share=1.0),
        Settings("focus", method="mixed", bits=0.905, epochs=1),
    ],
    ids=["share", "lsq", "bits"],
)
def test_attention_is_told_to_stay_as_it_is(settings, tmp_path):
    recipe = Recipe(epochs=1, lr=1e-2)
    task = Task("focus", "waves, attended to", load, Attentive, F.cross_entropy, recipe, shape=(6, 4))
    outcome = run(prepare(task, cache=tmp_path), settings)
    told = [note for note in outcome.notes if "stays in full precision" in note]
    assert outcome.layers == ("fc",) and len(told) == 2
    for name in ("attention.in_proj_weight", "attention.out_proj"):
        sentence = f"{name}: stays in full precision, like all of nn.MultiheadAttention that `include` does not name."
        assert sentence in told


def test_a_frozen_layer_is_told_to_stay_as_it_is(tmp_path):
    def build():
        model = Recurrent()
        model.lstm.requires_grad_(False)
        return model

    task = Task("still", "waves, half frozen", load, build, F.cross_entropy, Recipe(epochs=1, lr=1e-2), shape=(6, 4))
    outcome = run(prepare(task, cache=tmp_path), Settings("still", method="pttq", epochs=1, share=1.0))
    assert outcome.layers == ("fc",)
    for name in ("lstm.weight_ih_l0", "lstm.weight_hh_l0"):
        assert f"{name}: stays in full precision, the weight is frozen (requires_grad is False)." in outcome.notes
