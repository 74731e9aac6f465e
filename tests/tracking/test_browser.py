"""What a person sees: MLflow's saved views are internal to it, so a real browser has to confirm them."""

import io
import tempfile

import matplotlib.image
import numpy
import pytest

from ttq_plugin.tracking import front

from .study import OBJECTIVES, require

pytestmark = pytest.mark.service

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --window-size=1600,1400"
)


@pytest.fixture(scope="module")
def browser():
    chromium, driver = require("/usr/bin/chromium"), require("/usr/bin/chromedriver")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        for flag in [*FLAGS.split(), f"--user-data-dir={profile}"]:
            options.add_argument(flag)
        window = webdriver.Chrome(options=options, service=Service(driver))
        try:
            yield window
        finally:
            window.quit()


def wait(browser, condition):
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, 40).until(condition)


def test_the_link_opens_charts_with_the_front_in_red(served, browser):
    browser.get(served.recorder.link("127.0.0.1", served.port))
    complete = sum(record.state == "complete" for record in served.records)
    colours = wait(browser, lambda window: _point_colours(window, at_least=2 * complete))
    members = len(front(served.records, OBJECTIVES))
    # Charts below the fold are drawn once they are scrolled to; every one drawn must agree.
    charts = len(colours) // complete
    assert colours.count("rgb(214, 39, 40)") == charts * members
    assert colours.count("rgb(184, 188, 194)") == charts * (complete - members)
    text = browser.find_element("tag name", "body").text
    assert "mcc vs. cr_gain_total" in text
    assert "mcc vs. ec_gain_total" in text
    assert f"{len(served.records)} matching runs" in text
    pixels = matplotlib.image.imread(io.BytesIO(browser.get_screenshot_as_png()))
    red = abs(pixels[..., :3] * 255 - numpy.array((214, 39, 40))).max(axis=-1) < 12
    assert red.sum() > 500


def test_the_parallel_coordinates_are_drawn(served, browser):
    browser.get("about:blank")
    browser.get(served.recorder.link("127.0.0.1", served.port))
    title = wait(browser, lambda window: window.find_elements("xpath", "//*[text()='Parallel Coordinates']"))[0]
    browser.execute_script("arguments[0].scrollIntoView()", title)
    axes = wait(browser, lambda window: [e.text for e in window.find_elements("css selector", ".parcoords .label")])
    assert set(axes) == {"t_min", *OBJECTIVES}


def test_the_table_lists_the_objectives(served, browser):
    browser.get("about:blank")
    browser.get(served.recorder.link("127.0.0.1", served.port, view="front-only", mode="TABLE"))
    members = len(front(served.records, OBJECTIVES))
    wait(browser, lambda window: f"{members} matching runs" in window.find_element("tag name", "body").text)
    heads = browser.find_elements("css selector", ".ag-header-cell")
    # The order on the page, which is not that of the document.
    names = [head.text for head in sorted(heads, key=lambda head: head.location["x"])]
    assert [name for name in names if name in {*OBJECTIVES, "method"}] == [*OBJECTIVES, "method"]


def _point_colours(browser, at_least):
    script = """return [...document.querySelectorAll('.scatterlayer .point')].map(p => getComputedStyle(p).fill)"""
    colours = browser.execute_script(script)
    return colours if len(colours) >= at_least else None
