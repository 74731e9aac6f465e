"""The table of methods: each a few declarative lines."""

from __future__ import annotations

from ttq_plugin.core.rules import ABSOLUTE_MOMENTS, MAX_FRACTION, SIGNED_MOMENTS
from ttq_plugin.core.ternarizer import Ternarizer
from ttq_plugin.errors import InputError

TTQ = Ternarizer("ttq", MAX_FRACTION, {"t": 0.05}, normalize=True)
"""Trained ternary quantization, Zhu et al. 2017."""

ATTQ = Ternarizer("attq", SIGNED_MOMENTS, {"t_min": -1.0, "t_max": 0.5})
"""Asymmetric TTQ, Vindas et al.: thresholds from the weights' mean and standard deviation."""

PTTQ = Ternarizer("pttq", ABSOLUTE_MOMENTS, {"t_min": 1.0, "t_max": 1.0}, learn_thresholds=True)
"""Trainable pruned ternary quantization, Vindas et al. 2024, with thresholds learned by the chain rule."""

METHODS: dict[str, Ternarizer] = {method.name: method for method in (TTQ, ATTQ, PTTQ)}


def get_method(name: str) -> Ternarizer:
    """The method of that name.

    Args:
        name: a key of ``METHODS``.

    Returns:
        The method with its default options.

    Raises:
        InputError: if there is none; the message lists those there are.
    """
    try:
        return METHODS[name]
    except KeyError:
        raise InputError(f"method must be one of {', '.join(METHODS)}, got {name!r}.") from None
