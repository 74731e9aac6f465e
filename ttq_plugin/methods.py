"""The table of methods, without torch.

Everything that lists methods reads this table: the command line's choices, the parameters and ranges of search spaces,
the quantizers of a chain, what curvature may choose from, and the documentation. A new method is one row here and its
equations in ``core/methods.py``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

MIXED = "mixed"
"""Name for a separate method for each layer, given by a chain or chosen by curvature within a budget of bits."""

LSQ = "lsq-int2"
"""Name for NNI's own LsqQuantizer at int2, which learns one step size per layer; it is compared with our methods."""

QAT_QUANTIZER, LSQ_QUANTIZER = "QATQuantizer", "LsqQuantizer"
"""Names of NNI's own quantizers, which a chain may contain besides this project's."""

SCALES, THRESHOLDS = "scales", "thresholds"
"""What a method may learn besides the latent weights."""


@dataclass(frozen=True)
class Bound:
    """The valid values of a parameter, whatever the ranges of a space are."""

    low: float = -math.inf
    high: float = math.inf
    low_open: bool = False
    high_open: bool = False
    whole: bool = False

    def allows(self, value: float) -> bool:
        """Whether the value lies inside."""
        above = value > self.low if self.low_open else value >= self.low
        below = value < self.high if self.high_open else value <= self.high
        return above and below and (not self.whole or float(value).is_integer())

    def __str__(self) -> str:
        kind = "a whole number" if self.whole else "a number"
        if self.high < math.inf:
            return (
                f"{kind} in {'(' if self.low_open else '['}{self.low:g}, {self.high:g}{')' if self.high_open else ']'}"
            )
        if self.low > -math.inf:
            return f"{kind} {'greater than' if self.low_open else 'of at least'} {self.low:g}"
        return kind


POSITIVE = Bound(low=0, low_open=True)
NOT_NEGATIVE = Bound(low=0)


@dataclass(frozen=True)
class Number:
    """One of a method's own parameters.

    Attributes:
        name: Its name as an option, a setting and a key of space files.
        start: Its default value.
        low: Lower end of the default search range.
        high: Upper end of the default search range.
        log: Whether the search draws its logarithm.
        bound: The values that are valid at all.
    """

    name: str
    start: float
    low: float
    high: float
    log: bool = False
    bound: Bound = NOT_NEGATIVE

    @property
    def range(self) -> dict[str, Any]:
        """The default range, as written in a space file."""
        return {"low": self.low, "high": self.high, **({"log": True} if self.log else {})}


LR_THRESHOLD = 1e-4
"""Default learning rate of thresholds."""


THRESHOLD_NUMBERS = ("t", "t_min", "t_max")
"""The parameters that determine the thresholds."""

ZEROS = Number("zeros", 0.9, 0.5, 0.97, bound=Bound(0, 1, low_open=True, high_open=True))
"""The parameter that can be given instead: the share of zeros at the end of the training."""


@dataclass(frozen=True)
class Method:
    """One row of the table.

    Attributes:
        name: The method's name everywhere.
        label: The method's name in running text.
        description: A description in one sentence.
        source: The publication, or None for a variant of this project.
        numbers: The method's own parameters, all of which a space file must give.
        equation: The equation of its thresholds, as LaTeX.
        learns: What is trained besides the latent weights: ``scales`` and ``thresholds``.
        binary: Whether it has two values and no zero.
        channels: Whether each output channel can have scales and thresholds of its own.
        ordered: Whether ``t_min`` must not exceed ``t_max``.
        universal: Whether the default ranges suit any network, so that a default space offers the method.
        zeros: Whether a share of zeros can be prescribed instead of its thresholds.
        quantizer: The NNI quantizer that runs it. The first row that names a class is the class's own method.
    """

    name: str
    label: str
    description: str
    source: str | None
    numbers: tuple[Number, ...] = ()
    equation: str = ""
    learns: frozenset[str] = frozenset({SCALES})
    binary: bool = False
    channels: bool = True
    ordered: bool = False
    universal: bool = True
    zeros: bool = True
    quantizer: str = "PTTQQuantizer"

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the method's own parameters."""
        return tuple(number.name for number in self.numbers)

    def names_with(self, zeros: bool) -> tuple[str, ...]:
        """The names of its own parameters, or of those that remain if a share of zeros replaces its thresholds.

        Args:
            zeros: Whether a share of zeros replaces the thresholds.

        Returns:
            The names, in the table's order.
        """
        rest = tuple(name for name in self.names if name not in THRESHOLD_NUMBERS)
        return ("zeros", *rest) if zeros else self.names

    @property
    def starts(self) -> dict[str, float]:
        """The defaults of its own parameters."""
        return {number.name: number.start for number in self.numbers}

    def number(self, name: str) -> Number:
        """The number of that name.

        Args:
            name: One of ``names``.

        Returns:
            The number.
        """
        return next(number for number in (*self.numbers, ZEROS) if number.name == name)


_DISTANCES = (Number("t_min", 1.0, 0.5, 2.0), Number("t_max", 1.0, 0.5, 2.0))
_ALPHA = Number("alpha", 5.0, 1.0, 100.0, log=True, bound=POSITIVE)
_EVERYTHING = frozenset({SCALES, THRESHOLDS})

_TWN = Method(
    "twn",
    "TWN",
    "Ternary weight networks: one scale for both signs, computed from the weights; only the weights are learned.",
    "Li & Liu 2016",
    (Number("t", 0.7, 0.3, 1.5),),  # 0.7 is optimal for uniform weights, and near it for normal ones
    r"\Delta = t\,\mathrm{E}\lvert w\rvert",
    learns=frozenset(),
    quantizer="TWNQuantizer",
)
_TTQ = Method(
    "ttq",
    "TTQ",
    "Trained ternary quantization: two learned scales, and a threshold relative to the largest weight.",
    "Zhu et al. 2017",
    (Number("t", 0.05, 0.01, 0.4, log=True, bound=Bound(0, 1, low_open=True, high_open=True)),),
    r"\Delta = t\,\max\lvert w\rvert",
    quantizer="TTQQuantizer",
)
_ATTQ = Method(
    "attq",
    "aTTQ",
    "Asymmetric TTQ: thresholds from the mean and the standard deviation of the weights.",
    "Vindas et al., aTTQ",
    (Number("t_min", -1.0, -2.0, -0.25, bound=Bound()), Number("t_max", 0.5, 0.25, 2.0, bound=Bound())),
    r"\mu + t_{\min}\sigma,\ \mu + t_{\max}\sigma",
    ordered=True,
    quantizer="ATTQQuantizer",
)
_PTTQ = Method(
    "pttq",
    "pTTQ",
    "Trainable pruned ternary quantization: thresholds are learned by the chain rule, together with the scales.",
    "Vindas et al. 2024",
    (*_DISTANCES, _ALPHA),
    r"\Delta_{\min} = \lvert\mu + t_{\min}\sigma\rvert,\ \Delta_{\max} = \lvert\mu + t_{\max}\sigma\rvert",
    learns=_EVERYTHING,
)
_DOREFA = Method(
    "dorefa",
    "DoReFa",
    "DoReFa at one bit: binary weights without zeros, with one scale computed from the weights.",
    "Zhou et al. 2016",
    equation="0",
    learns=frozenset(),
    binary=True,
    zeros=False,
    quantizer="BinaryQuantizer",
)
_ABSOLUTE = replace(
    _PTTQ,
    name="pttq-absolute",
    label="pTTQ, absolute",
    description="Ablation of pTTQ: the distances themselves are learned, without statistics of the weights.",
    source=None,
    equation=r"\Delta_{\min},\ \Delta_{\max}\ \text{learned directly}",
)
_SYMMETRIC = replace(
    _PTTQ,
    name="pttq-symmetric",
    label="pTTQ, symmetric",
    description="Ablation of pTTQ: one threshold for both signs.",
    source="after Manessi et al. 2018",
    numbers=(Number("t", 1.0, 0.5, 2.0), _ALPHA),
    equation=r"\Delta = \lvert\mu + t\sigma\rvert",
)
_GLOBAL = replace(
    _PTTQ,
    name="pttq-global",
    label="pTTQ, global",
    description="Ablation of pTTQ: all layers learn the same t_min and t_max.",
    source=None,
)
_FIXED = replace(
    _PTTQ,
    name="pttq-fixed",
    label="pTTQ, fixed",
    description="Ablation of pTTQ: the thresholds stay at their initial values.",
    source=None,
    numbers=_DISTANCES,
    learns=frozenset({SCALES}),
)
_RELEASED = replace(
    _PTTQ,
    name="pttq-released",
    label="pTTQ, as released",
    description="The authors' released code, which deviates from the paper; for reproducing the published numbers.",
    numbers=(*_DISTANCES, replace(_ALPHA, start=1e4, low=800.0, high=1e4)),
    channels=False,
    universal=False,  # its alpha multiplies weights, so a range of it is one network's
    zeros=False,  # they are a matter of underflow
)

METHODS: dict[str, Method] = {
    row.name: row for row in (_TWN, _TTQ, _ATTQ, _PTTQ, _DOREFA, _ABSOLUTE, _SYMMETRIC, _GLOBAL, _FIXED, _RELEASED)
}
"""The rows by name."""

MIX = Method(
    MIXED,
    "mixed",
    "A method for each layer, chosen by curvature within a budget of bits.",
    None,
    (Number("bits", 0.25, 0.1, 0.5, bound=Bound(0, 1, low_open=True)),),
    learns=_EVERYTHING,
    binary=True,  # some layers have no zeros
    channels=False,  # curvature predicts one pair of scales a layer
    universal=False,
    zeros=False,
)
"""What a search may use in place of a method."""


def searchable() -> dict[str, Method]:
    """The methods that a search space may name: the table's, and ``mixed``."""
    return {**METHODS, MIXED: MIX}


def quantizers() -> dict[str, str]:
    """The methods with an NNI quantizer class of their own, with the name of that class."""
    own: dict[str, str] = {}
    for row in METHODS.values():
        if row.quantizer not in own.values():
            own[row.name] = row.quantizer
    return own
