"""Twenty networks by all that the project does with one: each cell of the documentation's table works, or is refused.

The sentences of refusals are in ``table.json``, which the documentation shows. A cell that works where a refusal is
written there fails, and so does any other sentence. ``pytest -m long`` tries the full sizes.
"""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path

import pytest

from tests.zoo import columns, deployed, networks
from ttq_plugin.errors import InputError

pytestmark = [
    pytest.mark.usefixtures("shared"),
    pytest.mark.filterwarnings("ignore:.*thresholds lowered"),
    pytest.mark.filterwarnings("ignore:TF32 acceleration"),
]
TABLE = json.loads(Path(__file__).with_name("table.json").read_text())
COLUMNS = {
    "ternarize": partial(columns.compress, granularity="default"),
    "ternarize-channel": partial(columns.compress, granularity="out_channel"),
    "nni": partial(columns.by_nni, granularity="default"),
    "nni-channel": partial(columns.by_nni, granularity="out_channel"),
    "pruner": columns.pruner,
    "curvature": columns.curvature,
    "measure": columns.counted,
    "file": columns.packed,
    "runtime": deployed.runtime,
    "onnx": deployed.onnx,
    "onnx-int2": deployed.onnx_int2,
    "onnx-int8": deployed.onnx_int8,
    "c99": deployed.c99,
    "c-int8": deployed.c_int8,
}
DEPLOYED = [key for key, function in COLUMNS.items() if getattr(function, "__module__", "") == deployed.__name__]


def refusal(name: str, column: str) -> str | None:
    """The sentence that refuses a cell of the table, or None where it works."""
    sentence: str | None = TABLE["refused"].get(name, {}).get(column)
    return sentence


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("name", networks.NAMES)
def test_a_cell_of_the_table(name, column):
    sentence = refusal(name, column)
    if sentence is None:
        COLUMNS[column](name)
    else:
        with pytest.raises(InputError) as caught:
            COLUMNS[column](name)
        assert str(caught.value) == sentence


@pytest.mark.long
@pytest.mark.parametrize("column", DEPLOYED)
@pytest.mark.parametrize("name", networks.NAMES)
def test_a_cell_at_full_size(name, column):
    if refusal(name, column) is None:
        COLUMNS[column](name, full=True)
    else:
        with pytest.raises(InputError):
            COLUMNS[column](name, full=True)


def test_the_table_is_about_these_networks_and_columns():
    assert list(TABLE["networks"]) == list(networks.NAMES) == list(networks.cases().NETS)
    assert list(TABLE["columns"]) == list(COLUMNS)
    for name, refused in TABLE["refused"].items():
        assert name in networks.NAMES and set(refused) <= set(COLUMNS)
        for sentence in refused.values():
            assert "\n" not in sentence and sentence.endswith("."), sentence
            assert re.search(r"\b(use|export|keep|take|rewrite|leave|exclude|untie)\b", sentence), "says what to do"


def test_most_networks_become_c():
    assert sum(refusal(name, "c99") is None for name in networks.NAMES) >= 15
