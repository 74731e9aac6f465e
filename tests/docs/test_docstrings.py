"""The examples in the docstrings of the exported names run and print what they say."""

from __future__ import annotations

import doctest
import importlib
import inspect

import pytest

import ttq_plugin

ELSEWHERE = {"METHODS": "ttq_plugin.core.methods", "search": "ttq_plugin.studies"}
"""Where the docstring stands of what is a dictionary, and of what is a package that can be called."""

NAMES = [name for name in ttq_plugin.__all__ if name != "__version__"]


def documented(name: str) -> object:
    if name == "search":
        return importlib.import_module(ELSEWHERE[name]).search
    return importlib.import_module(ELSEWHERE[name]) if name in ELSEWHERE else getattr(ttq_plugin, name)


@pytest.mark.parametrize("name", NAMES)
def test_an_example_runs(name, tmp_path, monkeypatch, cache):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TTQ_CACHE_DIR", str(cache))
    text = inspect.getdoc(documented(name)) or ""
    example = doctest.DocTestParser().get_doctest(text, {}, name, None, 0)
    assert example.examples, f"{name} has no example"
    told: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    result = runner.run(example, out=told.append)
    assert result.failed == 0, "".join(told)
    # The search itself, which starts processes, is run by the test of the documentation.
    assert result.attempted == len(example.examples) or name == "search"
