"""What a person sees: MLflow's saved views are internal to it, so a real browser has to confirm them."""

import io
import os
import re
from pathlib import Path

import matplotlib.image
import numpy
import pytest

from ttq_plugin.tracking import front
from ttq_plugin.tracking.pictures.window import beyond

from .browser import close_assistant, drawn, open_page, point_colours, wait
from .study import FULL_PRECISION, OBJECTIVES

pytestmark = pytest.mark.service

RED, GREY, BLACK = "rgb(214, 39, 40)", "rgb(184, 188, 194)", "rgb(17, 17, 17)"
PERCENT = ["MCC percent", "compression gain percent", "energy gain percent"]


@pytest.fixture(scope="module", autouse=True)
def _no_assistant(served, browser):
    close_assistant(browser, served.url)


def show(browser, served, recorder=None, **view):
    open_page(browser, (recorder or served.recorder).link("127.0.0.1", served.port, **view))


def text(browser):
    return browser.find_element("tag name", "body").text


def near(served):
    """What the front's view shows: complete trials for which the panels of a picture have room."""
    away = beyond(served.records, front(served.records, OBJECTIVES), OBJECTIVES, "mcc", FULL_PRECISION)
    return [r for r in served.records if r.state == "complete" and r.number not in away]


def percent(record, x="mcc", y="cr_gain_total"):
    return [round(100 * record.metrics[name], 2) for name in (x, y)]


@pytest.fixture(params=[1280, 1920])
def wide(browser, request):
    before = browser.get_window_size()
    browser.set_window_size(request.param, 1200)
    yield request.param
    browser.set_window_size(before["width"], before["height"])


def test_the_link_opens_charts_with_the_front_in_red_and_full_precision_in_black(served, browser, wide, tmp_path):
    show(browser, served)
    complete = near(served)
    assert len(complete) == 23  # one is far off, one failed
    # The full-precision model is in the first chart alone: at no gain, it would squeeze the front in the others.
    colours = wait(browser, lambda window: point_colours(window, at_least=2 * len(complete) + 1))
    members = len(front(served.records, OBJECTIVES))
    # Charts below the fold are drawn once they are scrolled to; every one drawn must agree.
    charts = len(colours) // len(complete)
    assert colours.count(RED) == charts * members
    assert colours.count(GREY) == charts * (len(complete) - members)
    assert colours.count(BLACK) == 1
    places = wait(browser, lambda window: drawn(window, at_least=len(complete) + 1))
    assert sorted(places) == sorted([*map(percent, complete), [98.71, 0]])
    for words in ("MCC percent vs. compression gain percent", "MCC percent vs. energy gain percent"):
        assert words in text(browser) or wide == 1280  # where MLflow cuts a chart's heading, not its axes
    titles = {title.text for title in browser.find_elements("css selector", ".js-plotly-plot .g-xtitle, .g-ytitle")}
    assert {"MCC percent", "compression gain percent", "energy gain percent"} <= titles
    failed = sum(record.state == "failed" for record in served.records)
    assert f"{len(complete) + failed + 1} matching runs" in text(browser)
    # Kept where a person, or CI, asks for it.
    picture = Path(os.environ.get("TTQ_SCREENSHOTS", tmp_path)) / "mlflow.png"
    picture.write_bytes(browser.get_screenshot_as_png())
    pixels = matplotlib.image.imread(io.BytesIO(picture.read_bytes()))
    red = abs(pixels[..., :3] * 255 - numpy.array((214, 39, 40))).max(axis=-1) < 12
    assert red.sum() > 500


@pytest.mark.parametrize("way", ["address", "list"])
def test_an_experiment_opened_without_the_link_shows_its_front(served, browser, way):
    complete = near(served)
    open_page(browser, f"{served.url}/#/experiments{'' if way == 'list' else f'/{served.recorder.experiment_id}'}")
    if way == "list":
        wait(browser, lambda window: window.find_elements("link text", served.recorder.study_name))[0].click()
    places = wait(browser, lambda window: drawn(window, at_least=len(complete) + 1))
    assert sorted(places) == sorted([*map(percent, complete), [98.71, 0]])
    assert "shared view" not in text(browser)


@pytest.mark.parametrize(("by", "colours"), [("study", [RED, "rgb(31, 95, 168)"]), ("method", None)])
def test_the_fronts_of_several_studies_stand_side_by_side(served, browser, by, colours):
    open_page(browser, f"{served.url}/{served.fronts.replace('by-study', f'by-{by}')}")
    members = [record for record in served.records if record.number in front(served.records, OBJECTIVES)]
    shown = len(members) + 11 + 1  # two studies, and one's full precision
    places = wait(browser, lambda window: drawn(window, at_least=shown))
    assert len(places) == shown and all(percent(record) in places for record in members)
    found = wait(browser, lambda window: point_colours(window, at_least=shown))
    charts = len(found) // (shown - 1)
    counts = {colour: found.count(colour) for colour in set(found)}
    if colours:
        assert counts == {colours[0]: charts * len(members), colours[1]: charts * 11, BLACK: 1}
    else:
        assert sorted(counts.values()) == [1, charts * (len(members) + 11)]  # both studies have but one method
    assert f"#{members[0].number} ({served.recorder.study_name})" in browser.page_source


def test_a_members_page_says_what_it_is_and_how_to_make_it_again(served, browser):
    number = min(front(served.records, OBJECTIVES))
    run = served.recorder.run_of(number)
    open_page(browser, f"{served.url}/#/experiments/{served.recorder.experiment_id}/runs/{run}")
    wait(browser, lambda window: "This command makes the model again" in text(window))
    assert f"Trial {number}" in text(browser) and f"ttq compress {number}" in text(browser)
    assert "on validation data (full precision 98.71 %)" in text(browser) and "% zeros, MCC" in text(browser)


def test_more_trials_than_a_page_still_open_at_the_front(served, browser):
    """MLflow loads a hundred runs; sorted by MCC alone, ten of these eleven members would not be among them."""
    show(browser, served, served.many)
    wait(browser, lambda window: "100 matching runs" in text(window))
    colours = wait(browser, lambda window: point_colours(window, at_least=200))
    assert colours.count(RED) == len(colours) // 100 * 11
    assert "Load more" in text(browser)


def test_the_parallel_coordinates_are_drawn(served, browser):
    show(browser, served)
    title = wait(browser, lambda window: window.find_elements("xpath", "//*[text()='Parallel Coordinates']"))[0]
    browser.execute_script("arguments[0].scrollIntoView()", title)
    axes = wait(browser, lambda window: [e.text for e in window.find_elements("css selector", ".parcoords .label")])
    assert set(axes) == {"t_min", *PERCENT}


def test_a_pair_of_objectives_is_one_chart(served, browser):
    show(browser, served, view="cr_gain_total-ec_gain_total")
    complete = len(near(served))
    colours = wait(browser, lambda window: point_colours(window, at_least=complete))
    assert len(colours) == complete and "compression gain percent vs. energy gain percent" in text(browser)
    assert "MCC percent vs." not in text(browser)


def heads(browser):
    found = browser.find_elements("css selector", ".ag-header-cell")
    # The order on the page, which is not that of the document.
    return [head.text for head in sorted(found, key=lambda head: head.location["x"])]


def test_the_table_lists_the_objectives(served, browser):
    show(browser, served, view="front-only", mode="TABLE")
    members = len(front(served.records, OBJECTIVES))
    wait(browser, lambda window: f"{members + 1} matching runs" in text(window))
    assert [name for name in heads(browser) if name in {*PERCENT, "method"}] == [*PERCENT, "method"]


def test_headings_are_whole_and_a_charts_tools_leave_the_points_free(served, browser, wide):
    show(browser, served, view="front-only", mode="TABLE")
    wait(browser, lambda window: len(heads(window)) > 5)
    script = """return [...document.querySelectorAll('.ag-header-cell')].map(cell => [
        cell.innerText.replaceAll('\\n', ' ').trim(),
        Math.max(0, ...[...cell.querySelectorAll('span')].map(e => e.getBoundingClientRect().right)) -
            cell.getBoundingClientRect().right,
        Math.max(0, ...[...cell.querySelectorAll('span')].map(e => e.getBoundingClientRect().height)) -
            cell.getBoundingClientRect().height])"""
    found = {words: (over, high) for words, over, high in browser.execute_script(script)}
    assert {*PERCENT, "kB as coordinates"} <= found.keys()
    assert all(over <= 0 and high <= 0 for over, high in found.values()), found
    show(browser, served)
    wait(browser, lambda window: drawn(window, at_least=2))
    script = """const chart = document.querySelector('.js-plotly-plot'), box = e => e.getBoundingClientRect();
        return box(chart.querySelector('.modebar')).top - box(chart.querySelector('.xy')).bottom"""
    assert browser.execute_script(script) >= 0


def test_all_trials_are_listed_the_front_on_top(served, browser):
    show(browser, served, view="all-trials", mode="TABLE")
    wait(browser, lambda window: f"{len(served.records)} matching runs" in text(window))
    members = front(served.records, OBJECTIVES)
    rows = wait(browser, lambda window: listed(window, at_least=len(members)))
    assert {rows[index] for index in range(len(members))} == members


def listed(browser, at_least):
    """The trial of each row of the table, None while fewer rows are drawn."""
    script = "return [...document.querySelectorAll('[role=row]')].map(r => [r.getAttribute('row-index'), r.innerText])"
    # A row has two elements there, and its name is in one of them.
    found = [(at, re.search(r"#(\d+)", words)) for at, words in browser.execute_script(script) if at]
    numbers = {int(at): int(match[1]) for at, match in found if match}
    return numbers if len(numbers) >= at_least else None
