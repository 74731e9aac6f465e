"""`ttq search --give-up KEY=NUMBER`: each key of the space's give_up, and what is refused in a sentence."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from ttq_plugin import InputError, cli
from ttq_plugin.commands import search
from ttq_plugin.search.space.load import load_space
from ttq_plugin.search.space.stopping import GiveUp


def asked(monkeypatch, *limits):
    """The space that the command line asks for."""
    kept = []
    monkeypatch.setattr(search, "search", kept.append)
    words = ["search", "mnist-cnn", *(word for limit in limits for word in ("--give-up", limit))]
    assert CliRunner().invoke(cli.cli, words, catch_exceptions=False).exit_code == 0
    return load_space("mnist-cnn", kept[0].changes), kept[0]


@pytest.mark.parametrize(
    ("limits", "found"),
    [
        ((), GiveUp()),
        (("attempts=1",), GiveUp(attempts=1)),
        (("alike=2", "crashes=7"), GiveUp(alike=2, crashes=7)),
        (("patience=0",), GiveUp(patience=0)),
        (("patience=0.25", "attempts=2"), GiveUp(patience=0.25, attempts=2)),
        (("patience=1e3", "attempts=4.0"), GiveUp(patience=1000, attempts=4)),
    ],
)
def test_what_is_asked_for_is_searched_and_asked_for_again(monkeypatch, limits, found):
    space, given = asked(monkeypatch, *limits)
    assert space.give_up == found and type(space.give_up.attempts) is int
    opened = search.Opened(given, space, "s", "sqlite:///x.db", "store", 0, [], 3)
    again = opened.again.split()
    named = [again[at + 1] for at, word in enumerate(again) if word == "--give-up"]
    assert asked(monkeypatch, *named)[0].give_up == found


@pytest.mark.parametrize(
    ("limits", "told"),
    [
        *(((text,), f"--give-up must be KEY=NUMBER, with a key among attempts, alike, crashes, patience, got {text!r}")
          for text in ("attempts", "attempts=", "attempts=many", "attempts=nan", "patience=inf", "attempts=1=2",
                       "patience=1e999", "attempts=0x3", "", "=", "attempts:3", "attempts=3 alike=2")),
        (("attempt=3",), "unknown key 'attempt' (did you mean attempts?), allowed: attempts, alike, crashes, patience"),
        (("=3",), "unknown key '', allowed: attempts, alike, crashes, patience"),
        (("[red]=3",), "unknown key '[red]', allowed: attempts"),
        (("attempts=0",), "give_up.attempts"),
        (("attempts=-1",), "give_up.attempts"),
        (("attempts=1.5",), "give_up.attempts"),
        (("alike=1",), "give_up.alike"),
        (("crashes=0",), "give_up.crashes"),
        (("patience=-0.1",), "give_up.patience"),
        (("attempts=2", "attempts=3"), "--give-up must name a key once, got 'attempts' 2 times"),
        (("attempts=2", "attempts=2"), "--give-up must name a key once, got 'attempts' 2 times"),
    ],
)  # fmt: skip
def test_what_is_no_limit_is_refused_in_a_sentence(monkeypatch, limits, told):
    with pytest.raises(InputError) as caught:
        asked(monkeypatch, *limits)
    assert told in str(caught.value) and len(str(caught.value).splitlines()) == 1
