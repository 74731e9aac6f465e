"""What a picture of a front has room for: by hand, in whole numbers."""

import pytest

from tests.tracking.study import OBJECTIVES, make_trial
from ttq_plugin.fronts import Objective
from ttq_plugin.tracking import front
from ttq_plugin.tracking.pictures.window import beyond, far_off, listed, window

PAIR = OBJECTIVES[:2]


def trials(*vectors, objectives=PAIR):
    return [make_trial(n, dict(zip(objectives, vector, strict=True))) for n, vector in enumerate(vectors)]


def far(records, objectives=PAIR, full=None):
    return far_off(records, front(records, objectives), objectives, objectives[0], full)


def test_ten_points_below_full_precision_is_far_while_half_of_the_front_is_near():
    records = trials((0.95, 0.5), (0.90, 0.6), (0.86, 0.4), (0.24, 0.9))
    assert far(records, full=0.96) == {3}
    assert far(records, full=0.97) == {2, 3}  # dominated, and 11 points below
    assert far(records) == {3}  # below the best of them


def test_the_margin_grows_until_half_of_the_front_is_near():
    low = trials((0.80, 0.5), (0.77, 0.6), (0.50, 0.9))
    assert far(low, full=0.96) == {2}  # 10 points would leave one of three members, 20 leave two
    assert far(trials((0.30, 0.5), (0.20, 0.6)), full=0.96) == set()
    assert far([make_trial(0, state="failed")]) == set()


def test_an_error_is_far_above_and_by_shares():
    objectives = (Objective("rmse", higher=False), "cr_gain_total")
    records = trials((1.0, 0.5), (1.05, 0.6), (1.2, 0.9), objectives=objectives)
    assert far(records, objectives, full=1.0) == {2}


def test_the_members_near_full_precision_fill_the_panel_and_others_are_listed():
    points = {0: (95.0, 50.0), 1: (91.0, 70.0), 2: (24.0, 90.0), 3: (94.0, 46.0), 4: (93.0, 10.0)}
    frame = window(points, members={0, 1, 2}, far={2}, lines=(96.0, None))
    assert frame.outside == {2, 4}
    # From the least member to full precision; below, where another point lies within a quarter of the members' span.
    assert frame.limits[0] == pytest.approx((91 - 0.3, 96 + 0.3))
    assert frame.limits[1] == pytest.approx((46 - 0.06 * 24, 70 + 0.06 * 24))
    assert frame.clipped(points[2]) == pytest.approx((90.7, 71.44)) and frame.clipped(points[0]) == points[0]
    assert listed(points, {0, 1, 2}, frame.outside) == "outside: 2 at 24, 90; 1 dominated"
    assert listed(points, {0, 1, 2}, frozenset()) == ""


def test_those_who_lie_beyond_take_no_more_than_a_panels_width():
    points = {n: (80 + n / 10, 90 - n / 10) for n in range(100, 160)}
    words = "outside: 100 at 90, 80; 101 at 90.1, 79.9; 57 more members"
    assert listed(points, set(points), frozenset(range(100, 159))) == words
    assert listed(points, set(points) - {159}, frozenset(points), most=40) == "outside: 59 members; 1 dominated"
    assert listed(points, {100}, frozenset({100}), most=5) == "outside: 1 member"


def test_one_member_alone_leaves_the_limits_to_the_data():
    frame = window({0: (95.0, 50.0), 1: (20.0, 10.0)}, members={0}, far=set(), lines=(None, None))
    assert frame.limits == (None, None) and frame.outside == frozenset()


def test_charts_of_no_limits_leave_out_whatever_a_panel_has_no_room_for():
    records = trials((0.95, 0.5), (0.91, 0.7), (0.24, 0.9), (0.94, 0.46), (0.93, 0.1))
    assert beyond(records, front(records, PAIR), PAIR, "mcc", 0.96) == {2, 4}
    assert beyond([], set(), PAIR, "mcc", 0.96) == set()
