"""Fronts side by side: numbers by hand, the run in a real store, its link in a real browser."""

import html
import json
import subprocess
import sys

import pytest

from tests.support.hostile import typed
from tests.tracking.browser import open_page, wait
from tests.tracking.studies import fill_study
from tests.tracking.study import make_trial
from ttq_plugin.errors import InputError
from ttq_plugin.statistics.noninferiority import corrected_t, holm, p_inferior
from ttq_plugin.statistics.resampling import Interval
from ttq_plugin.support.names import metric_key
from ttq_plugin.tracking.comparison import MemberOnTest, compare_fronts, with_tests
from ttq_plugin.tracking.runs.comparison import describe, record_comparison
from ttq_plugin.tracking.words import again_in_numbers, again_in_words

ODD = "odd: $x$ | <b> %"
PAIR = ("mcc", "cr_gain_total")


def trials(*vectors, names=PAIR):
    return [make_trial(n, dict(zip(names, vector, strict=True))) for n, vector in enumerate(vectors)]


@pytest.fixture
def studies():
    high = trials((0.9, 0.5), (0.8, 0.8), (0.7, 0.7))
    low = trials((0.9, 0.5), (0.85, 0.6), (0.5, 0.7)) + [make_trial(9, state="failed", reason="broken")]
    low.append(make_trial(10, {"mcc": 0.99, "cr_gain_total": 0.99}, violated=["bits_disk <= 1000"]))  # does not count
    return {"high": high, "low": low}


def test_numbers_known_by_hand(studies):
    found = compare_fronts(studies, PAIR, [0.85, 0.95])
    assert found.fronts == {"high": [(0.9, 0.5), (0.8, 0.8)], "low": [(0.9, 0.5), (0.85, 0.6), (0.5, 0.7)]}
    assert found.trials == {"high": 3, "low": 3}
    assert found.hypervolumes["high"] == pytest.approx(0.9 * 0.5 + 0.8 * 0.3)
    assert found.hypervolumes["low"] == pytest.approx(0.9 * 0.5 + 0.85 * 0.1 + 0.5 * 0.1)
    assert found.together == pytest.approx(0.9 * 0.5 + 0.85 * 0.1 + 0.8 * 0.2)
    assert found.coverages == {"high": {"low": 2 / 3}, "low": {"high": 0.5}}
    assert found.attainment == {
        0.85: {"high": {"cr_gain_total": 0.5}, "low": {"cr_gain_total": 0.6}},
        0.95: {"high": {"cr_gain_total": None}, "low": {"cr_gain_total": None}},
    }
    assert list(compare_fronts(studies, PAIR).attainment) == [0.89, 0.88, 0.85]
    assert "| compression gain CR_G^T (%) at MCC >= 95 % | none | none |" in html.unescape(describe(found))


def made(value, error=0.001, grain=0.0):
    return Interval(value, error, value - 2 * error, value + 2 * error, 10, True, grain=grain)


def test_the_tests_of_all_members_are_corrected_together(studies):
    changes = {"high": {0: made(0.0), 1: made(-0.008)}, "low": {0: made(0.002), 1: made(0.001), 2: made(-0.3)}}
    single = {(n, k): p_inferior(c, 0.01) for n, own in changes.items() for k, c in own.items()}
    adjusted = dict(zip(single, holm(list(single.values())), strict=True))
    evidence = {n: {k: {"test_mcc": 0.9 + c.value} for k, c in own.items()} for n, own in changes.items()}
    plain = compare_fronts(studies, PAIR, [0.85])
    found = with_tests(plain, studies, evidence, changes, 0.01)
    assert found.tests["high"] == MemberOnTest(0, 0.9, None, None, changes["high"][0], adjusted["high", 0], 0.5)
    assert adjusted["high", 1] > 0.05 > single["high", 1], "alone it would be proven"
    assert found.proven["high"].trial == 0 and found.proven["low"].trial == 1  # 1 has the larger gain of the two
    table = html.unescape(describe(found))
    assert "| most accurate member: test MCC (%) | 90.00 | 90.20 |" in table
    assert "| best compression gain CR_G^T (%) proven within 1 point of full precision | 50.00 (trial 0) |" in table
    assert "| its change from full precision (points) | +0 (-0.2 to +0.2) | +0.2 (+0 to +0.4) |" in table
    again = {"low": {0: corrected_t([-0.01, -0.03], 0.5).to_dict(), 2: made(0.5).to_dict()}}
    more = with_tests(plain, studies, evidence, changes, 0.01, again)
    assert more.tests["low"].trial == 0 and more.tests["high"].again is None and "over other seeds" not in table
    told = html.unescape(describe(more))
    # Two values 0.02 apart: a standard deviation of 0.02 / sqrt 2, times sqrt(1/2 + 1), times 12.706.
    assert "| its change over other seeds, on validation data (points) |  | -2 (-24 to +20) |" in told
    assert again_in_words(again["low"][0], "mcc").startswith("-2 points (95 % interval -24 to +20 over 2 seeds")
    assert again_in_words(None, "mcc") == "" and again_in_numbers(None, "mcc") == {}
    numbers = again_in_numbers(again["low"][0], "mcc")
    assert numbers["mcc_change_confirmed"] == pytest.approx(-0.02) and len(numbers) == 3
    assert with_tests(plain, studies, {}, {}, 0.01).proven == {}
    assert "proven" not in describe(with_tests(plain, studies, evidence, changes, None))
    with pytest.raises(InputError, match="margin must be above 0"):
        with_tests(plain, studies, evidence, changes, 0.0)


def test_it_is_a_run_of_its_own(store, studies, tmp_path):
    studies |= {ODD: studies["low"], "all": studies["low"]}
    link = record_comparison(store, compare_fronts(studies, PAIR), {"task": "mnist-cnn"})
    experiment = store.client.get_experiment_by_name("comparisons")
    [run] = store.client.search_runs([experiment.experiment_id])
    assert link == f"#/experiments/{experiment.experiment_id}/runs/{run.info.run_id}/artifacts/fronts.png"
    assert run.info.status == "FINISHED" and run.data.tags["role"] == "comparison"
    assert run.data.metrics == pytest.approx(
        dict.fromkeys(("hypervolume/low", "hypervolume/all", f"hypervolume/{metric_key(ODD)}"), 0.585)
        | {"hypervolume/high": 0.69, "hypervolume_together": 0.695}
    )
    picture = store.client.download_artifacts(run.info.run_id, "fronts.png", str(tmp_path))
    with open(picture, "rb") as file:
        assert file.read(8) == b"\x89PNG\r\n\x1a\n"
    numbers = json.loads(
        open(store.client.download_artifacts(run.info.run_id, "comparison.json", str(tmp_path))).read()
    )
    assert numbers["hypervolumes"]["high"] == pytest.approx(0.69)


@pytest.mark.service
def test_its_link_opens_the_picture(served, browser, studies):
    link = record_comparison(served.store, compare_fronts(studies, PAIR), {"task": "mnist-cnn"})
    open_page(browser, f"{served.url}/{link}")
    wide = "return Math.max(0, ...[...document.querySelectorAll('img')].map(i => i.naturalWidth))"
    wait(browser, lambda window: window.execute_script(wide) == 750)  # one panel
    assert "high against low" in browser.find_element("tag name", "body").text


def ttq(*arguments, cwd):
    command = [sys.executable, "-m", "ttq_plugin.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=300)


def test_the_command(store, tmp_path, monkeypatch, capfd):
    database = store.directory / "studies.db"
    fill_study(database, "ttq", 12, methods="ttq")
    fill_study(database, "pttq", 12, methods="pttq", better=0.01)
    fill_study(database, "other", 12, methods="ttq", **{"mnist-cnn": "esr-2dcnn"})
    fill_study(database, "lonely", 12, methods="ttq", **{"[mcc, cr_gain_total, ec_gain_total]": "[srqw, mcc]"})
    fill_study(database, "pair", 12, methods="ttq", **{", ec_gain_total]": "]"})
    where = ("--store", store.directory)
    result = ttq("compare", "ttq", "pttq", "pair", *where, "--out", "p.png", "--mcc-floor", "0.9", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    for text in ("hypervolume", "covers of pttq", "compression gain CR_G^T (%) at MCC >= 90 %", "picture: p.png"):
        assert text in result.stdout
    assert "energy" not in result.stdout and (tmp_path / "p.png").is_file()
    [run] = store.client.search_runs([store.client.get_experiment_by_name("comparisons").experiment_id])
    assert f"/runs/{run.info.run_id}/artifacts/fronts.png" in result.stdout
    assert run.data.params == {"objectives": "mcc,cr_gain_total", "task": "mnist-cnn", "studies": "ttq,pttq,pair"}
    monkeypatch.chdir(tmp_path)
    for names, message in (
        (("ttq", "ttq"), "needs at least two different studies, got ttq"),
        (("ttq", "other"), "must search the same task, got ttq (mnist-cnn), other (esr-2dcnn)"),
        (("ttq", "lonely"), "must share at least two objectives"),
    ):
        told = typed(capfd, "compare", *names, *map(str, where))
        assert told.code == 2 and message in told.err and len(told.err.splitlines()) == 1
    assert len(store.client.search_runs([run.info.experiment_id])) == 1
