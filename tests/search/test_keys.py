"""The names of user attributes stand in databases that people keep, and in one module of the package."""

import re
from pathlib import Path

import ttq_plugin
from ttq_plugin.search import keys

# What databases of earlier versions hold; add a name here when you add one there, and never change one.
KEPT = {
    "seed", "task", "space", "objectives", "inputs", "weights", "fingerprint", "full_precision", "release", "heartbeat",
    "models", "trials", "until", "stopped", "losses", "confirmed", "origin", "grid", "member", "parameters", "worker",
    "started", "metrics", "notes", "parts", "curves", "looks", "seconds", "saved", "reason", "diverged",
}  # fmt: skip

LITERAL = re.compile(r"(?:user_attrs(?:\.get)?|set_(?:trial_|study_)?user_attr)\s*[\[(]\s*[fr]?[\"']")


def test_names_never_change():
    names = [value for name, value in vars(keys).items() if name.isupper()]
    assert sorted(names) == sorted(KEPT)  # a list on the left: two names for one attribute are found, too


def test_attributes_are_named_by_one_module():
    package = Path(ttq_plugin.__file__).parent
    own = [str(path) for path in sorted(package.rglob("*.py")) if LITERAL.search(path.read_text())]
    assert own == []
    assert LITERAL.search("trial.user_attrs.get('seed')") and LITERAL.search('set_user_attr("seed", 1)')
