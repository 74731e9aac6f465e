import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # spawned workers get this path too, and find fake_trial on it

SPACE = """\
task: mnist-cnn
objectives: [mcc, cr_gain_total, ec_gain_total]
trials: 6
seed: 3
parameters:
  lr: {low: 1.0e-4, high: 1.0e-2, log: true}
  lr_scale: 1.0e-3
  lr_threshold: {low: 1.0e-5, high: 1.0e-3, log: true}
  epochs: {low: 1, high: 30}
  share: {low: 0.3, high: 1.0}
methods:
  pttq: {t_min: {low: 0.5, high: 2.0}, t_max: {low: 0.5, high: 2.0}, alpha: {low: 1, high: 100, log: true}}
  attq: {t_min: {low: -2, high: -0.25}, t_max: {low: 0.25, high: 2}}
  ttq: {t: {low: 0.01, high: 0.4, log: true}}
paper:
  - {method: ttq, t: 0.05, lr: 1.0e-3, epochs: 30, share: 1.0}
  - {method: attq, t_min: -1, t_max: 0.5, lr: 1.0e-3, epochs: 20, share: 0.55}
"""


@pytest.fixture
def space_text():
    return SPACE


@pytest.fixture
def space():
    from ttq_plugin.search.space.load import parse_space

    return parse_space(SPACE, "space.yaml")


@pytest.fixture
def storage(tmp_path):
    return f"sqlite:///{tmp_path}/studies.db"


@pytest.fixture(scope="session")
def postgres():
    from services import postgres_server

    with postgres_server() as server:
        yield server
