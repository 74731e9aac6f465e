"""Settings to begin with, and fronts trained again with other seeds."""

import pytest
from optuna.trial import TrialState

from ttq_plugin.errors import InputError
from ttq_plugin.search.confirm import Baseline, confirm_front, judge
from ttq_plugin.search.crew.job import Job
from ttq_plugin.search.crew.worker import work
from ttq_plugin.search.space.load import parse_space
from ttq_plugin.search.study.check import check_study
from ttq_plugin.search.study.ledger import finished
from ttq_plugin.search.study.study import load_study, open_study
from ttq_plugin.search.study.warm import starts
from ttq_plugin.tracking.pictures.front import plot_front
from ttq_plugin.tracking.pictures.table import write_front
from ttq_plugin.tracking.records import front


@pytest.fixture
def searched(space, storage):
    study = open_study(storage, "early", space, resume=False)
    work(Job(storage, "early", space, 8, 3, trial_module="fake_trial"))
    return study


def waiting(storage, name):
    trials = load_study(storage, name).get_trials(states=(TrialState.WAITING,))
    return [(trial.user_attrs["origin"], trial.system_attrs["fixed_params"]) for trial in trials]


def test_a_search_begins_with_the_papers_then_with_an_earlier_front(space, space_text, storage, searched):
    first = starts(["early"], space, storage)
    assert first == [trial.params for trial in sorted(searched.best_trials, key=lambda t: t.number)]
    open_study(storage, "late", space, resume=False, starts=first)
    origins = [origin for origin, _ in waiting(storage, "late")]
    assert origins[:2] == ["paper"] * 2 and set(origins[2:]) == {"warm"}, "what the papers have is not tried twice"
    assert [fixed for origin, fixed in waiting(storage, "late") if origin == "warm"] == [
        fixed for fixed in first if fixed not in space.enqueued()
    ]
    # Only what the new ranges hold.
    narrow = parse_space(space_text.split("paper:")[0].replace("epochs: {low: 1, high: 30}", "epochs: 30"), "s")
    fitting = (
        [entry for entry in starts(["early"], narrow, storage)]
        if any(trial.params["epochs"] == 30 for trial in searched.best_trials)
        else []
    )
    assert all("epochs" not in fixed for fixed in fitting)
    none = parse_space(space_text.split("paper:")[0], "s", {"parameters": {"lr": 0.5, "lr_scale": 1, "epochs": 77,
                                                                            "lr_threshold": 1}})  # fmt: skip
    with pytest.raises(InputError, match="'early' has no front to begin with: none of its .* fits this space "):
        starts(["early"], none, storage)
    with pytest.raises(InputError, match="There is no study 'earlier'"):
        starts(["earlier"], space, storage)


def test_a_search_begins_with_a_table_that_a_front_was_written_to(space, storage, searched, tmp_path):
    records = finished(searched)
    path = write_front(records, space.objectives, {}, tmp_path / "front.csv")
    by_table, by_study = (sorted(map(str, starts([source], space, storage))) for source in (str(path), "early"))
    assert by_table == by_study


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "need a row of names"),
        ("method,t\n", "need a row of names"),
        ("t,lr\n0.1,1e-3\n", "need a column method, got t, lr"),
        ("method,t\nttq,0.7\n", r"settings.csv, line 2: t must lie in this space's range \[0.01, 0.4\], got 0.7"),
        ("method,t\nttq,0.1\nttq,much\n", r"line 3: t must be a number in \(0, 1\), got 'much'"),
        ("method,t\ntwn,0.1\n", "line 2: method must be one of this space's methods, pttq, attq, ttq, got 'twn'"),
        ("method,t\nttq,\n", "line 2: t is missing"),
        ("method,t,epoch\nttq,0.1,9\n", "have a column 'epoch'; did you mean epochs?"),
        ("\x00\xff", "is damaged or not a CSV file"),
    ],
)
def test_a_table_that_does_not_fit(space, storage, tmp_path, text, message):
    (tmp_path / "settings.csv").write_text(text, encoding="latin-1")
    with pytest.raises(InputError, match=message):
        starts([str(tmp_path / "settings.csv")], space, storage)
    with pytest.raises(InputError, match="none.csv cannot be read: No such file"):
        starts([str(tmp_path / "none.csv")], space, storage)


def test_a_table_may_leave_things_open_and_have_more_columns(space, storage, tmp_path):
    (tmp_path / "a.csv").write_text(
        "\ufeffnumber,method,t,t_min,t_max,alpha,mcc\n3,ttq,0.1,,,,0.9\n4,attq,,-1,1,,0.8\n"
    )
    assert starts([str(tmp_path / "a.csv")], space, storage) == [
        {"method": "ttq", "ttq.t": 0.1}, {"method": "attq", "attq.t_min": -1.0, "attq.t_max": 1.0},
    ]  # fmt: skip


def test_members_whose_interval_falls_off_the_front_are_marked():
    steady = [(0.90, 0.50), (0.91, 0.50), (0.92, 0.50)]
    lucky = [(0.80, 0.40), (0.81, 0.40), (0.80, 0.41)]  # dominated by the steady one's means, with room to spare
    wide = [(0.80, 0.40), (0.60, 0.10), (0.95, 0.60)]  # may be anywhere
    small = [(0.50, 0.90), (0.51, 0.90), (0.52, 0.90)]
    found = judge({1: steady, 2: lucky, 3: wide, 4: small, 5: [*steady, None], 6: [None, (0.9, 0.9)]}, ("a", "b"))
    assert {number: result.holds for number, result in found.items()} == {
        1: True, 2: False, 3: True, 4: True, 5: False,
    }, "a training that fails with another seed does not hold; one run is no interval"  # fmt: skip
    assert found[1].mean == pytest.approx((0.91, 0.5)) and found[5].failed == 1
    # Student's t at 97.5 %, two degrees of freedom, is 4.3027.
    assert found[1].high[0] - found[1].mean[0] == pytest.approx(4.302653 * 0.01 / 3**0.5)


def test_the_change_from_full_precision_counts_shared_data():
    """The variance of the mean is that of the values times 1/n + validation/training samples (Nadeau and Bengio)."""
    runs = {1: [(0.90, 0.5), (0.91, 0.5), None, (0.92, 0.5)], 2: [(0.8, 0.4), None]}
    found = judge(runs, ("mcc", "gain"), Baseline("mcc", 0.93, 0.2))
    change = found[1].change
    assert change["value"] == pytest.approx(-0.02) and change["units"] == 3 and 2 not in found
    assert change["error"] == pytest.approx((0.01**2 * (1 / 3 + 0.2 / 0.8)) ** 0.5)
    assert change["high"] - change["value"] == pytest.approx(4.302653 * change["error"])
    assert judge(runs, ("mcc", "gain"))[1].change is None
    assert judge(runs, ("accuracy", "gain"), Baseline("mcc", 0.93, 0.2))[1].change is None


def test_a_front_is_trained_again_with_other_seeds_and_drawn(space, storage, searched, tmp_path):
    records = finished(searched)
    members = sorted(front(records, space.objectives))[:2]
    options = {"workers": 1, "trial_module": "fake_trial", "pause": 0.05}
    found, cut = confirm_front(space, storage, "early", members, 2, **options)
    assert not cut and set(found) == set(members)
    again = load_study(storage, "early~confirm")
    assert sorted((t.user_attrs["member"], t.user_attrs["seed"]) for t in again.trials) == [
        (number, seed) for number in members for seed in (4, 5)
    ]
    for trial in again.trials:
        assert trial.params == searched.trials[trial.user_attrs["member"]].params
        assert trial.user_attrs["parameters"]["seed"] == trial.user_attrs["seed"]
    assert load_study(storage, "early").user_attrs["confirmed"].keys() == set(map(str, members))
    more, _ = confirm_front(space, storage, "early", members, 3, **options)
    assert len(load_study(storage, "early~confirm").trials) == 6 and more[members[0]].runs == 3, "none runs twice"
    for result in more.values():
        assert result.holds and result.low == result.mean == result.high, "the stand-in does not depend on the seed"
    with pytest.raises(InputError, match="at least 2 other seeds, got 1"):
        confirm_front(space, storage, "early", members, 1)
    drawn = {number: {**vars(result), "holds": index > 0} for index, (number, result) in enumerate(more.items())}
    picture = plot_front(records, space.objectives, tmp_path / "front.png", "a", drawn)
    assert picture.read_bytes() != plot_front(records, space.objectives, tmp_path / "plain.png", "a").read_bytes()


def test_a_grid_too_large_is_refused(space_text, storage):
    points = {"low": 1.0e-4, "high": 1.0e-2, "points": 60}
    parameters = {"lr": points, "lr_scale": points, "lr_threshold": 1.0e-3, "epochs": 3}
    large = parse_space(space_text.split("paper:")[0], "s", {"sampler": "grid", "parameters": parameters})
    with pytest.raises(InputError, match="^A grid may have 100000 combinations, got 140400"):
        check_study(storage, "s", large, resume=False, seed=0)
