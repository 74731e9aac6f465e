"""Commands and workers import what they need of NNI, and users' own code everything."""

from __future__ import annotations

import subprocess
import sys
from functools import partial

import pytest

from ttq_plugin.support import processes


def through(modules, function):
    """Call the function from the last of these modules, which the one before it calls, and so on."""
    for name in reversed(modules):
        space = {"__name__": name, "function": function}
        exec("def call():\n    return function()", space)
        function = space["call"]
    return function()


@pytest.mark.parametrize("modules, hidden", [
    (["own", "ttq_plugin.trial.run", "importlib._bootstrap", "nni.compression", "nni.compression.utils"], True),
    (["own", "importlib._bootstrap", "nni.compression"], False),
    (["ttq_plugin.tasks.own", "own", "nni.compression"], False),
    (["ttq_plugin.tasks.own", "own"], False),
    (["ttq_plugin.tasks.own"], False),
    (["ttq_plugin_of_mine", "nni.compression"], False),
])  # fmt: skip
def test_integrations_are_hidden_only_from_nni_and_only_where_it_is_imported_for_us(modules, hidden):
    finder = processes._Spared()
    for name in processes.INTEGRATIONS:
        if hidden:
            with pytest.raises(ImportError, match=name):
                through(modules, partial(finder.find_spec, name))
        else:
            assert through(modules, partial(finder.find_spec, name)) is None
    assert through(modules, partial(finder.find_spec, "torch")) is None


def test_a_process_of_ours_trains_without_lightning_and_transformers():
    code = (
        "import importlib.util, sys\nfrom ttq_plugin.support.processes import own_process\n"
        "own_process()\nown_process()\n"
        "import ttq_plugin.nni_adapter\nfrom nni.compression.utils import evaluator\n"
        "names = ('pytorch_lightning', 'transformers')\nassert not any(name in sys.modules for name in names)\n"
        "assert not evaluator.LIGHTNING_INSTALLED and not evaluator.TRANSFORMERS_INSTALLED\n"
        "assert all(importlib.util.find_spec(name) for name in names)  # by the user's own code they are found\n"
        "assert sum(type(finder).__module__ == 'ttq_plugin.support.processes' for finder in sys.meta_path) == 1\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
