"""Optuna's dashboard on our storage, asked over HTTP."""

import contextlib
import json
import threading
import urllib.request
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pytest

from tests.search.study.test_early import changed, records, search
from ttq_plugin.tracking.records import front

optuna_dashboard = pytest.importorskip("optuna_dashboard")


class Silent(WSGIRequestHandler):
    def log_message(self, *_):
        pass


@contextlib.contextmanager
def served(storage):
    """Answers of a dashboard on loopback."""
    server = make_server("127.0.0.1", 0, optuna_dashboard.wsgi(storage), handler_class=Silent)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()

    def ask(path):
        with urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/api/{path}", timeout=60) as answer:
            return json.load(answer)

    try:
        yield ask
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def shown(storage):
    """The only study of a database, as the dashboard's page gets it."""
    with served(storage) as ask:
        (listed,) = ask("studies")["study_summaries"]
        return ask(f"studies/{listed['study_id']}")


def test_the_dashboard_shows_objectives_by_name_and_the_front(space_text, storage):
    space = changed(space_text, stop_early={"halving": {}})
    search(space, storage, trials=14, data="fraction")
    study = shown(storage)
    assert study["name"] == "s"
    assert study["objective_names"] == ["mcc", "cr_gain_total", "ec_gain_total"]
    assert study["directions"] == ["maximize"] * 3
    found = records(storage)
    assert {trial["number"] for trial in study["best_trials"]} == front(found, space.objectives)
    states = {"complete": "Complete", "pruned": "Pruned"}
    assert [trial["state"] for trial in study["trials"]] == [states[record.state] for record in found]
    for trial, record in zip(study["trials"], found, strict=True):
        if record.state == "complete":
            assert trial["values"] == [pytest.approx(record.metrics[name]) for name in space.objectives]


def test_an_error_is_named_as_the_number_that_optuna_maximises(space_text, storage):
    space = changed(space_text, metric="rmse", objectives=["rmse", "cr_gain_total"])
    search(space, storage, trials=2, data="rmse")
    study = shown(storage)
    assert study["objective_names"] == ["1 / (1 + rmse)", "cr_gain_total"]
    rmse = records(storage)[0].metrics["rmse"]
    assert study["trials"][0]["values"][0] == pytest.approx(1 / (1 + rmse))
