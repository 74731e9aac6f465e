"""The site: it builds strictly, needs nothing from elsewhere, and says what the code says."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

import ttq_plugin
from tests.conftest import ROOT
from tests.test_methods import TOY
from ttq_plugin.methods import METHODS


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


def test_a_broken_link_fails_the_build(tmp_path):
    pages = tmp_path / "docs"
    pages.mkdir()
    (pages / "index.md").write_text("[nowhere](nowhere.md)\n")
    validation = (ROOT / "mkdocs.yml").read_text().split("\nvalidation:\n")[1]
    (tmp_path / "mkdocs.yml").write_text(f"site_name: test\nstrict: true\nvalidation:\n{validation}")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build"], cwd=tmp_path, capture_output=True, text=True, timeout=600
    )
    assert done.returncode != 0 and "nowhere.md" in done.stderr


def test_the_site_loads_nothing_from_elsewhere(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        loaded = re.findall(r'<(?:script|link|img|iframe|source)\b[^>]*?(?:src|href)="(https?:|//)', page.read_text())
        assert not loaded, page
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(@import|url\()\s*[\"']?(https?:|//)", sheet.read_text()), sheet


def test_formulas_figures_and_tables_are_filled_in(site):
    page = (site / "methods" / "index.html").read_text()
    assert page.count("<math") >= 15 and "arithmatex" not in page and "<!-- table" not in page
    assert "<svg" in (site / "figures" / "methods.svg").read_text()
    for name, row in METHODS.items():
        assert f"<code>{name}</code>" in page and row.description.split(":")[0] in page


def test_a_toy_method_is_in_the_tables(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    import tables

    assert "toy" not in tables.methods() + tables.equations()
    monkeypatch.setitem(METHODS, "toy", TOY)
    assert "A third of the largest weight." in tables.methods() and TOY.equation in tables.equations()


def test_the_reference_has_every_exported_name(site):
    text = "".join(page.read_text() for page in (site / "reference").rglob("index.html"))
    missing = [name for name in ttq_plugin.__all__ if name not in {"__version__", "METHODS"} and name not in text]
    assert missing == []
