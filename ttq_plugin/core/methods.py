"""The methods' equations, one declaration each; names and parameters are in ``ttq_plugin.methods``.

Examples:
    >>> import torch
    >>> from ttq_plugin import METHODS
    >>> method = METHODS["ttq"]
    >>> params, notes = method.init(torch.tensor([-0.9, -0.01, 0.02, 0.5]))
    >>> method.codes(torch.tensor([-0.9, -0.01, 0.02, 0.5]), params).tolist()
    [-1, 0, 0, 1]
"""

from __future__ import annotations

from typing import Any

from ttq_plugin import methods as table
from ttq_plugin.core import steps
from ttq_plugin.core.released import RELEASED
from ttq_plugin.core.rules import ABSOLUTE_MOMENTS, MAX_FRACTION, SIGNED_MOMENTS, ThresholdRule
from ttq_plugin.core.ternarizer import Ternarizer
from ttq_plugin.core.variants import DIRECT, MEAN_FRACTION, NO_THRESHOLDS, TIED
from ttq_plugin.errors import InputError
from ttq_plugin.support.arguments import shown

METHODS: dict[str, Ternarizer] = {}
"""The methods by name, as ``define`` made them."""


def define(name: str, rule: ThresholdRule, **equations: Any) -> Ternarizer:
    """Register the equations of a row of the table under its name.

    Args:
        name: A key of ``ttq_plugin.methods.METHODS``; that row lists the parameters and what is learned.
        rule: How thresholds follow from the row's parameters.
        equations: Other fields of ``Ternarizer``, such as ``step`` and ``normalize``.

    Returns:
        The method.
    """
    row = table.METHODS[name]
    numbers = row.starts
    if "alpha" in numbers:
        equations = {"alpha": numbers["alpha"], **equations}
    METHODS[name] = Ternarizer(
        name,
        rule,
        {key: numbers[key] for key in rule.names},
        learn_scales=table.SCALES in row.learns,
        learn_thresholds=table.THRESHOLDS in row.learns,
        **equations,
    )
    return METHODS[name]


TWN = define("twn", MEAN_FRACTION, step=steps.TWN)
TTQ = define("ttq", MAX_FRACTION, normalize=True)
ATTQ = define("attq", SIGNED_MOMENTS)
PTTQ = define("pttq", ABSOLUTE_MOMENTS)
DOREFA = define("dorefa", NO_THRESHOLDS, step=steps.BINARY)
PTTQ_ABSOLUTE = define("pttq-absolute", DIRECT)
PTTQ_SYMMETRIC = define("pttq-symmetric", TIED)
PTTQ_GLOBAL = define("pttq-global", ABSOLUTE_MOMENTS, share_thresholds=True)
PTTQ_FIXED = define("pttq-fixed", ABSOLUTE_MOMENTS)
PTTQ_RELEASED = define("pttq-released", ABSOLUTE_MOMENTS, step=RELEASED, scale_init="one")


def get_method(name: str) -> Ternarizer:
    """Look up a method by its name.

    Args:
        name: A key of ``METHODS``.

    Returns:
        The method with its default options.

    Raises:
        InputError: If there is no such method; the message lists the known ones.
    """
    try:
        return METHODS[name]
    except (KeyError, TypeError):  # an unhashable value is not a name
        raise InputError(f"method must be one of {', '.join(METHODS)}, got {shown(name)}.") from None
