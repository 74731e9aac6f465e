"""The table of methods: each a few declarative lines."""

from __future__ import annotations

from dataclasses import replace

from ttq_plugin.core import steps
from ttq_plugin.core.released import RELEASED
from ttq_plugin.core.rules import ABSOLUTE_MOMENTS, MAX_FRACTION, SIGNED_MOMENTS
from ttq_plugin.core.ternarizer import Ternarizer
from ttq_plugin.core.variants import DIRECT, MEAN_FRACTION, NO_THRESHOLDS, TIED, TWN_FRACTION
from ttq_plugin.errors import InputError

TTQ = Ternarizer("ttq", MAX_FRACTION, {"t": 0.05}, normalize=True)
"""Trained ternary quantization, Zhu et al. 2017."""

ATTQ = Ternarizer("attq", SIGNED_MOMENTS, {"t_min": -1.0, "t_max": 0.5})
"""Asymmetric TTQ, Vindas et al.: thresholds from the weights' mean and standard deviation."""

PTTQ = Ternarizer("pttq", ABSOLUTE_MOMENTS, {"t_min": 1.0, "t_max": 1.0}, learn_thresholds=True)
"""Trainable pruned ternary quantization, Vindas et al. 2024, with thresholds learned by the chain rule."""

TWN = Ternarizer("twn", MEAN_FRACTION, {"t": TWN_FRACTION}, learn_scales=False, step=steps.TWN)
"""Ternary weight networks, Li & Liu 2016: nothing learned, one scale for both signs."""

DOREFA = Ternarizer("dorefa", NO_THRESHOLDS, learn_scales=False, step=steps.BINARY)
"""DoReFa at one bit, Zhou et al. 2016: binary, no zeros, one scale."""

PTTQ_ABSOLUTE = replace(PTTQ, name="pttq-absolute", rule=DIRECT)
"""Ablation: the distances themselves are learned, without statistics of the weights."""

PTTQ_SYMMETRIC = replace(PTTQ, name="pttq-symmetric", rule=TIED, t={"t": 1.0})
"""Ablation: one threshold for both signs, after Manessi et al. 2018."""

PTTQ_GLOBAL = replace(PTTQ, name="pttq-global", share_thresholds=True)
"""Ablation: one t_min and one t_max for all layers."""

PTTQ_FIXED = replace(PTTQ, name="pttq-fixed", learn_thresholds=False)
"""Ablation: thresholds stay as they begin."""

PTTQ_RELEASED = replace(PTTQ, name="pttq-released", step=RELEASED, alpha=1e4, scale_init="one")
"""The authors' released code, see ``released``: only to reproduce the published numbers."""

METHODS: dict[str, Ternarizer] = {
    method.name: method
    for method in (
        *(TWN, TTQ, ATTQ, PTTQ, DOREFA),
        *(PTTQ_ABSOLUTE, PTTQ_SYMMETRIC, PTTQ_GLOBAL, PTTQ_FIXED, PTTQ_RELEASED),
    )
}


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
