"""The weight matrices of a model: which tensors can be ternary, which layers hold them, and how their channels lie."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
WEIGHTED = (*CONVOLUTIONS, *TRANSPOSED, nn.Linear, nn.Bilinear, *EMBEDDINGS)
"""Torch's layers that have one matrix, called ``weight``; Hugging Face's ``Conv1D`` is one more."""

SEVERAL = (nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention)
"""Torch's layers that have several."""

PARTS = ("query", "key", "value")
"""Names of the parts of attention's stacked projections."""

KINDS = "convolutions, linear layers, embeddings, recurrent layers and nn.MultiheadAttention"
"""Both, in words."""


@dataclass(frozen=True)
class Layout:
    """How the values of a weight fall into groups that share scales and thresholds.

    Attributes:
        channel: The dimension of the output channels; None where no dimension holds them all (grouped transposed
            convolutions).
        parts: Equal parts along dimension 0 that are matrices of their own; 3 where attention stacks its query, key
            and value projections.
    """

    channel: int | None = 0
    parts: int = 1


@dataclass(frozen=True)
class Matrix:
    """One weight matrix, wherever it is held.

    Attributes:
        name: The layer's name where the tensor is its ``weight``, else the parameter's, such as ``lstm.weight_hh_l0``.
        owners: (module, attribute) of each place that holds the tensor, in the model's order; several where it is tied.
        paths: The parameter's name at each of these places.
        layout: How its groups lie, as the first of its owners has it that says so.
    """

    name: str
    owners: tuple[tuple[nn.Module, str], ...]
    paths: tuple[str, ...]
    layout: Layout

    @property
    def module(self) -> nn.Module:
        """The first module that holds it."""
        return self.owners[0][0]

    @property
    def parameter(self) -> nn.Parameter:
        """The tensor itself."""
        module, key = self.owners[0]
        return module.get_parameter(key)

    @property
    def alone(self) -> bool:
        """Whether it is the one matrix of one layer, which is called to use it: what NNI can wrap."""
        return len(self.owners) == 1 and self.owners[0][1] == "weight" and uses_its_weight(self.module)

    @property
    def of_attention(self) -> bool:
        """Whether ``nn.MultiheadAttention`` reads it."""
        return isinstance(self.module, (nn.MultiheadAttention, NonDynamicallyQuantizableLinear))


def is_conv1d(module: nn.Module) -> bool:
    """Whether it is Hugging Face's ``Conv1D``, a linear layer whose weight lies transposed; asked without importing."""
    return any(c.__name__ == "Conv1D" and c.__module__ == "transformers.pytorch_utils" for c in type(module).__mro__)


def is_weighted(module: nn.Module) -> bool:
    """Whether the module is a layer whose one matrix is its ``weight``."""
    return isinstance(module, WEIGHTED) or is_conv1d(module)


def uses_its_weight(module: nn.Module) -> bool:
    """Whether the module is a layer with one matrix that is used by calling it; attention does not call its layers."""
    return is_weighted(module) and not isinstance(module, NonDynamicallyQuantizableLinear)


def layouts(module: nn.Module) -> dict[str, Layout]:
    """The tensors of a module that are weight matrices by its class; those of its submodules are not among them.

    Args:
        module: Any module.

    Returns:
        Attribute -> layout, also where the attribute is no plain parameter at the moment.
    """
    if isinstance(module, nn.RNNBase):
        return {key: Layout() for key in module._flat_weights_names if key.startswith("weight")}
    if isinstance(module, nn.RNNCellBase):
        return {"weight_ih": Layout(), "weight_hh": Layout()}
    if isinstance(module, nn.MultiheadAttention):
        if module._qkv_same_embed_dim:
            return {"in_proj_weight": Layout(parts=3)}
        return {f"{key}_proj_weight": Layout() for key in "qkv"}
    if isinstance(module, TRANSPOSED):
        return {"weight": Layout(1 if module.groups == 1 else None)}
    if isinstance(module, EMBEDDINGS) or is_conv1d(module):
        return {"weight": Layout(1)}
    return {"weight": Layout()} if isinstance(module, WEIGHTED) else {}


def matrices(model: nn.Module) -> dict[str, Matrix]:
    """The weight matrices of a model's layers that are plain parameters, in the model's order.

    Args:
        model: Any module; it is not changed.

    Returns:
        Name -> matrix; a tensor that several layers share appears once, under its first name.
    """
    held = holders(model)
    found: dict[int, Matrix] = {}
    for path, module in model.named_modules():
        for key, layout in layouts(module).items():
            parameter = module._parameters.get(key)
            if parameter is not None and id(parameter) not in found:
                found[id(parameter)] = _matrix(matrix_name(path, key), held[id(parameter)], layout)
    return {matrix.name: matrix for matrix in found.values()}


def named_matrices(model: nn.Module, name: str, known: Mapping[str, Matrix]) -> list[Matrix]:
    """The matrices that a name refers to: every one in the module of that name, or the parameter of that name.

    Args:
        model: The model.
        name: Name of a module or a parameter.
        known: The model's ``matrices``.

    Returns:
        The matrices, in the model's order; none if the name refers to none, or to something that is not a plain
        parameter.
    """
    module = dict(model.named_modules(remove_duplicate=False)).get(name)
    if module is not None:
        held = {id(parameter) for parameter in module.parameters()}
        return [matrix for matrix in known.values() if id(matrix.parameter) in held]
    path, _, key = name.rpartition(".")
    holder = dict(model.named_modules(remove_duplicate=False)).get(path)
    if holder is None or holder._parameters.get(key) is None:
        return []
    return [any_matrix(model, path, key)]


def any_matrix(model: nn.Module, path: str, key: str) -> Matrix:
    """The matrix that a parameter is, of whatever module: where no layer says otherwise, its rows are the channels.

    Args:
        model: The model.
        path: A module's name in it.
        key: A plain parameter of that module.

    Returns:
        The matrix, as in ``matrices`` if it is among them.
    """
    parameter = model.get_submodule(path).get_parameter(key)
    for matrix in matrices(model).values():
        if matrix.parameter is parameter:
            return matrix
    return _matrix(matrix_name(path, key), holders(model)[id(parameter)], Layout())


def matrix_name(path: str, key: str) -> str:
    """What a module's tensor is called: like the module if it is its ``weight``, else like the parameter."""
    return path if key == "weight" else parameter_name(path, key)


def part_name(name: str, index: int, parts: int) -> str:
    """What a part of a matrix is called, for messages; a matrix of one part keeps its name."""
    return name if parts == 1 else f"{name} ({PARTS[index] if parts == len(PARTS) else index})"


def parameter_name(path: str, key: str) -> str:
    """A parameter's name in its model, of a module of that name."""
    return f"{path}.{key}" if path else key


def holders(model: nn.Module) -> dict[int, list[tuple[str, nn.Module, str]]]:
    """Each parameter's places by its id: (module's name, module, attribute), a module of two names once."""
    held: dict[int, list[tuple[str, nn.Module, str]]] = {}
    for path, module, key in _places(model):
        held.setdefault(id(module._parameters[key]), []).append((path, module, key))
    return held


def _places(model: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    for path, module in model.named_modules():
        for key, parameter in module._parameters.items():
            if parameter is not None:
                yield path, module, key


def _matrix(name: str, places: list[tuple[str, nn.Module, str]], layout: Layout) -> Matrix:
    owners = tuple((module, key) for _, module, key in places)
    return Matrix(name, owners, tuple(parameter_name(path, key) for path, _, key in places), layout)
