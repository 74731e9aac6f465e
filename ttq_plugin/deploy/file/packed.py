"""Packed files: compressed models in the few bytes that ternary weights need, restored bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ttq_plugin.core.model.attach import plain_model
from ttq_plugin.core.model.held import check_values, check_written
from ttq_plugin.core.model.matrices import Layout
from ttq_plugin.core.model.state import TernaryState
from ttq_plugin.deploy.file.codes import Bitmaps
from ttq_plugin.deploy.file.entries import WORDS, layouts
from ttq_plugin.deploy.file.entropy import Damaged
from ttq_plugin.deploy.file.reader import Reader, opened
from ttq_plugin.deploy.file.rest import REST
from ttq_plugin.deploy.file.writer import stored, write
from ttq_plugin.errors import InputError
from ttq_plugin.support.arguments import check_types


@dataclass(frozen=True)
class PackedInfo:
    """The metadata of a packed file.

    Attributes:
        task: Name of the built-in task whose model it holds, or None.
        method: Method by which the model was compressed, or None.
        report: Numbers of the report, or empty.
        more: Further entries of the writer.
        architecture: Name of the model's class.
        entries: Name in the state dict -> its entry: `as` (`raw`, a scheme of ``codes``, `float16`, `int8`, or `same`
            as the one it names in `of`), shape, dtype (safetensors' word), kind if it is packed, bytes (of small
            vectors, before they are deflated together).
        nbytes: Size in bytes of the file.
    """

    task: str | None
    method: str | None
    report: dict[str, Any]
    more: dict[str, Any]
    architecture: str
    entries: dict[str, dict[str, Any]]
    nbytes: int

    @property
    def packed_bytes(self) -> dict[str, int]:
        """Bytes of codes and scales of each packed matrix, by the name that reports give it."""
        packed = {n: e for n, e in self.entries.items() if "kind" in e and len(e["shape"]) > 1}
        return {n.removesuffix(".weight"): e["bytes"] for n, e in packed.items()}


def save_packed(
    model: nn.Module,
    path: Path | str,
    *,
    task: str | None = None,
    method: str | None = None,
    report: Mapping[str, Any] | None = None,
    more: Mapping[str, Any] | None = None,
    rest: str = "exact",
) -> PackedInfo:
    """Write a compressed model, with ternary weights as packed codes and scales and everything else unchanged.

    A weight matrix is packed if it, or each of its output channels, takes at most one positive and one negative value.
    So is any tensor with at most 256 distinct values, such as a weight on an int8 grid. Weights that several modules
    share are written once.

    Args:
        model: A plain module with baked weights, compiled or not; it is not changed.
        path: The file to write, ``.safetensors``.
        task: The built-in task whose model it is; ``load_packed`` can then rebuild the model by itself.
        method: Name of the method, for people who read the file.
        report: Numbers to keep, such as ``CompressionReport.to_dict()``.
        more: Further entries that JSON can hold.
        rest: How all other floating-point tensors are written: ``exact``, ``float16`` (half the bytes, relative error
            up to 2^-11) or ``int8`` (a quarter of the bytes, with one scale per output channel and an absolute error up
            to max|w| / 254 of the channel; only for matrices and kernels, the others stay exact).

    Returns:
        What was written, including its size.

    Raises:
        InputError: If the task or ``rest`` is unknown, the model has no weights or is still in training, a tensor
            cannot be stored, or the file cannot be written.

    Examples:
        >>> import torch
        >>> from ttq_plugin import bake, save_packed, ternarize
        >>> model = bake(ternarize(torch.nn.Sequential(torch.nn.Linear(64, 64)), ["0"], method="twn"))
        >>> save_packed(model, "small.safetensors", method="twn").nbytes < 64 * 64 * 4 / 4  # a quarter of float32
        True
    """
    check_types(save_packed, locals())
    check_values(model)
    from ttq_plugin.tasks import check_task

    if task is not None:
        check_task(task)
    if rest not in REST:
        raise InputError(f"rest must be one of {', '.join(REST)}, got {rest!r}.")
    model = plain_model(model)
    _check_baked(model)
    if not model.state_dict():
        raise InputError(
            f"{type(model).__name__} has no weights to write; save the network that it was made from instead."
        )
    about: dict[str, Any] = {"task": task, "method": method, "report": dict(report or {}), "more": dict(more or {})}
    directory = {"architecture": _architecture(model), **{key: value for key, value in about.items() if value}}
    write(Path(path), directory, *stored(model, rest))
    return packed_info(path)


def _check_baked(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if isinstance(module, TernaryState):
            layer = name.partition("._nni_wrapper")[0].partition(".parametrizations")[0]
            raise InputError(
                f"a packed file needs a plain model, got one whose layer {layer!r} is still made ternary in each pass; "
                "call bake(model), or its quantizer's export_model(), first."
            )


def load_packed(path: Path | str, model: nn.Module | None = None) -> nn.Module:
    """Read a model that ``save_packed`` wrote. Nothing in the file is ever executed or imported.

    Args:
        path: The file.
        model: A model of the saved architecture, which is filled in place; None to rebuild the model of the built-in
            task that the file names.

    Returns:
        The model; a rebuilt one is in evaluation mode.

    Raises:
        InputError: If the file is missing, damaged, of another kind, version or architecture, or does not name a
            built-in task although no model is given; the model is then unchanged.

    Examples:
        >>> import torch
        >>> from ttq_plugin import bake, load_packed, save_packed, ternarize
        >>> model = bake(ternarize(torch.nn.Sequential(torch.nn.Linear(64, 64)), ["0"], method="twn"))
        >>> _ = save_packed(model, "small.safetensors")
        >>> twin = load_packed("small.safetensors", torch.nn.Sequential(torch.nn.Linear(64, 64)))
        >>> torch.equal(twin[0].weight, model[0].weight)
        True
    """
    check_types(load_packed, locals())
    path = Path(path)
    with opened(path) as file:
        if model is None:
            model = _rebuilt(path, file.about["task"]).eval()
        check_values(model)
        plain = plain_model(model)
        state = plain.state_dict()
        check_written(state.items())
        _check_architecture(path, file, state, type(plain).__name__)
        _fill(path, file, state, layouts(plain))
    return model


def _fill(path: Path, file: Reader, state: dict[str, Tensor], known: dict[str, Layout]) -> None:
    """Copy all tensors into the model; raises InputError before the first one changes."""
    # All is decoded and checked before; two bits a weight remain of it until then.
    maps: dict[str, Bitmaps | None] = {}
    for writing in (False, True):
        for name, entry in file.entries.items():
            if entry["as"] != "same":
                value, maps[name] = _decoded(path, file, name, known.get(name), maps.get(name))
                if writing:
                    maps[name] = None
                    with torch.no_grad():
                        state[name].copy_(value)
        try:
            file.check()
        except Damaged as error:
            raise InputError(f"{path} is damaged: {error}.") from None
    for name, entry in file.entries.items():
        if entry["as"] == "same" and state[name].data_ptr() != state[entry["of"]].data_ptr():
            with torch.no_grad():
                state[name].copy_(state[entry["of"]])


def packed_info(path: Path | str) -> PackedInfo:
    """Read a packed file's metadata after checking its digest; no tensor is read.

    Args:
        path: The file.

    Returns:
        The task, the method, the report and the entries.

    Raises:
        InputError: If the file is missing, damaged, or of another kind or version.

    Examples:
        >>> import torch
        >>> from ttq_plugin import bake, packed_info, save_packed, ternarize
        >>> model = bake(ternarize(torch.nn.Sequential(torch.nn.Linear(64, 64)), ["0"], method="twn"))
        >>> _ = save_packed(model, "small.safetensors", method="twn", more={"note": "an example"})
        >>> packed_info("small.safetensors").method
        'twn'
    """
    check_types(packed_info, locals())
    path = Path(path)
    with opened(path) as file:
        return PackedInfo(**file.about, entries=file.entries, nbytes=path.stat().st_size)


def _architecture(model: nn.Module) -> str:
    return f"{type(model).__module__}.{type(model).__qualname__}"


def _check_architecture(path: Path, file: Reader, state: dict[str, Tensor], given: str) -> None:
    """Raise InputError unless names, shapes and dtypes are the model's; before anything is allocated."""
    theirs = {name: _form(file.entries, entry) for name, entry in file.entries.items()}
    own = {name: (tuple(value.shape), WORDS.get(value.dtype, str(value.dtype))) for name, value in state.items()}
    if theirs == own:
        return
    for name in sorted(theirs.keys() | own.keys()):
        if theirs.get(name) != own.get(name):
            here, there = (_words(forms.get(name)) for forms in (own, theirs))
            raise InputError(
                f"{path} holds a {file.about['architecture']}, and the model must be the same, got a {given}: its "
                f"{name} is {here}, the file's {there}."
            )


def _form(entries: dict[str, dict[str, Any]], entry: dict[str, Any]) -> tuple[tuple[int, ...], str]:
    entry = entries[entry["of"]] if entry["as"] == "same" else entry
    return tuple(entry["shape"]), entry["dtype"]


def _words(form: tuple[tuple[int, ...], str] | None) -> str:
    return "missing" if form is None else f"{form[1]} {'x'.join(map(str, form[0])) or 'scalar'}"


def _decoded(
    path: Path, file: Reader, name: str, layout: Layout | None, known: Bitmaps | None
) -> tuple[Tensor, Bitmaps | None]:
    try:
        return file.get(name, layout, known)
    except (Damaged, IndexError, RuntimeError, OSError) as error:
        raise InputError(f"{path} is damaged: {name}: {error}.") from None


def _rebuilt(path: Path, task: str | None) -> nn.Module:
    """The untrained model of the task that the file names."""
    from ttq_plugin.tasks import TASKS, get_task

    if not isinstance(task, str) or task not in TASKS:
        raise InputError(f"{path} does not name a built-in task; give load_packed a model of its architecture.")
    with torch.random.fork_rng(devices=[]):
        return get_task(task).model()
