"""Ternary weights as torch parametrizations: put on a model's matrices, and taken off again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ttq_plugin.core.model.course import Course, course_of
from ttq_plugin.core.model.matrices import Matrix, matrix_name, part_name
from ttq_plugin.core.model.places import READ_OFTEN, borrow, borrowed, give_back, read_once, refresh
from ttq_plugin.core.model.state import TernaryState
from ttq_plugin.core.steps import TERNARY
from ttq_plugin.core.ternary_step import ternary_step
from ttq_plugin.core.zeros import Member
from ttq_plugin.errors import InputError

ORDER = "_ternary_order"
"""Attribute of a changed module: the names of its parameters as they stood before."""


class AttachedTernary(TernaryState):
    """A matrix's learned parameters as a parametrization: latent weight in, ternary weight out."""

    def forward(self, w: Tensor) -> Tensor:
        """The ternary weight of the latent weight ``w``; brings back what the last optimiser step took out of range."""
        if self.method.step is not TERNARY:
            if torch.compiler.is_exporting():
                return self.method.weights(w, self.method.projected(self.params))
            self.project_()
            return super().forward(w)
        # The two registries themselves, as in TernaryState.
        learned: dict[str, Any] = self._buffers | self._parameters
        return ternary_step(w, learned["scales"], learned["thresholds"], learned["alpha"], self.method, project=True)

    def project_(self) -> None:
        """Bring what was learned back to at least 1e-8, in place.

        At the start of a forward pass this equals a projection after each optimiser step, and needs no hold on the
        loop. A second forward pass before the next step changes nothing, so autograd need not see it: with
        ``.data`` what the first one saved stays valid. Where the forward pass sees copies of what the optimiser
        changes, as under FSDP, the copies alone are projected: see ``attach.project_``.
        """
        self.method.project_({name: value.data for name, value in self.params.items()})


class AttachedParts(nn.Module):
    """Several matrices that one tensor stacks along dimension 0, each with its own learned parameters.

    Attributes:
        states: One for each part, in order.
    """

    def __init__(self, states: Iterable[AttachedTernary]) -> None:
        super().__init__()
        self.states = nn.ModuleList(states)

    def forward(self, w: Tensor) -> Tensor:
        """The ternary weight of the latent weight ``w``."""
        parts = w.chunk(len(self.states))
        return torch.cat([state(part) for state, part in zip(self.states, parts, strict=True)])


Attached = AttachedTernary | AttachedParts


def states(module: nn.Module) -> list[AttachedTernary]:
    """What the matrices in a module learn, each matrix once."""
    return [part for part in module.modules() if isinstance(part, AttachedTernary)]


def members_of(name: str, part: Attached, latent: Tensor) -> list[Member]:
    """A matrix as a member of the set over which zeros are counted; the parts of a stacked one are separate members.

    Args:
        name: The matrix.
        part: Its parametrization.
        latent: Its latent weight.

    Returns:
        One a part.
    """
    found = states(part)
    rows = latent.detach().chunk(len(found))
    return [
        Member(part_name(name, i, len(found)), state.method, state.params, row, row.add_)
        for i, (state, row) in enumerate(zip(found, rows, strict=True))
    ]


def course_members(model: nn.Module, course: Course) -> list[Member]:
    """The matrices of a model that belong to one call with a prescribed share of zeros.

    Args:
        model: The model.
        course: The call's.

    Returns:
        Its members in the model's order.

    Raises:
        InputError: If a matrix is sharded.
    """
    members: list[Member] = []
    for path, module, key in attached_tensors(model):
        parts = parametrization(module, key)
        if course_of(states(parts)[0]) is course:
            if is_sharded(parts.original):
                raise InputError(f"{path}: is sharded, and zeros cannot be counted over shards; leave zeros out.")
            members += members_of(matrix_name(path, key), own_part(parts), parts.original)
    return members


def is_sharded(weight: object) -> bool:
    """Whether a parameter is a DTensor, asked without importing torch.distributed."""
    return hasattr(weight, "full_tensor")


def attach(found: Mapping[str, Matrix], attached: Mapping[str, Attached]) -> None:
    """Parametrize each matrix at the first module that holds it; the others read it there.

    Args:
        found: Name -> matrix, all of them fit for it.
        attached: Name -> its parametrization.
    """
    for matrix in found.values():
        for module, _ in matrix.owners:
            module.__dict__.setdefault(ORDER, tuple(module._parameters))
    for matrix in found.values():
        (module, key), *others = matrix.owners
        for other, name in others:
            borrow(other, name, module, key)
    changed: dict[nn.Module, list[str]] = {}
    for name, matrix in found.items():
        module, key = matrix.owners[0]
        # Unsafe means unchecked here: shape and dtype are kept by construction, the check would cost a forward pass.
        parametrize.register_parametrization(module, key, attached[name], unsafe=True)
        changed.setdefault(module, []).append(key)
    for module, keys in changed.items():
        if isinstance(module, READ_OFTEN):
            read_once(module, keys)


def attached_tensors(model: nn.Module) -> list[tuple[str, nn.Module, str]]:
    """(module's name, module, tensor) of every ternary parametrization."""
    found = []
    for name, module in model.named_modules():
        lists = module._modules.get("parametrizations")
        if isinstance(lists, nn.ModuleDict):
            found += [(name, module, key) for key, parts in lists.items() if any(map(_is_ours, parts.children()))]
    return found


def parametrization(module: nn.Module, key: str) -> parametrize.ParametrizationList:
    """What replaces a tensor in a parametrized module: the latent weight, and the parametrizations applied to it.

    Args:
        module: One that ``attached_tensors`` found.
        key: Its tensor.

    Returns:
        The list of torch, whose ``original`` is the latent weight.
    """
    lists = module._modules["parametrizations"]
    assert isinstance(lists, nn.ModuleDict)
    parts = lists[key]
    assert isinstance(parts, parametrize.ParametrizationList)
    return parts


def own_part(parts: parametrize.ParametrizationList) -> Attached:
    """This plugin's parametrization among those of a tensor."""
    part = parts[0]
    assert isinstance(part, (AttachedTernary, AttachedParts))
    return part


def _is_ours(part: nn.Module) -> bool:
    return isinstance(part, (AttachedTernary, AttachedParts))


def check_detachable(model: nn.Module) -> None:
    """Check that ``detach`` can make the model plain.

    Args:
        model: A model with ternary parametrizations.

    Raises:
        InputError: If it has none, one of its layers has further parametrizations, or it is sharded.
    """
    found = attached_tensors(model)
    if not found:
        raise InputError("the model has no ternary layer to bake; call ternarize(model, layers) first.")
    own = {(name, key) for name, _, key in found}
    for name, module, key in found:
        lists = module._modules["parametrizations"]
        assert isinstance(lists, nn.ModuleDict)
        if len(parametrization(module, key)) > 1 or any((name, other) not in own for other in lists):
            raise InputError(f"{name}: has other parametrizations besides the ternary one; remove them before bake.")
        if is_sharded(parametrization(module, key).original):
            raise InputError(
                f"{name}: is sharded; gather the full state dict, load it into a model that was made by the same call "
                "of ternarize, and bake that one."
            )


@torch.no_grad()
def detach(model: nn.Module) -> None:
    """Give the layers of a deep copy their classes and plain, ternary weights back, in place.

    Not by ``parametrize.remove_parametrizations``: it deletes the property from the parametrized class, which torch's
    deep copies share with their original, so the original would lose its weight.

    Args:
        model: A model that ``check_detachable`` accepts.
    """
    values: dict[tuple[nn.Module, str], nn.Parameter] = {}
    for _, module, key in attached_tensors(model):
        parts = parametrization(module, key)
        for state in states(parts):
            state.project_()
        values[module, key] = nn.Parameter(parts[0](parts.original), requires_grad=parts.original.requires_grad)
    changed = [module for module in model.modules() if ORDER in module.__dict__]
    for module in changed:
        if parametrize.is_parametrized(module):
            module.__class__ = parametrize.type_before_parametrizations(module)
            del module.parametrizations
        for key, place in borrowed(module).items():
            values[module, key] = values[place]
        give_back(module)
    for (module, key), value in values.items():
        module.register_parameter(key, value)
    for module in changed:
        names = dict.fromkeys((*module.__dict__.pop(ORDER), *module._parameters))
        module._parameters = {name: module._parameters[name] for name in names if name in module._parameters}
        refresh(module)
