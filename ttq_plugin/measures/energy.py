"""Energy of one inference: the equations of the pTTQ paper (6 to 9)."""

import math
from dataclasses import dataclass

from ttq_plugin.errors import InputError
from ttq_plugin.support.arguments import check_types

CODE_BITS = {"float": 32, "ternary": 2, "binary": 1}
"""B: bits of one weight as it is transferred; see `code_bits` for integer grids."""


def code_bits(kind: str) -> int:
    """B of a layer's kind: 32, 2 or 1 (pTTQ paper, section 4), and k for `int<k>`."""
    return CODE_BITS[kind] if kind in CODE_BITS else int(kind.removeprefix("int"))


def transfers(nonzeros: int, bits: int, scales: int = 0) -> int:
    """32-bit words moved for one layer: ceil(nnz B / 32) + n_SF (pTTQ paper, eq. 8)."""
    return math.ceil(nonzeros * bits / 32) + scales


@dataclass(frozen=True)
class EnergyModel:
    """The energy of one operation, in joules.

    Attributes:
        mult_add: Energy of one multiplication and addition (32-bit, 45 nm); 3.7e-12 J in the papers.
        transfer: Energy of moving one 32-bit word from memory; 1e-9 J in the papers. Their released code uses 4e-9 J.

    Examples:
        >>> from ttq_plugin import EnergyModel
        >>> f"{EnergyModel(transfer=4e-9).moving(words=1000):.1e} J"
        '4.0e-06 J'
    """

    mult_add: float = 3.7e-12
    transfer: float = 1e-9

    def __post_init__(self) -> None:
        check_types(EnergyModel, vars(self))
        for name in ("mult_add", "transfer"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise InputError(f"EnergyModel.{name} must be a finite number of joules >= 0, got {value}.")

    def computing(self, mult_adds: int) -> float:
        """EC_MA = mult-adds x joules per mult-add (pTTQ paper, eq. 7)."""
        return mult_adds * self.mult_add

    def moving(self, words: int) -> float:
        """EC_DT = 32-bit words x joules per transfer (pTTQ paper, eq. 8)."""
        return words * self.transfer

    def total(self, mult_adds: int, words: int) -> float:
        """EC_T = EC_MA + EC_DT, joules (pTTQ paper, eq. 6)."""
        return self.computing(mult_adds) + self.moving(words)

    def __str__(self) -> str:
        return f"{self.mult_add:g} J a mult-add, {self.transfer:g} J a transfer"
