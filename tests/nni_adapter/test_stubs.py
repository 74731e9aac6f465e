"""The types in ``stubs`` are those of the NNI that is installed: its names and arguments, written down by hand."""

import ast
import importlib
import inspect
from pathlib import Path

import pytest

STUBS = Path(__file__).parents[2] / "stubs"
FILES = [path for path in sorted(STUBS.rglob("*.pyi")) if path.stat().st_size]
OURS = {"ttq_missing", "ttq_given", "weight", "bias"}
"""Attributes that this plugin, or the wrapped layer, puts there."""


def _module(path):
    parts = path.relative_to(STUBS).with_suffix("").parts
    return importlib.import_module(".".join(part for part in parts if part != "__init__"))


def _check(owner, statement, source):
    if isinstance(statement, ast.FunctionDef):
        found = inspect.getattr_static(owner, statement.name)
        if not isinstance(found, property):
            told = [a.arg for a in (*statement.args.posonlyargs, *statement.args.args)]
            real = inspect.signature(getattr(found, "__func__", found)).parameters.values()
            plain = [p.name for p in real if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
            assert plain[: len(told)] == told, (owner, statement.name)
    elif isinstance(statement, ast.AnnAssign):
        assert statement.target.id in OURS or statement.target.id in source, (owner, statement.target.id)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(STUBS)))
def test_stubs_name_what_nni_has(path):
    module, checked = _module(path), 0
    for statement in ast.parse(path.read_text()).body:
        checked += 1
        if isinstance(statement, ast.ClassDef):
            owner = getattr(module, statement.name)
            source = "".join(inspect.getsource(kind) for kind in owner.__mro__ if kind.__module__.startswith("nni."))
            for part in statement.body:
                _check(owner, part, source)
        elif isinstance(statement, (ast.FunctionDef, ast.AnnAssign)):
            _check(module, statement, inspect.getsource(module))
    assert checked
