"""Finds the matrices that a user's names refer to."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn
from torch.nn.utils import parametrize

from ttq_plugin.core.model.layers import check_embedding, check_parameter
from ttq_plugin.core.model.matrices import (
    KINDS,
    Matrix,
    any_matrix,
    layouts,
    matrices,
    matrix_name,
    parameter_name,
)
from ttq_plugin.core.model.parametrized import is_sharded
from ttq_plugin.core.model.places import borrowed
from ttq_plugin.errors import InputError
from ttq_plugin.support.arguments import shown
from ttq_plugin.support.names import check_module_names


def select_matrices(model: nn.Module, layers: Iterable[str]) -> dict[str, Matrix]:
    """The matrices in the named modules, all of them fit for a parametrization.

    Args:
        model: The model.
        layers: Names of modules, each of which means every matrix in it, or of parameters.

    Returns:
        Name -> matrix.

    Raises:
        InputError: For a name that the model does not have or that stands for no matrix, and for a matrix that cannot
            be ternary.
    """
    if isinstance(layers, str) or not isinstance(layers, Iterable):
        raise InputError(f"layers must be a list of layer names, got {shown(layers)}.")
    check_module_names(model)
    names = list(layers)
    known = matrices(model)
    available = f"the model's layers are {', '.join(known) or 'none that could be ternary'}"
    if not names:
        raise InputError(f"layers must name at least one layer, got none; {available}.")
    if len(set(names)) < len(names):
        raise InputError(f"layers names the same layer more than once: {', '.join(names)}.")
    modules = dict(model.named_modules(remove_duplicate=False))
    found: dict[str, Matrix] = {}
    for name in names:
        if name in modules:
            found |= _inside(name, modules[name], known)
            continue
        path, _, key = name.rpartition(".") if isinstance(name, str) else ("", "", name)
        if path not in modules or not hasattr(modules[path], str(key)):
            raise InputError(f"layers names {shown(name)}, which the model does not have; {available}.")
        found |= _one(model, modules[path], path, key)
    for matrix in found.values():
        check_matrix(matrix)
    return found


def _inside(name: str, module: nn.Module, known: dict[str, Matrix]) -> dict[str, Matrix]:
    """The matrices that a module and its submodules hold."""
    held = {id(matrix.parameter): matrix for matrix in known.values()}
    found: dict[str, Matrix] = {}
    for inner, part in module.named_modules(prefix=name):
        check_plain(inner, part)
        for key in layouts(part):
            parameter = part._parameters.get(key)
            if parameter is None:
                what = matrix_name(inner, key)
                raise InputError(
                    f"{what}: its weight is not a plain parameter (pruned or normalised by a hook); undo that first."
                )
            matrix = held[id(parameter)]
            found[matrix.name] = matrix
    if not found:
        raise InputError(f"{name}: a {type(module).__name__} cannot be ternary, only {KINDS} can.")
    return found


def _one(model: nn.Module, module: nn.Module, path: str, key: str) -> dict[str, Matrix]:
    """The matrix that one named parameter is."""
    name = parameter_name(path, key)
    check_plain(path, module)
    parameter = module._parameters.get(key)
    if parameter is None:
        raise InputError(f"{name}: is not a plain parameter; name the module that holds it, or undo what computes it.")
    if parameter.dim() < 2:
        raise InputError(f"{name}: is not a matrix, since its shape is {tuple(parameter.shape)}; leave it out.")
    matrix = any_matrix(model, path, key)
    return {matrix.name: matrix}


def check_plain(name: str, module: nn.Module) -> None:
    """Check that a module's weights are not managed by anything else yet.

    Args:
        name: Its name, for messages.
        module: The module.

    Raises:
        InputError: If NNI wraps it, or one of its tensors is parametrized or tied to one that is.
    """
    if hasattr(module, "_nni_wrapper"):
        raise InputError(
            f"{name}: is wrapped by an NNI compressor; call its unwrap_model() first, or use its quantizer."
        )
    if parametrize.is_parametrized(module) or borrowed(module):
        raise InputError(f"{name}: already has a parametrization; bake or remove it first.")


def check_matrix(matrix: Matrix) -> None:
    """Check that a matrix can be ternary wherever it is held.

    Args:
        matrix: The matrix of a model with plain weights.

    Raises:
        InputError: If the matrix cannot be parametrized; the message gives the first reason.
    """
    name = matrix.name
    for (module, _), path in zip(matrix.owners, matrix.paths, strict=True):
        check_plain(path.removesuffix(".weight"), module)
        check_embedding(name, module)
    if is_sharded(matrix.parameter):
        raise InputError(f"{name}: is sharded already; ternarize before fully_shard.")
    check_parameter(name, matrix.parameter)
