import shlex

import pytest

from tests.tracking.study import make_trial
from ttq_plugin.fronts import Objective
from ttq_plugin.tracking.interface.about import description, folded, run_name, share
from ttq_plugin.tracking.remake import remake


@pytest.mark.parametrize(
    ("metrics", "changes", "name"),
    [
        ({"mcc": 0.957, "srqw": 0.92}, {}, "pttq 92 % zeros, MCC 95.7 #24"),
        ({"mcc": 0.957}, {}, "pttq, MCC 95.7 #24"),
        ({}, {"state": "failed"}, "pttq failed #24"),
        ({"mcc": 0.1}, {"state": "pruned"}, "pttq ended early #24"),
        ({"mcc": 0.957, "srqw": 0.92}, {"parameters": {}}, "ttq 92 % zeros, MCC 95.7 #24"),
    ],
)
def test_a_run_is_named_by_what_it_is(metrics, changes, name):
    assert run_name(make_trial(24, metrics, **changes), "mcc", "ttq") == name


def test_a_score_that_is_no_fraction_has_no_percent():
    rmse = Objective("rmse", higher=False, fraction=False)
    assert run_name(make_trial(1, {"rmse": 0.01234, "srqw": 0.5}), rmse) == "pttq 50 % zeros, RMSE 0.0123 #1"
    told = description(make_trial(1, {"rmse": 0.01234, "cr_gain_total": 0.5}), (rmse, "cr_gain_total"), rmse, 0.01)
    assert told == "Trial 1: RMSE 0.01234 on validation data (full precision 0.01); compression gain 50.00 %."


def test_shares_have_digits_where_the_last_percent_matters():
    assert [share(v) for v in (0.0, 0.924, 0.9849, 0.985, 0.9949, 0.9995)] == [
        "0 %", "92 %", "98 %", "98.5 %", "99.5 %", "99.95 %"
    ]  # fmt: skip


def test_names_of_any_length_keep_their_number():
    name = run_name(make_trial(7, {"mcc": 0.9}, parameters={"method": "m" * 300}), "mcc")
    assert len(name) == 250 and name.endswith(" #7")


def test_a_failed_trial_says_why_in_plain_words():
    told = description(
        make_trial(2, state="failed", reason="<b>nan</b>"), ("mcc", "srqw"), "mcc", 0.97, "ttq compress x"
    )
    assert told == "Trial 2, failed: &#60;b>nan&#60;/b>", "no markup begins"


@pytest.mark.parametrize("name", ["mnist-cnn", "a folder/it's mine --seed 5.py:TASK", "tab\there"])
def test_a_command_is_folded_into_short_lines_of_the_same_words(name):
    given = {"method": "pttq", "t_min": 1.6592057813792846, "t_max": 1.8601865554964703, "lr_threshold": 4.9e-05}
    command = remake(name, make_trial(1, parameters=given | {"lr": 0.0002112451885334471, "epochs": 2, "share": 0.7}))
    lines = folded(command).split(" \\\n")
    assert shlex.split(" ".join(lines)) == shlex.split(command) and len(lines) > 2
    assert all(line.startswith("  --") and len(line) <= 64 for line in lines[1:])


def test_a_command_that_words_cannot_be_told_of_stays_whole():
    assert folded("ttq 'never closed") == "ttq 'never closed"
