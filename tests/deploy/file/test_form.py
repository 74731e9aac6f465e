"""What a packed file is made of: a safetensors tensor of bytes, a short directory, and small vectors in one stream."""

from __future__ import annotations

import hashlib
import json
import re
import struct

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

from tests.conftest import ROOT
from tests.deploy.file.forged import unpacked
from tests.deploy.file.test_packed import states_equal
from tests.measures.nets import ternary_twin
from ttq_plugin import load_packed, packed_info, save_packed
from ttq_plugin.deploy.file import gathered
from ttq_plugin.deploy.file.entropy import Damaged
from ttq_plugin.tasks import get_task

DIGITS = ["conv1", "conv2", "fc1", "fc2"]


def digits(zeros):
    torch.manual_seed(0)
    return ternary_twin(get_task("mnist-cnn").model().eval(), DIGITS, round(zeros * 9750))


@pytest.mark.parametrize("zeros", [0.75, 0.9, 0.95])
def test_a_tiny_network_is_hardly_larger_than_its_numbers(tmp_path, zeros):
    """Beside codes and scales there are 90 biases in full precision, and at most 300 bytes of everything else."""
    info = save_packed(digits(zeros), tmp_path / "m.safetensors")
    codes = sum(info.packed_bytes.values())
    assert codes + 4 * 90 * 0.75 < info.nbytes <= codes + 4 * 90 + 300
    assert zeros < 0.95 or info.nbytes <= 1200
    [told] = re.findall(
        rf"^\| {100 * zeros:.0f} % \| (\d+) \| (\d+) \|", (ROOT / "docs/deployment.md").read_text(), re.M
    )
    assert (info.nbytes, codes) == pytest.approx(tuple(map(int, told)), rel=0.02)  # other zlibs take some bytes more


def test_a_file_is_one_tensor_with_a_directory_that_zlib_and_json_read(tmp_path):
    path = tmp_path / "m.safetensors"
    save_packed(digits(0.9), path, task="mnist-cnn", method="pttq", report={"srqw": 0.9})
    data = path.read_bytes()
    assert hashlib.sha256(data[:-32]).digest() == data[-32:]
    [(name, tensor)] = load_file(path).items()
    start = 8 + struct.unpack("<Q", data[:8])[0]
    assert (name, tensor.dtype, tensor.numpy().tobytes()) == ("model", torch.uint8, data[start:])
    directory, _ = unpacked(data[start:])
    assert directory["tensors"][2][:4] == ["conv2.weight", "F32", [20, 10, 5, 5], "ternary"]
    assert directory["tensors"][3] == ["conv2.bias", "F32", [20]]
    assert (directory["task"], directory["method"], directory["report"]) == ("mnist-cnn", "pttq", {"srqw": 0.9})
    assert json.loads(data[8:start])["__metadata__"] == {"ttq_packed": "2"}


class Vectors(nn.Module):
    """Many small vectors of all dtypes, some of nothing, in more streams than one, and one that is large."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        dtypes = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.uint8]
        for i in range(150):
            values = torch.randn(i * 37 % 4000, generator=generator) * 50
            self.register_buffer(f"v{i}", values.to(torch.uint8 if i % 9 == 7 else dtypes[i % 7]))
        self.register_buffer("large", torch.randn(5000, generator=generator))
        self.register_buffer("yes", torch.rand(30, generator=generator) < 0.5)
        self.register_buffer("one", torch.tensor(-3.5))
        self.register_buffer("none", torch.empty(0, 3))


@pytest.mark.parametrize("block", [1 << 20, 1 << 15])
def test_vectors_of_every_dtype_come_back(tmp_path, monkeypatch, block):
    monkeypatch.setattr(gathered, "BLOCK", block)
    model, twin = Vectors(), Vectors()
    for value in twin.state_dict().values():
        value.zero_()
    info = save_packed(model, tmp_path / "m.safetensors")
    assert states_equal(load_packed(tmp_path / "m.safetensors", twin), model)
    assert info.nbytes < sum(value.nbytes for value in model.state_dict().values())


@given(
    st.lists(st.tuples(st.sampled_from([1, 2, 4, 8]), st.integers(0, 30)), min_size=1, max_size=8), st.integers(0, 9)
)
@settings(max_examples=60, deadline=None)
def test_gathered_vectors_are_the_same_bytes(forms, seed):
    generator = np.random.default_rng(seed)
    vectors = [
        (width, generator.integers(0, 1 + 25 * seed, width * n).astype(np.uint8).tobytes()) for width, n in forms
    ]
    sizes = [(width, len(data)) for width, data in vectors]
    coded = gathered.encode(vectors)
    assert [found.tobytes() for found in gathered.decode(coded, sizes)] == [data for _, data in vectors]
    assert len(coded) <= sum(size for _, size in sizes) + 5 * (1 + sum({width for width, _ in sizes}))
    for wrong in (coded + b"\0", coded[:-1], b""):
        with pytest.raises(Damaged):
            gathered.decode(wrong, sizes)
    with pytest.raises(Damaged):
        gathered.decode(coded, [*sizes, (1, 1)])


def test_exponents_that_are_alike_are_stored_once_and_not_with_each_number():
    """2 000 numbers from 1 to 2: the 23 bits of their fractions remain, and next to nothing of sign and exponent."""
    values = 1 + torch.rand(2000, generator=torch.Generator().manual_seed(0))
    coded = gathered.encode([(4, values.numpy().tobytes())])
    assert 23 / 8 * 2000 <= len(coded) < 1.02 * 23 / 8 * 2000


def test_streams_hold_at_most_a_block():
    sizes = [("a", gathered.BLOCK - 1), ("b", 1), ("c", 1), ("d", gathered.BLOCK), ("e", 0)]
    assert gathered.blocks(sizes) == [["a", "b"], ["c"], ["d", "e"]]
    assert gathered.blocks([("a", 0), ("b", 2)]) == [["a", "b"]]
    assert gathered.blocks([]) == []


def test_the_order_of_entries_is_the_models(tmp_path):
    save_packed(digits(0.9), tmp_path / "m.safetensors")
    assert list(packed_info(tmp_path / "m.safetensors").entries) == list(digits(0.9).state_dict())
