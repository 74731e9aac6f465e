"""Converts a budget in bytes, bits or energy to a share of zeros: the smallest share whose model fits."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ttq_plugin.core.model.copying import copied
from ttq_plugin.core.model.course import START
from ttq_plugin.core.model.matrices import Matrix, matrices, named_matrices
from ttq_plugin.core.shares import divided
from ttq_plugin.errors import InputError
from ttq_plugin.measures import measure
from ttq_plugin.support.arguments import exact, no_less
from ttq_plugin.trial.prepared import Prepared
from ttq_plugin.trial.settings import LIMITS, Settings

HEADER, ENTRY = 400, 8
"""Bytes that a packed file's report may take in addition to the weights, and the bytes for each layer."""

STEPS = 14
"""Halvings of the interval of shares: to less than 0.005 points."""

Cost = Callable[[nn.Module, tuple[str, ...]], float]


def limited(settings: Settings) -> tuple[str, float] | None:
    """The budget in the settings: its name and its value, or None."""
    return next(((name, value) for name in LIMITS if (value := getattr(settings, name)) is not None), None)


def cost_of(prepared: Prepared, name: str) -> Cost:
    """What a compressed model costs in a budget's unit.

    Args:
        prepared: Its task.
        name: Name of the budget, one of ``LIMITS``.

    Returns:
        A function of a plain model and the names of its ternary layers: bytes of its packed file with its
        report, bits of the stored model by Shannon's bound, or joules per sample.
    """
    example = prepared.validation.head(1).x

    def in_report(model: nn.Module, layers: tuple[str, ...]) -> float:
        report = measure(prepared.model, model, example, layers=layers)
        return report.bits("entropy") if name == "max_bits" else report.ec_total

    return _bytes if name == "max_bytes" else in_report


def _bytes(model: nn.Module, layers: tuple[str, ...]) -> float:
    from ttq_plugin.deploy.file.packed import save_packed

    with tempfile.TemporaryDirectory() as folder:
        return HEADER + ENTRY * len(layers) + save_packed(model, Path(folder) / "model.safetensors").nbytes


def zeros_for(prepared: Prepared, settings: Settings, config_list: Iterable[dict[str, Any]]) -> float:
    """The least share of zeros with which a model fits the settings' budget.

    The estimate uses the full-precision model with random codes in its layers, as many positive as negative ones. For a
    budget of bytes or bits each layer has the same share of zeros: no other model with as many zeros takes more bits.
    For one of energy, the layers have the shares with which a training begins.

    Args:
        prepared: What compressions share.
        settings: The settings, with a budget.
        config_list: NNI's, that chooses the layers by name.

    Returns:
        The share, at least the one that a training begins with.

    Raises:
        InputError: If not even the largest share fits.
    """
    found = limited(settings)
    assert found is not None
    name, most = found
    configs = list(config_list)
    names = _layers(prepared.model, configs)
    channels = any("out_channel" in str(config) for config in configs)
    price = cost_of(prepared, name)

    def cost(zeros: float) -> float:
        return price(_stand_in(prepared.model, names, zeros, channels, divide=name == "max_energy"), names)

    low, high = START, 1.0
    if cost(low) <= most:
        return low
    if (least := cost(high)) > most:
        raise InputError(
            f"{name} must be at least {no_less(least)} for these layers, which is what all but one weight a sign at "
            f"zero takes, got {exact(most)}; raise it, or quantise more of the weights with share."
        )
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if cost(middle) <= most else (middle, high)
    return high


def known_sizes(
    prepared: Prepared, config_list: Iterable[dict[str, Any]], zeros: float
) -> dict[str, float]:  # fmt: skip
    """The cost of a model that ends with a share of zeros, as far as it is known before the training.

    What depends on the number of zeros alone is exact. Shannon's bound and the energy depend on where they lie, too,
    and are those of the shares with which the training begins.

    Args:
        prepared: What compressions share.
        config_list: NNI's, that chooses the layers by name.
        zeros: The share.

    Returns:
        The numbers of the report under its keys.
    """
    configs = list(config_list)
    names = _layers(prepared.model, configs)
    channels = any("out_channel" in str(config) for config in configs)
    stand_in = _stand_in(prepared.model, names, zeros, channels, divide=True)
    report = measure(prepared.model, stand_in, prepared.validation.head(1).x, layers=names)
    return {key: float(value) for key, value in report.to_dict().items() if isinstance(value, (int, float))}


def _layers(model: nn.Module, configs: Iterable[dict[str, Any]]) -> tuple[str, ...]:
    """The names of the layers that NNI's entries select; some that NNI cannot wrap are selected by name."""
    from nni.compression.base.config import select_modules_by_config

    from ttq_plugin.nni_adapter.layers.names import resolve

    found: dict[str, None] = {}
    for config in configs:
        plain = "op_names" in config and not {"op_types", "op_names_re"} & config.keys()
        names = config["op_names"] if plain else select_modules_by_config(model, resolve(model, config))[0]
        found |= dict.fromkeys(names)
    return tuple(found)


@torch.no_grad()
def _stand_in(model: nn.Module, names: Iterable[str], zeros: float, channels: bool, *, divide: bool) -> nn.Module:
    """A copy whose named layers hold random codes, with the zeros divided among them or the same share in each."""
    copy, generator = copied(model).cpu(), torch.Generator().manual_seed(0)
    known = matrices(copy)
    found = [matrix for name in names for matrix in named_matrices(copy, name, known)]
    sizes = [matrix.parameter.numel() for matrix in found]
    shares = divided(sizes, zeros) if divide else [zeros] * len(found)
    whole = done = 0.0
    for matrix, share, size in zip(found, shares, sizes, strict=True):
        whole += share * size  # rounded so, all layers together have the share to the nearest weight
        matrix.parameter.copy_(_codes(matrix, round(whole) - round(done), channels, generator))
        done = whole
    return copy.to(next(model.parameters()).device)


def _codes(matrix: Matrix, zeros: int, channels: bool, generator: torch.Generator) -> Tensor:
    """Random codes with this many zeros, or as many as leave each sign of each group a weight."""
    w = matrix.parameter
    channel = matrix.layout.channel if channels else None
    rows = w.movedim(channel, 0) if channel is not None else w.reshape(matrix.layout.parts, -1)
    groups, n = rows.shape[0], w.numel()
    kept = max(2 * groups, n - zeros)
    signs = torch.zeros(groups, n // groups)
    signs[:, 0], signs[:, 1:2] = 1, -1
    free = (signs == 0).flatten().nonzero().flatten()
    chosen = free[torch.randperm(len(free), generator=generator)[: kept - 2 * groups]]
    signs.view(-1)[chosen] = torch.where(torch.arange(len(chosen)) % 2 == 0, 1.0, -1.0)
    # Other scales in each group and for each sign, as learned ones are.
    scales = 1 + torch.rand(groups, 2, generator=generator)
    values = torch.where(signs > 0, scales[:, :1], -scales[:, 1:]) * signs.abs()
    return values.reshape(rows.shape).movedim(0, channel) if channel is not None else values.reshape(w.shape)


def tighten(prepared: Prepared, settings: Settings, quantizers: Any, zeros: float) -> str | None:
    """Raise the share of a trained model until it fits the budget, where training put what is left where it costs more.

    Args:
        prepared: What compressions share.
        settings: The settings, with a budget.
        quantizers: The ``QuantizerChain`` that was trained.
        zeros: The share that it was trained with.

    Returns:
        Notes, if the share had to be raised.

    Raises:
        InputError: If not even the largest share fits.
    """
    found = limited(settings)
    assert found is not None
    name, most = found
    price = cost_of(prepared, name)

    def fits(share: float) -> bool:
        quantizers.prescribe(share)
        return price(quantizers.export_model().eval(), quantizers.layers) <= most

    if fits(zeros):
        return None
    low, high = zeros, 1 - 1e-6
    if not fits(high):
        raise InputError(
            f"{name} = {most:g} cannot be met by the trained model, whatever its share of zeros; raise it."
        )
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    fits(high)
    return f"zeros were raised from {zeros:.2%} to {high:.2%} after the training, to keep {name} = {most:g}."
