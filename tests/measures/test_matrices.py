"""Models whose layers have several matrices, or share one: what is selected, and what it costs by hand."""

import copy

import pytest
import torch
from torch import nn

from ttq_plugin.core import bake, ternarize
from ttq_plugin.deploy.file.packed import load_packed, packed_info, save_packed
from ttq_plugin.errors import InputError
from ttq_plugin.measures import measure

IDS = torch.arange(40).reshape(4, 10) % 30


class Net(nn.Module):
    """Tied embedding, recurrence, attention and a bare matrix."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(30, 16)
        self.lstm = nn.LSTM(16, 16, batch_first=True)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.gate = nn.Parameter(torch.randn(16, 16))
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, 30, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids):
        x, _ = self.lstm(self.embed(ids))
        x = self.norm(x + self.attention(x, x, x)[0])
        return self.head(x @ self.gate)


MATRICES = {
    "embed": (480, 1),
    "lstm.weight_ih_l0": (1024, 1),
    "lstm.weight_hh_l0": (1024, 1),
    "attention.in_proj_weight": (768, 3),
    "attention.out_proj": (256, 1),
}
"""Weights, and matrices of their own among them."""


def twins(names=("embed", "lstm", "attention"), **options):
    torch.manual_seed(0)
    plain = Net()
    return plain, bake(ternarize(copy.deepcopy(plain), names, **options)).eval()


def parameter(model, name):
    return model.get_parameter(name if name.endswith(("weight", "l0", "gate")) else f"{name}.weight")


@pytest.mark.parametrize("layers", [None, ["embed", "lstm", "attention"], ["head", *list(MATRICES)[1:]]])
def test_each_matrix_is_a_row_and_costs_what_it_costs_by_hand(layers):
    plain, compressed = twins()
    report = measure(plain, compressed, IDS, layers)
    rows = {row.name: row for row in report.layers if row.selected and row.weights}
    assert list(rows) == list(MATRICES)
    for name, (n, parts) in MATRICES.items():
        nonzeros = int(torch.count_nonzero(parameter(compressed, name)))
        row = rows[name]
        assert (row.kind, row.weights, row.nonzeros, row.scales) == ("ternary", n, nonzeros, 2 * parts)
        assert row.bits_coo34 == 34 * nonzeros + 64 * parts and row.bits_dense2 == 2 * n + 64 * parts
        assert row.transfers_fp32 == n  # biases are zeros yet
    assert report.bits_fp32 == 32 * sum(p.numel() for p in plain.parameters())
    others = sum(p.numel() for p in plain.parameters()) - sum(n for n, _ in MATRICES.values())
    assert report.bits("dense2") == sum(row.bits_dense2 for row in rows.values()) + 32 * others
    zeros = sum(row.zeros for row in rows.values())
    assert report.srqw == zeros / sum(n for n, _ in MATRICES.values())


def test_every_output_channel_may_have_scales_of_its_own():
    plain, compressed = twins(granularity="out_channel", t_min=0.3, t_max=0.3, on_empty="clip")
    report = measure(plain, compressed, IDS)
    scales = {row.name: row.scales for row in report.layers if row.selected and row.weights}
    assert scales == {
        "embed": 2 * 16,
        "lstm.weight_ih_l0": 2 * 64,
        "lstm.weight_hh_l0": 2 * 64,
        "attention.in_proj_weight": 2 * 48,
        "attention.out_proj": 2 * 16,
    }


def test_a_bare_matrix_is_measured_where_it_is_named():
    plain, compressed = twins(["gate"])
    report = measure(plain, compressed, IDS, ["gate"])
    [row] = report.selected
    assert (row.name, row.weights, row.scales) == ("gate", 256, 2)
    assert report.bits_fp32 == 32 * sum(p.numel() for p in plain.parameters())
    with pytest.raises(InputError, match="`layers` must name convolutions, .* with weights of their own, got 'norm'"):
        measure(plain, compressed, IDS, ["norm"])


@pytest.mark.parametrize("granularity", ["default", "out_channel"])
def test_a_packed_file_holds_each_matrix_by_its_codes(granularity, tmp_path):
    _, compressed = twins(granularity=granularity, t_min=0.3, t_max=0.3, on_empty="clip")
    info = save_packed(compressed, tmp_path / "model.safetensors")
    assert set(info.packed_bytes) == set(MATRICES) and info.entries["head.weight"]["of"] == "embed.weight"
    for name, (n, parts) in MATRICES.items():
        groups = {"embed": 16, "attention.out_proj": 16, "attention.in_proj_weight": 48}.get(name, 64)
        floats = 8 * (parts if granularity == "default" else groups)
        assert info.packed_bytes[name] <= n / 5 + 1 + floats
    entries = packed_info(tmp_path / "model.safetensors").entries
    kinds = {
        name: entries[name]["kind"] for name in entries if len(entries[name].get("shape", ())) > 1 and name != "gate"
    }
    assert len(kinds) == len(MATRICES) and set(kinds.values()) == {"ternary"}
    torch.manual_seed(1)
    loaded = load_packed(tmp_path / "model.safetensors", Net()).eval()
    assert all(torch.equal(loaded.state_dict()[key], value) for key, value in compressed.state_dict().items())
    assert torch.equal(loaded(IDS), compressed(IDS))
