"""A choice of methods as a chain of compressors, which can be converted to and from JSON."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ttq_plugin.errors import InputError
from ttq_plugin.methods import LSQ_QUANTIZER, METHODS, QAT_QUANTIZER, quantizers


@dataclass(frozen=True)
class Link:
    """One compressor of a chain.

    Attributes:
        compressor: NNI's `QATQuantizer` or `LsqQuantizer`, or the name of a quantizer of this plugin.
        config_list: NNI 3.0's config entries.
        options: Keywords of the plugin's quantizer, such as `{"t_min": 1.5}`; empty for NNI's.
    """

    compressor: str
    config_list: tuple[dict[str, Any], ...]
    options: dict[str, Any]


def integer_entry(layers: Sequence[str], bits: int) -> dict[str, Any]:
    """NNI's config entry for weights on one symmetric integer grid a layer."""
    kind = {"quant_dtype": f"int{bits}", "quant_scheme": "symmetric", "granularity": "default"}
    return {"op_names": list(layers), "target_names": ["weight"], **kind}


def ternary_entry(layers: Sequence[str], granularity: str | None = None) -> dict[str, Any]:
    """NNI's config entry for this plugin's quantizers; int2 is exactly -1, 0, 1, and stands for binary too."""
    own = {} if granularity is None else {"granularity": granularity}
    return {"op_names": list(layers), "target_names": ["weight"], "quant_dtype": "int2", **own}


def build_chain(
    widths: Mapping[int, Sequence[str]],
    methods: Mapping[str, Sequence[str]],
    options: Mapping[str, Mapping[str, Any]],
) -> tuple[Link, ...]:
    """The compressors that carry out a choice: QAT_QUANTIZER first, then one link per ternary method.

    Args:
        widths: Bits -> layers on an integer grid.
        methods: Key of `METHODS` -> its layers.
        options: Method -> keywords of its quantizer; `granularity` goes into the config entry, where NNI reads it.

    Returns:
        The links; none for a choice that quantises nothing.
    """
    links = []
    if entries := tuple(integer_entry(layers, bits) for bits, layers in widths.items() if layers):
        links.append(Link(QAT_QUANTIZER, entries, {}))
    for method, layers in methods.items():
        own = dict(options.get(method, {}))
        granularity = own.pop("granularity", None)
        if method not in quantizers():
            own["method"] = method
        if layers:
            entry = ternary_entry(layers, granularity)
            links.append(Link(METHODS[method].quantizer, (entry,), own))
    return tuple(links)


def chain_to_json(links: Iterable[Link]) -> list[dict[str, Any]]:
    """A chain as plain JSON: `[{"compressor": ..., "config_list": [...], "options": {...}}, ...]`."""
    return [{**asdict(link), "config_list": list(link.config_list)} for link in links]


def chain_from_json(data: object) -> tuple[Link, ...]:
    """Read a chain that `chain_to_json` wrote.

    Args:
        data: Parsed JSON.

    Returns:
        The links.

    Raises:
        InputError: For any other form, or a compressor that cannot be chained.
    """
    if not isinstance(data, list) or not data:
        raise InputError(f"A chain must be a list with at least one compressor, got {_brief(data)}.")
    return tuple(_link(value, index) for index, value in enumerate(data))


def _link(value: object, index: int) -> Link:
    keys = ("compressor", "config_list", "options")
    if not isinstance(value, dict) or not {"compressor", "config_list"} <= set(value) <= set(keys):
        raise InputError(
            f"Each link of a chain must be an object with {', '.join(keys)}; link {index} is {_brief(value)}."
        )
    compressor, config_list, options = value["compressor"], value["config_list"], value.get("options", {})
    known = (QAT_QUANTIZER, LSQ_QUANTIZER, *quantizers().values())
    if compressor not in known:
        raise InputError(f"`compressor` of link {index} must be one of {', '.join(known)}, got {compressor!r}.")
    if (
        not isinstance(config_list, list)
        or not config_list
        or not all(isinstance(entry, dict) for entry in config_list)
    ):
        raise InputError(
            f"`config_list` of link {index} must be a list of NNI config entries, got {_brief(config_list)}: name the "
            "layers in one entry at least."
        )
    if not isinstance(options, dict):
        raise InputError(f"`options` of link {index} must be an object of keywords, got {_brief(options)}.")
    if compressor == QAT_QUANTIZER and options:
        raise InputError(f"`options` of link {index} must be empty for NNI's {QAT_QUANTIZER}, got {_brief(options)}.")
    return Link(compressor, tuple(dict(entry) for entry in config_list), dict(options))


def _brief(value: object, length: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= length else text[: length - 4] + " ..."
