"""The notebook in examples/ runs from its first cell to its last in a real kernel, as a person would run it."""

from __future__ import annotations

import nbformat
from nbclient import NotebookClient

from tests.conftest import ROOT


def texts(cell):
    """What a cell printed or gave, as plain text."""
    found = [output.get("text") or output.get("data", {}).get("text/plain", "") for output in cell.outputs]
    return "\n".join(found)


def test_every_cell_runs_and_shows_what_its_text_promises(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("TTQ_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(ROOT / "examples" / "notebook.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "outputs are not committed"
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert not any("ipywidgets" in texts(cell) for cell in notebook.cells if cell.cell_type == "code")
    _, train, compress, search, best, optuna = (cell for cell in notebook.cells if cell.cell_type == "code")
    score, origin = texts(train).strip().splitlines()[-1].split(", ")
    assert float(score) > 0.9 and origin == "trained now"
    assert "% zeros" in texts(compress) and "J a mult-add" in texts(compress)
    assert "test_balanced_accuracy" in texts(best)
    shown = search.outputs[-1]["data"]["text/html"]
    assert "data:image/png;base64," in shown and "balanced_accuracy" in shown
    assert "tensor([-1.,  0.,  1.])" in texts(best) and ".html" in texts(best)
    assert int(texts(optuna).strip().splitlines()[-1]) >= 1
    assert (tmp_path / "mlflow_runs" / "mlflow.db").is_file()
