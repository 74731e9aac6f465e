"""Headless Chromium for the tests of pages, and by hand a screenshot of a study for the README.

python -m tests.tracking.browser STORE STUDY PICTURE
"""

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.tracking.study import free_port, require

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --window-size=1600,1400 "
    "--use-angle=swiftshader --enable-unsafe-swiftshader "  # WebGL without a graphics card
    # A mouse, as a person has: without one, Plotly's tools always lie over the charts.
    "--blink-settings=primaryHoverType=2,availableHoverTypes=2,primaryPointerType=4,availablePointerTypes=4"
)
POINTS = "return [...document.querySelectorAll('.scatterlayer .point')].map(p => getComputedStyle(p).fill)"


@contextmanager
def open_browser() -> Iterator:
    chromium, driver = require("/usr/bin/chromium"), require("/usr/bin/chromedriver")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
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

    return WebDriverWait(browser, 120).until(condition)


def close_assistant(browser, url: str) -> None:
    """As a person does once per browser: MLflow then remembers it."""
    browser.get(url)
    browser.execute_script(
        "localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true');"
        "localStorage.setItem('mlflow.assistant.panelOpen_v1', 'false');"
    )


def open_page(browser, address: str) -> None:
    """A fresh page: an address that differs in its fragment only would not be loaded again."""
    browser.get("about:blank")
    browser.get(address)


def point_colours(browser, at_least: int) -> list[str] | None:
    """The fill of each point of the charts drawn so far, None while there are fewer."""
    colours = browser.execute_script(POINTS)
    return colours if len(colours) >= at_least else None


def drawn(browser, at_least: int = 1) -> list[list[float]] | None:
    """The places of the points of the first chart, as its axes count; None while there are fewer."""
    script = """const charts = [...document.querySelectorAll('.js-plotly-plot')];
        const chart = charts.find(c => c.data?.[0]?.type == 'scatter');
        return chart ? chart.data.flatMap(t => Array.from(t.x, (x, i) => [x, t.y[i]])) : []"""
    points = browser.execute_script(script)
    return points if len(points) >= at_least else None


def _screenshot(store: Path, study: str, picture: Path) -> None:
    from ttq_plugin.tracking import Store, ui

    opened, port = Store(store), free_port()
    process = ui.start(opened, port=port)
    try:
        url = f"http://127.0.0.1:{port}"
        ui.wait_ready(url, process=process)
        with open_browser() as browser:
            close_assistant(browser, url)
            browser.set_window_size(1600, 1150)
            found = opened.client.get_experiment_by_name(study)
            open_page(browser, f"{url}/#/experiments/{found.experiment_id}")
            wait(browser, lambda window: point_colours(window, at_least=20))
            browser.save_screenshot(str(picture))
    finally:
        ui.stop(process)


if __name__ == "__main__":
    _screenshot(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
