"""Files of format 1, which earlier versions wrote, still give the same models."""

from __future__ import annotations

import pytest
import torch

from tests.deploy.file.earlier import FOLDER, Mixed, digits
from tests.deploy.file.test_packed import states_equal
from ttq_plugin import load_packed, packed_info, save_packed

SCHEMES = {
    "few.weight": "pattern",
    "even.weight": "base3",
    "many.weight": "entropy",
    "signs.weight": "bits",
    "grid.weight": "entropy",
    "again.weight": "same",
}


@pytest.mark.parametrize("rest, plain", [("exact", "raw"), ("float16", "float16"), ("int8", "int8")])
def test_each_coding_of_format_1_is_read(rest, plain):
    model = Mixed().eval()
    path = FOLDER / f"{rest}.safetensors"
    info = packed_info(path)
    assert {name: entry["as"] for name, entry in info.entries.items()}.items() >= (
        SCHEMES | {"plain.weight": plain}
    ).items()
    assert (info.task, info.method, info.report, info.more) == (None, None, {}, {"note": "an example"})
    twin = load_packed(path, Mixed())
    if rest == "int8":
        weight = model.plain.weight
        assert ((twin.plain.weight - weight).abs() <= weight.abs().amax(1, keepdim=True) / 254 * (1 + 1e-6)).all()
        with torch.no_grad():
            twin.plain.weight.copy_(weight)
    assert states_equal(twin, model)  # all numbers of it are float16, too


def test_format_1_rebuilds_the_model_of_a_task(tmp_path):
    info = packed_info(FOLDER / "digits.safetensors")
    assert (info.task, info.method, info.report) == ("mnist-cnn", "pttq", {"srqw": 0.66})
    model = load_packed(FOLDER / "digits.safetensors")
    assert states_equal(model, digits())
    again = save_packed(model, tmp_path / "new.safetensors", task=info.task, method=info.method, report=info.report)
    assert info.nbytes - again.nbytes > 1200
    assert again.packed_bytes == info.packed_bytes
    assert states_equal(load_packed(tmp_path / "new.safetensors"), model)
