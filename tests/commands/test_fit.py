"""`ttq fit`: a budget in, C code and a page out; and what is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from ttq_plugin import InputError, cli
from ttq_plugin.commands.fit import Asked, _nothing_fits, bytes_of
from ttq_plugin.commands.search import Asked as Search
from ttq_plugin.tasks import get_task
from ttq_plugin.tracking.records import TrialRecord

SPACE = """
task: mnist-cnn
objectives: [mcc, cr_gain_total]
trials: 2
parameters: {lr: {low: 1.0e-3, high: 4.0e-3, log: true}, lr_scale: 1.0e-3, lr_threshold: 1.0e-3, epochs: 1, share: 1.0}
methods:
  pttq: {t_min: {low: 0.7, high: 1.5}, t_max: 1.0, alpha: 10.0}
"""


def words(tmp_path, **options):
    (tmp_path / "space.yaml").write_text(SPACE)
    given = {"flash": "8k", "ram": "2k", "floor": 0.5, "space": tmp_path / "space.yaml", "out": tmp_path / "device"}
    given |= {"workers": 1, "store": tmp_path / "store", **options}
    return ["fit", "mnist-cnn", *(str(word) for key, value in given.items() for word in (f"--{key}", value))]


@pytest.mark.service
def test_a_budget_becomes_firmware(tmp_path, cache):
    """It fits, the test program passes, and the page has the scores, the sizes and the command."""
    result = CliRunner().invoke(cli.cli, [*words(tmp_path, cache=cache), "--json"], catch_exceptions=False)
    assert result.exit_code == 0
    value = json.loads(result.stdout[result.stdout.index("{") :])
    assert max(value["flash"].values()) <= 8192 and value["ram"] <= 2048 and value["mcc"] >= 0.5
    assert [seed["seed"] for seed in value["seeds"]] == [0, 1, 2] and value["seeds"][0]["mcc"] == value["mcc"]
    assert value["seeds"][0]["flash"] == value["flash"]["cortex-m0"]
    folder = tmp_path / "device"
    assert sorted(path.name for path in folder.iterdir()) == ["model.c", "model.h", "model_test.c", "report.md"]
    compiler = shutil.which("gcc") or pytest.fail("gcc is missing; .ci/run says which Debian package has it")
    strict = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-Wconversion", "-O2"]
    program = tmp_path / "test"
    subprocess.run([compiler, *strict, "-o", program, folder / "model.c", folder / "model_test.c"], check=True)
    subprocess.run([program], check=True)
    text = (folder / "report.md").read_text()
    assert f"| memory | {value['ram']} | 2048 |" in text and "95 % interval" in text and "with 2 other seeds" in text


def test_budgets_below_what_code_alone_needs(tmp_path):
    for option, message in (("flash", r"--flash must be at least \d+ bytes, .*, got 1024"), ("ram", "--ram must be")):
        with pytest.raises(InputError, match=message):
            CliRunner().invoke(
                cli.cli, words(tmp_path, **{option: "1k" if option == "flash" else "100"}), catch_exceptions=False
            )
    assert not (tmp_path / "device").exists() and not (tmp_path / "store").exists()


def test_a_folder_that_holds_something_is_left_alone(tmp_path):
    (tmp_path / "device").mkdir()
    (tmp_path / "device" / "mine").write_text("kept")
    with pytest.raises(InputError, match="--out must name a new or empty folder"):
        CliRunner().invoke(cli.cli, words(tmp_path), catch_exceptions=False)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("text", "number"), [("64k", 65536), ("1M", 1 << 20), ("1.5k", 1536), ("900", 900), ("2KiB", 2048)]
)
def test_budgets_are_read(text, number):
    assert bytes_of(text) == number


@pytest.mark.parametrize("text", ["", "0", "-3k", "64 kilo", "k", "nan"])
def test_budgets_that_are_none(text):
    with pytest.raises(InputError, match="a budget must be a number of bytes above 0 such as 65536 or 64k"):
        bytes_of(text)


def test_what_would_make_the_nearest_fit():
    """The nearest is the one that exceeds its limits by the smallest shares, all added up."""

    def record(number, mcc, flash, ram, *violated):
        numbers = {"mcc": mcc, "flash": flash, "ram": ram}
        return TrialRecord(number, "complete", {}, numbers, "search", 0, 0.0, 0.0, violated=list(violated))

    asked = Asked("mnist-cnn", 4000, 1000, 0.9, Path(), None, 0, "model", Search())
    records = [record(0, 0.95, 8000, 900, "flash <= 4000"), record(1, 0.89, 4400, 900, "flash <= 4000", "mcc >= 0.9")]
    with pytest.raises(SystemExit) as found:
        _nothing_fits(asked, records, get_task("mnist-cnn"))
    assert str(found.value) == (
        "No network fits: the closest is trial 1 with MCC 0.89, 4400 bytes of flash and 900 of memory; it would fit "
        "with --flash 4400 and --floor 0.89, or more --trials."
    )
