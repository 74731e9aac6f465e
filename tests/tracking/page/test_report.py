"""The report: its numbers by the command, its page by a real browser that opens it from the disk."""

import json
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from tests.tracking.browser import open_page, point_colours, wait
from tests.tracking.studies import fill_study
from tests.tracking.study import OBJECTIVES
from ttq_plugin.commands.report import recommended, report
from ttq_plugin.errors import InputError
from ttq_plugin.fronts import hypervolume
from ttq_plugin.search.study.importance import importances
from ttq_plugin.search.study.ledger import finished
from ttq_plugin.tracking import StudyRecorder, front
from ttq_plugin.tracking.page.figures import Point, space

HOSTILE = "a <script>alert(1)</script> & $5/100 %"


def ttq(*arguments, cwd):
    command = [sys.executable, "-m", "ttq_plugin.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=300)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A store's folder with a study of two methods, one of a single method, and one without a result."""
    folder = tmp_path_factory.mktemp("report")
    fill_study(folder / "studies.db", HOSTILE, 40)
    fill_study(folder / "studies.db", "two", 12, methods="pttq", **{", ec_gain_total]": "]"})
    fill_study(folder / "studies.db", "empty", 0)
    return folder


@pytest.fixture(scope="module")
def made(folder):
    result = ttq("report", HOSTILE, "--store", folder, "--out", folder / "page.html", "--json", cwd=folder)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def records_of(folder, name):
    from ttq_plugin.search.study.study import load_study

    return finished(load_study(f"sqlite:///{folder}/studies.db", name))


def test_the_numbers_are_those_of_the_study(folder, made):
    records = records_of(folder, HOSTILE)
    members = front(records, OBJECTIVES)
    assert set(made["front"]) == members and made["pick"]["trial"] in members
    vectors = [[r.metrics[name] for name in OBJECTIVES] for r in records if r.number in members]
    assert made["hypervolume"] == pytest.approx(hypervolume(vectors))
    assert made["importances"].keys() == {"all trials (38)", *(k for k in made["importances"] if "ttq (" in k)}
    for shares in made["importances"].values():
        for own in shares.values():
            assert sum(share for share, _ in own.values()) == pytest.approx(1)
            assert all(error >= 0 for _, error in own.values())
    # The gain is a share of the weights times a factor: nothing else may matter as much.
    gain = made["importances"]["all trials (38)"]["cr_gain_total"]
    assert max(gain, key=lambda name: gain[name][0]) == "share"


def test_the_page_shows_the_fronts_and_runs_no_script_of_a_name(folder, made, browser):
    browser.get_log("browser")  # what other pages left there
    open_page(browser, f"file://{folder}/page.html")
    wait(browser, lambda window: point_colours(window, at_least=3 * 38))
    assert browser.title == f"{HOSTILE} (mnist-cnn)" == browser.find_element("tag name", "h1").text
    colours = browser.execute_script(
        "return [...document.querySelectorAll('#pair0 .point')].map(p => getComputedStyle(p).fill)"
    )
    assert colours.count("rgb(214, 39, 40)") == len(made["front"])
    assert len(colours) == 38
    for box in ("space", "volume", "share0"):
        browser.execute_script(f"document.getElementById('{box}').scrollIntoView()")
        wait(browser, lambda window, box=box: window.find_elements("css selector", f"#{box}.js-plotly-plot"))
    wait(browser, lambda window: window.find_elements("css selector", "#space canvas"))
    assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0
    assert len(browser.find_elements("css selector", "#front tr[data-trial]")) == len(made["front"])
    assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def test_a_click_shows_the_trials_settings_and_command(folder, made, browser):
    open_page(browser, f"file://{folder}/page.html")
    wait(browser, lambda window: point_colours(window, at_least=38))
    assert browser.find_element("id", "which").text == f"Recommended: trial {made['pick']['trial']}"
    assert browser.find_element("id", "command").text == made["command"]
    hover = browser.execute_script("return document.getElementById('pair0').data[1].text[0]")
    assert "MCC (validation, %)" in hover and "share 0." in hover and "method " in hover
    other = next(number for number in made["front"] if number != made["pick"]["trial"])
    row = browser.find_element("css selector", f"tr[data-trial='{other}']")
    browser.execute_script("arguments[0].click()", row)
    assert browser.find_element("id", "which").text == f"Trial {other}"
    command = browser.find_element("id", "command").text
    [record] = [r for r in records_of(folder, HOSTILE) if r.number == other]
    assert f"--share {record.parameters['share']!r}" in command and command != made["command"]


def test_two_objectives_have_no_third_dimension_and_the_text_says_what_was_made(folder):
    result = ttq("report", "two", "--store", folder, cwd=folder)
    assert result.returncode == 0, result.stderr
    page = (folder / "reports" / "two.html").read_text()
    assert 'id="pair0"' in page and 'id="space"' not in page and 'id="pair1"' not in page
    assert "recommended: trial" in result.stdout and "ttq compress mnist-cnn --method pttq" in result.stdout
    assert "There are no test scores" in result.stderr


def test_a_floor_for_the_pick(folder, made):
    members = [record for record in records_of(folder, HOSTILE) if record.number in made["front"]]
    pick, why = recommended(members, OBJECTIVES, 0.95)
    assert pick.metrics["mcc"] >= 0.95 > made["pick"]["mcc"] and "members of the front with MCC >= 0.95" in why
    with pytest.raises(InputError, match=r"no member of the front has MCC >= 0.999; the best has 0\.9"):
        recommended(members, OBJECTIVES, 0.999)


def test_a_member_that_other_seeds_did_not_confirm_is_not_recommended(tmp_path):
    study = fill_study(tmp_path / "studies.db", "s", 20, methods="ttq")
    records = finished(study)
    members = [record for record in records if record.number in front(records, OBJECTIVES)]
    lucky, _ = recommended(members, OBJECTIVES, None)
    found = {"runs": 3, "failed": 0, "mean": [0.9, 0.5, 0.4], "low": [0.8, 0.5, 0.4], "high": [0.95, 0.5, 0.4]}
    study.set_user_attr("confirmed", {str(r.number): found | {"holds": r is not lucky} for r in members})
    report("s", str(tmp_path), None, None, tmp_path / "p.html", as_json=True)
    page = (tmp_path / "p.html").read_text()
    assert (
        "falls off with 3 other seeds (means, 95 % intervals): mcc 90.00 +- 5.00, cr_gain_total 50.00 +- 0.00" in page
    )
    assert f"Recommended: trial {lucky.number}<" not in page and "Recommended: trial " in page


def test_a_study_without_a_front_leaves_no_page(folder):
    result = ttq("report", "empty", "--store", folder, cwd=folder)
    assert result.returncode == 2 and "has no front yet" in result.stderr and len(result.stderr.splitlines()) == 1
    assert not (folder / "reports" / "empty.html").exists()


def test_too_few_trials_or_nothing_that_varies_say_nothing(tmp_path):
    assert importances(fill_study(tmp_path / "s.db", "few", 9), OBJECTIVES) == []
    constant = {
        "{low: 1.0e-4, high: 5.0e-3, log: true}": "1.0e-3",
        "{low: 1, high: 30}": "3",
        "{low: 0.3, high: 1.0}": "0.5",
        "{low: 0.02, high: 0.3}": "0.1",
    }
    assert importances(fill_study(tmp_path / "s.db", "same", 14, methods="ttq", **constant), OBJECTIVES) == []


def test_test_scores_are_taken_from_the_store(folder, store, tmp_path):
    records = records_of(folder, "two")
    recorder = StudyRecorder(store, "two", OBJECTIVES[:2])
    recorder.sync(records)
    member = max(front(records, OBJECTIVES[:2]))
    recorder.log_test(member, 0.8125)
    database = f"sqlite:///{folder}/studies.db"
    result = ttq("report", "two", "--store", store.directory, "--storage", database, "--out", "p.html", cwd=tmp_path)
    assert result.returncode == 0 and "There are no test scores" not in result.stderr
    page = (tmp_path / "p.html").read_text()
    assert "MCC (test, %): 81.25" in page and "<td>81.25</td>" in page


def test_the_command_makes_the_same_model_bit_for_bit(search, cache, tmp_path):
    """The pick of a real search, by the words that the report prints."""
    result = ttq("report", search.study, "--store", search.store, "--out", "p.html", "--json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    made = json.loads(result.stdout)
    assert f"--cache {cache}" in made["command"]
    command = made["command"].replace("ttq ", f"{sys.executable} -m ttq_plugin.cli ", 1) + " --json"
    result = subprocess.run(command, shell=True, capture_output=True, text=True, cwd=tmp_path, timeout=300)
    assert result.returncode == 0, result.stderr
    again = json.loads(result.stdout)
    for name in ("mcc", "srqw", "cr_gain_total", "ec_gain_total", "bits_entropy"):
        assert again[name] == made["pick"][name], name
    assert np.isclose(again["test_mcc"], made["pick"]["test_mcc"], rtol=1e-5)  # MLflow keeps six digits


def test_full_precision_is_a_row_and_a_line_with_sizes_in_bytes(tmp_path, monkeypatch):
    def sized(study):
        sizes = {"bits_fp32": 314880.0, "bits_base3": 16000.0}
        return [replace(record, metrics=record.metrics and record.metrics | sizes) for record in finished(study)]

    monkeypatch.setattr("ttq_plugin.commands.report.finished", sized)
    study = fill_study(tmp_path / "studies.db", "s", 8)
    study.set_user_attr("full_precision", {"score": 0.9634, "parts": {}, "classes": []})
    report("s", str(tmp_path), None, None, tmp_path / "p.html", as_json=True)
    page = (tmp_path / "p.html").read_text()
    table = page[page.index('<table id="front">') : page.index("</table>", page.index('<table id="front">'))]
    assert "<th>kB as coordinates</th><th>kB, 5 weights a byte</th>" in table
    first = table.split("</tr>")[1]
    assert first.startswith("<tr><td>full precision</td><td>96.34</td>") and first.count("<td>39.36</td>") == 2
    assert "<td>0.1542</td><td>2</td>" in table and "2 kB, 5 weights a byte" in page
    figures = json.loads(re.search(r"^const report = (.*);$", page, re.MULTILINE)[1])["figures"]
    for name, axis in (("pair0", "x"), ("pair1", "x"), ("pair2", None)):
        lines = [data for data in figures[name]["data"] if data.get("name") == "full precision"]
        assert [line["x"] for line in lines] == ([[96.34, 96.34]] if axis else [])


def test_nothing_is_written_over_the_points_and_no_heading_of_the_front_is_cut(folder, made, browser):
    open_page(browser, f"file://{folder}/page.html")
    wait(browser, lambda window: point_colours(window, at_least=38))
    below = browser.execute_script(
        "const box = document.getElementById('pair0'), at = e => e.getBoundingClientRect();"
        "return [...box.querySelectorAll('.annotation')].map(a => at(a).top - at(box.querySelector('.xy')).bottom)"
    )
    assert below and min(below) > 0, "trials that lie outside are told of below the axis"
    heads = browser.execute_script(
        "return [...document.querySelectorAll('#front th')].map(h => [h.innerText, h.scrollWidth - h.clientWidth])"
    )
    assert heads and all(over <= 0 for _, over in heads)


def test_axes_in_space_have_no_symbols_that_could_not_be_set():
    scene = space([Point(0, (90.0, 50.0, 60.0), "", True, False)], OBJECTIVES)["layout"]["scene"]
    titles = [scene[axis]["title"]["text"] for axis in ("xaxis", "yaxis", "zaxis")]
    assert titles == ["MCC (validation, %)", "compression gain (%)", "energy gain (%)"]
