"""Studies: made, resumed, refused; and databases that cannot be used."""

import contextlib
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import optuna
import pytest
from optuna.trial import TrialState
from sqlalchemy.exc import OperationalError

from ttq_plugin.errors import InputError
from ttq_plugin.search.crew.processes import alive, crew_of, identity
from ttq_plugin.search.space.load import parse_space
from ttq_plugin.search.study.ledger import counted, finished, losses, reclaim, running
from ttq_plugin.search.study.study import load_study, open_study, stored_space
from ttq_plugin.support.names import redact
from ttq_plugin.tasks import TASKS
from ttq_plugin.tracking import TrialRecord


def test_a_fresh_study_knows_what_it_searches_and_tries_the_papers_first(space, storage):
    open_study(storage, "s", space, resume=False)
    study = load_study(storage, "s")
    assert study.user_attrs == {
        "objectives": ["mcc", "cr_gain_total", "ec_gain_total"], "task": "mnist-cnn", "seed": 3, "space": space.text,
    }  # fmt: skip
    assert [direction.name for direction in study.directions] == ["MAXIMIZE"] * 3
    assert stored_space(study) == space
    waiting = study.get_trials(states=(TrialState.WAITING,))
    assert [trial.user_attrs["origin"] for trial in waiting] == ["paper", "paper"]
    assert [trial.system_attrs["fixed_params"] for trial in waiting] == space.enqueued()
    assert counted(study) == 0


def test_resume_needs_a_study_and_a_new_one_needs_a_free_name(space, storage):
    with pytest.raises(InputError, match="does not exist"):
        open_study(storage, "s", space, resume=True)
    open_study(storage, "s", space, resume=False)
    with pytest.raises(InputError, match="'s' already exists in sqlite:.* continue it with --resume"):
        open_study(storage, "s", space, resume=False)
    with pytest.raises(InputError, match="There is no study 'x' in sqlite:.*, which holds: s"):
        open_study(storage, "x", space, resume=True)
    with pytest.raises(InputError, match="1 to 512 characters, got 0"):
        open_study(storage, "", space, resume=False)


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("[mcc, cr_gain_total, ec_gain_total]", "[mcc, srqw]", "has the objectives mcc, cr_gain_total, ec_gain_total, "
         "but the space asks for mcc, srqw; a study keeps its objectives"),
        ("[mcc, cr_gain_total, ec_gain_total]", "[mcc, ec_gain_total, cr_gain_total]", "a study keeps its objectives"),
        ("task: mnist-cnn", "task: esr-2dcnn", "searches mnist-cnn, not esr-2dcnn"),
        ("  attq: {t_min: {low: -2, high: -0.25}, t_max: {low: 0.25, high: 2}}\n", "", "keeps its methods"),
        ("high: 1.0e-2, log: true}", "high: 1.0e-2}", "has lr with log: true; keep it"),
    ],
)  # fmt: skip
def test_resume_with_another_search_is_refused(space, space_text, storage, old, new, message, monkeypatch):
    monkeypatch.setitem(TASKS, "esr-2dcnn", "some.module:TASK")
    open_study(storage, "s", space, resume=False)
    assert old in space_text
    other = space_text.split("paper:")[0].replace(old, new)
    with pytest.raises(InputError, match=message):
        open_study(storage, "s", parse_space(other, "other.yaml"), resume=True)


def test_resume_keeps_the_seed_and_may_widen_a_range(space, space_text, storage):
    open_study(storage, "s", space, resume=False, seed=11)
    wider = parse_space(space_text.replace("high: 0.4", "high: 0.6"), "wider.yaml")
    assert open_study(storage, "s", wider, resume=True).user_attrs["seed"] == 11
    assert open_study(storage, "s", wider, resume=True, seed=11).user_attrs["seed"] == 11
    with pytest.raises(InputError, match="has seed 11, got 3; leave --seed out"):
        open_study(storage, "s", wider, resume=True, seed=3)


def test_a_search_that_others_look_at_while_it_makes_its_database(space, tmp_path):
    over = threading.Event()
    paths = [tmp_path / f"{number}.db" for number in range(20)]

    def look():
        while not over.is_set():
            for path in paths:
                with contextlib.suppress(InputError):
                    load_study(f"sqlite:///{path}", "s")

    with ThreadPoolExecutor(2) as pool:
        looks = [pool.submit(look) for _ in range(2)]
        try:
            for path in paths:
                open_study(f"sqlite:///{path}", "s", space, resume=False)
        finally:
            over.set()
    assert [look.result() for look in looks] == [None, None]


def test_a_slow_attempt_to_make_tables_that_others_made_is_followed_by_another(space, tmp_path, monkeypatch):
    attempts = []

    class Slow(optuna.storages.RDBStorage):
        def __init__(self, *arguments, **options):
            attempts.append(arguments)
            if len(attempts) == 1:
                time.sleep(2.1)  # longer than a look at the file may wait
                raise OperationalError("CREATE TABLE", {}, Exception("table alembic_version already exists"))
            super().__init__(*arguments, **options)

    monkeypatch.setattr(optuna.storages, "RDBStorage", Slow)
    assert open_study(f"sqlite:///{tmp_path / 'a.db'}", "s", space, resume=False).study_name == "s"
    assert len(attempts) == 2


def test_a_locked_database_is_reported_within_seconds(space, storage, tmp_path):
    open_study(storage, "s", space, resume=False)
    holder = sqlite3.connect(tmp_path / "studies.db", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    try:
        with pytest.raises(InputError, match="studies.db cannot be used: another program has held it locked for 2 s"):
            open_study(storage, "s", space, resume=True)
    finally:
        holder.close()


def test_databases_that_cannot_be_used(space, tmp_path):
    (tmp_path / "text.db").write_text("no database at all, but long enough to look like something else" * 20)
    (tmp_path / "file").write_text("")
    with sqlite3.connect(tmp_path / "mlflow.db") as other:
        other.execute("CREATE TABLE experiments (id INTEGER)")
    for url, message in {
        f"sqlite:///{tmp_path}/none/s.db": "there is no folder .*none",
        f"sqlite:///{tmp_path}/file/s.db": "there is no folder .*file",
        "sqlite:////proc/s.db": "it cannot be written here",
        f"sqlite:///{tmp_path}": "is a folder",
        f"sqlite:///{tmp_path}/text.db": "file is not a database",
        f"sqlite:///{tmp_path}/mlflow.db": "holds something other than Optuna studies",
        "sqlite://": "must name a file",
        "sqlite:///:memory:": "must name a file",
        "studies.db": "must be a database URL such as sqlite:///studies.db",
        "nosql://host/name": "cannot be opened: Can't load plugin",
    }.items():
        with pytest.raises(InputError, match=message):
            open_study(url, "s", space, resume=False)


def test_a_password_is_never_shown(space):
    url = "nosql+psycopg://me:hunter2@127.0.0.1:1/name?sslpassword=hunter2"
    assert "hunter2" not in redact(url) and "me:***@127.0.0.1" in redact(url)
    with pytest.raises(InputError) as caught:
        open_study(url, "s", space, resume=False)
    assert "hunter2" not in str(caught.value)
    with pytest.raises(InputError) as caught:
        open_study("postgresql//me:hunter2@host", "s", space, resume=False)
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None and caught.value.__suppress_context__


def killed(worker):
    return "worker killed"


def test_a_lost_trial_is_tried_again_under_its_number_and_given_up_in_the_end(space, storage):
    study = open_study(storage, "s", space.model_copy(update={"paper": space.paper[:1]}), resume=False)
    for attempt in range(1, 4):
        trial = study.ask()
        assert space.suggest(trial)["ttq.t"] == 0.05 and counted(study) == 1 and trial.number == 0
        trial.set_user_attr("metrics", {"mcc": attempt})
        trial.set_constraint("mcc >= 0.9", 1.0)
        assert reclaim(study, lambda worker: None, 3) == 0
        assert reclaim(study, killed, 3) == 1
        assert reclaim(study, killed, 3) == 0, "it was ended, not left running"
        assert counted(study) == (attempt == 3), "what is tried again does not count, what is given up does"
        if attempt < 3:
            (waits,) = study.get_trials(deepcopy=False)
            assert waits.user_attrs == {"origin": "paper"} and not waits.constraints and not waits.params
    assert not study.get_trials(states=(TrialState.WAITING,))
    (record,) = finished(study)
    assert record.reason == "worker killed, given up after 3 attempts" and record.origin == "paper"
    assert losses(study) == {0: ["worker killed"] * 3}


def test_what_was_drawn_whole_is_tried_again_as_it_was(space, storage):
    study = open_study(storage, "s", space.model_copy(update={"paper": ()}), resume=False)
    trial = study.ask()
    drawn = space.suggest(trial)
    trial.set_user_attr("parameters", drawn)
    reclaim(study, killed, 3)
    again = study.ask()
    assert again.number == 0 and space.suggest(again) == drawn and len(study.trials) == 1


def test_an_interruption_does_not_speak_against_a_trial(space, storage):
    study = open_study(storage, "s", space.model_copy(update={"paper": space.paper[:1]}), resume=False)
    for _ in range(5):
        assert space.suggest(study.ask())["ttq.t"] == 0.05
        assert reclaim(study, lambda worker: "interrupted", 1) == 1
    assert counted(study) == 0
    study.tell(study.ask(), [1.0, 1.0, 1.0])
    assert finished(study)[0].notes == [], "nothing tells that it was"


def test_a_study_is_there_as_a_whole_or_not_at_all(space, storage, monkeypatch):
    """Whatever fails while it is made, a search that is started again finds a free name."""
    made = []

    def fails_at_the_second(self, *given):
        made.append(given)
        if len(made) == 2:
            raise KeyboardInterrupt
        return prepared(self, *given)

    prepared = optuna.storages.RDBStorage._get_prepared_new_trial
    with monkeypatch.context() as patch:
        patch.setattr(optuna.storages.RDBStorage, "_get_prepared_new_trial", fails_at_the_second)
        with pytest.raises(KeyboardInterrupt):
            open_study(storage, "s", space, resume=False)
    with pytest.raises(InputError, match="There is no study 's'"):
        load_study(storage, "s")
    study = open_study(storage, "s", space, resume=False, starts=[space.enqueued()[1], {"method": "pttq"}])
    assert [trial.user_attrs["origin"] for trial in study.trials] == ["paper", "paper", "warm"]
    assert [trial.state for trial in study.trials] == [TrialState.WAITING] * 3


def test_records_have_plain_names_even_of_a_trial_that_its_worker_said_nothing_of(space, storage):
    study = open_study(storage, "s", space, resume=False)
    space.suggest(study.ask())
    (record,) = running(study)
    assert record.parameters["t"] == 0.05 and record.origin == "paper" and record.worker is None
    reclaim(study, killed, 1)
    (record,) = finished(study)
    assert isinstance(record, TrialRecord) and (record.number, record.state) == (0, "failed")
    assert record.started > 1e9 and record.seconds >= 0 and record.metrics == {}


def test_a_process_is_told_from_a_later_one_with_its_number():
    me = identity("crew.0")
    assert alive(me) is True and crew_of(me) == "crew"
    assert alive({**me, "born": "1"}) is False
    assert alive({**me, "pid": 2**22 + 1}) is False
    assert alive({**me, "machine": "elsewhere", "born": "1"}) is None, "nothing is known of another machine's"
    assert alive({**me, "host": "renamed", "born": "1"}) is False


def test_optuna_would_have_taken_other_directions_without_a_word(storage):
    optuna.create_study(storage=storage, study_name="s", directions=["maximize"] * 2)
    again = optuna.create_study(storage=storage, study_name="s", directions=["minimize"] * 3, load_if_exists=True)
    assert len(again.directions) == 2, "so _check_same_search compares them; if this fails, it may be simplified"
