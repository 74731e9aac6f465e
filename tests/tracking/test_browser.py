"""What a person sees: MLflow's saved views are internal to it, so a real browser has to confirm them."""

import io
import os
import re
from pathlib import Path

import matplotlib.image
import numpy
import pytest

from ttq_plugin.tracking import front

from .browser import close_assistant, open_page, point_colours, wait
from .study import OBJECTIVES

pytestmark = pytest.mark.service

RED, GREY = "rgb(214, 39, 40)", "rgb(184, 188, 194)"


@pytest.fixture(scope="module", autouse=True)
def _no_assistant(served, browser):
    close_assistant(browser, served.url)


def show(browser, served, recorder=None, **view):
    open_page(browser, (recorder or served.recorder).link("127.0.0.1", served.port, **view))


def text(browser):
    return browser.find_element("tag name", "body").text


def test_the_link_opens_charts_with_the_front_in_red(served, browser, tmp_path):
    show(browser, served)
    complete = sum(record.state == "complete" for record in served.records)
    colours = wait(browser, lambda window: point_colours(window, at_least=2 * complete))
    members = len(front(served.records, OBJECTIVES))
    # Charts below the fold are drawn once they are scrolled to; every one drawn must agree.
    charts = len(colours) // complete
    assert colours.count(RED) == charts * members
    assert colours.count(GREY) == charts * (complete - members)
    assert "mcc vs. cr_gain_total" in text(browser)
    assert "mcc vs. ec_gain_total" in text(browser)
    assert f"{len(served.records)} matching runs" in text(browser)
    # Kept where a person, or CI, asks for it.
    picture = Path(os.environ.get("TTQ_SCREENSHOTS", tmp_path)) / "mlflow.png"
    picture.write_bytes(browser.get_screenshot_as_png())
    pixels = matplotlib.image.imread(io.BytesIO(picture.read_bytes()))
    red = abs(pixels[..., :3] * 255 - numpy.array((214, 39, 40))).max(axis=-1) < 12
    assert red.sum() > 500


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
    assert set(axes) == {"t_min", *OBJECTIVES}


def test_a_pair_of_objectives_is_one_chart(served, browser):
    show(browser, served, view="cr_gain_total-ec_gain_total")
    complete = sum(record.state == "complete" for record in served.records)
    colours = wait(browser, lambda window: point_colours(window, at_least=complete))
    assert len(colours) == complete and "cr_gain_total vs. ec_gain_total" in text(browser)
    assert "mcc vs." not in text(browser)


def heads(browser):
    found = browser.find_elements("css selector", ".ag-header-cell")
    # The order on the page, which is not that of the document.
    return [head.text for head in sorted(found, key=lambda head: head.location["x"])]


def test_the_table_lists_the_objectives(served, browser):
    show(browser, served, view="front-only", mode="TABLE")
    members = len(front(served.records, OBJECTIVES))
    wait(browser, lambda window: f"{members} matching runs" in text(window))
    assert [name for name in heads(browser) if name in {*OBJECTIVES, "method"}] == [*OBJECTIVES, "method"]


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
    found = [(at, re.search(r"trial (\d+)", words)) for at, words in browser.execute_script(script) if at]
    numbers = {int(at): int(match[1]) for at, match in found if match}
    return numbers if len(numbers) >= at_least else None
