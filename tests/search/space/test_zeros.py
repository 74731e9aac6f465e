"""A share of zeros in a search space, in place of thresholds: drawn, checked, and handed to the compression."""

from __future__ import annotations

import jsonschema
import optuna
import pytest
import yaml

from ttq_plugin.core import METHODS, get_method
from ttq_plugin.errors import InputError
from ttq_plugin.methods import searchable
from ttq_plugin.search.space.load import load_space
from ttq_plugin.search.space.schema import space_schema
from ttq_plugin.trial.settings import Settings

BASE = {
    "task": "mnist-cnn",
    "objectives": ["mcc", "cr_gain_total"],
    "parameters": {"lr": 1e-3, "lr_scale": 1e-3, "lr_threshold": 5e-3, "epochs": 2},
}
PTTQ = {"zeros": {"low": 0.6, "high": 0.98}, "alpha": 5.0}


def written(tmp_path, methods, **rest):
    path = tmp_path / "space.yaml"
    path.write_text(yaml.safe_dump({**BASE, "methods": methods, **rest}))
    return path


def space_of(tmp_path, methods, **rest):
    return load_space(str(written(tmp_path, methods, **rest)))


def test_the_table_says_who_can_meet_a_share():
    for name in METHODS:
        try:
            get_method(name).configure(zeros=0.5)
            able = True
        except InputError:
            able = False
        assert searchable()[name].zeros == able, name


def test_a_share_is_drawn_in_place_of_thresholds(tmp_path):
    methods = {"pttq": PTTQ, "attq": {"zeros": {"low": 0.5, "high": 0.9}}, "ttq": {"t": 0.05}}
    space = space_of(tmp_path, methods, paper=[{"method": "pttq", "zeros": 0.9, "alpha": 5.0}])
    study = optuna.create_study(directions=["maximize"] * 2, sampler=optuna.samplers.RandomSampler(seed=0))
    study.enqueue_trial(space.enqueued()[0])
    seen = set()
    for index in range(30):
        values = space.suggest(study.ask())
        settings = space.settings(values, seed=0)
        made = Settings(**settings)
        seen.add(made.method)
        if made.method == "ttq":
            assert (made.zeros, made.t) == (None, 0.05)
        else:
            low, high = (0.6, 0.98) if made.method == "pttq" else (0.5, 0.9)
            assert low <= made.zeros <= high
            assert made.t_min is made.t_max is None
        if index == 0:
            assert made.zeros == 0.9
    assert seen == {"pttq", "attq", "ttq"}


def test_the_grid_has_its_points(tmp_path):
    space = space_of(tmp_path, {"pttq": {"zeros": {"low": 0.5, "high": 0.9, "points": 3}, "alpha": 5.0}})
    assert space.grid("pttq") == {"pttq.zeros": pytest.approx([0.5, 0.7, 0.9])}


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        (
            {"pttq": {**PTTQ, "t_min": 1.0}},
            r"methods.pttq.t_min: cannot be given together with zeros, which determines the thresholds",
        ),
        (
            {"pttq": {"zeros": {"low": 0.5, "high": 1.0}, "alpha": 5}},
            r"methods.pttq.zeros.high must be a number in \(0, 1\)",
        ),
        ({"pttq": {"zeros": 0}}, r"methods.pttq.alpha is missing"),
        ({"dorefa": {"zeros": 0.5}}, r"methods.dorefa: unknown key 'zeros'"),
        ({"pttq-released": {"zeros": 0.5, "alpha": 1e4}}, r"methods.pttq-released: unknown key 'zeros'"),
    ],
)
def test_refuses(tmp_path, methods, message):
    with pytest.raises(InputError, match=message):
        space_of(tmp_path, methods)


def test_a_setting_outside_the_range_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"paper\[0\].zeros must lie in this space's range \[0.6, 0.98\], got 0.5"):
        space_of(tmp_path, {"pttq": PTTQ}, paper=[{"method": "pttq", "zeros": 0.5, "alpha": 5.0}])


def test_editors_know_it(tmp_path):
    schema = space_schema()
    for methods in ({"pttq": PTTQ}, {"pttq": {"t_min": 1.0, "t_max": 1.0, "alpha": 5.0}}, {"ttq": {"zeros": 0.7}}):
        jsonschema.validate({**BASE, "methods": methods}, schema)
    for methods in ({"pttq": {**PTTQ, "t_min": 1.0}}, {"dorefa": {"zeros": 0.5}}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**BASE, "methods": methods}, schema)
