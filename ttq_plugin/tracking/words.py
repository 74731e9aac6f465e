"""What a reader calls each measure, in pictures and on pages."""

import re

# Those named here are fractions, drawn in percent. Between dollars: Matplotlib's notation for the papers' symbols.
READABLE = {
    "mcc": "MCC (validation, %)",
    "test_mcc": "MCC (test, %)",
    "srqw": "zero weights SRQW (%)",
    "cr_gain_total": "compression gain $CR_G^T$ (%)",
    "cr_gain_quantized": "compression gain $CR_G^Q$ (%)",
    "cr_gain_entropy": "compression gain, entropy bound (%)",
    "cr_gain_base3": "compression gain, 5 weights a byte (%)",
    "cr_gain_dense2": "compression gain, 2 bits a weight (%)",
    "cr_gain_disk": "compression gain of the file (%)",
    "ec_gain_total": "energy gain $EC_G^T$ (%)",
    "latency_gain": "time gain, measured (%)",
}
_SYMBOL = re.compile(r"\$(\w+?)_(\w)\^(\w)\$")


def for_picture(name: str) -> str:
    """A measure's name with its unit, in Matplotlib's notation."""
    return READABLE.get(name, name)


def for_page(name: str) -> str:
    """The same in HTML."""
    return _SYMBOL.sub(r"\1<sub>\2</sub><sup>\3</sup>", for_picture(name))


def for_text(name: str) -> str:
    """The same in plain characters."""
    return for_picture(name).replace("$", "")


def drawn(name: str, value: float) -> float:
    """A value as it is drawn: fractions in percent."""
    return 100 * value if name in READABLE else value


def written(name: str, value: float) -> str:
    """A value as it is written: fractions in percent, others with four significant digits."""
    return f"{100 * value:.2f}" if name in READABLE else f"{value:.4g}"
