"""Counts the multiply-adds of one forward pass where torch dispatches its operators.

Every operator that the model calls is seen, whichever module or function calls it: hand-written attention, einsum,
``F.linear`` with a parameter of the model, recurrent layers.

Counted are matrix products, convolutions, attention's products, the matrices of recurrent layers, biases,
normalisations (one an element) and multiplications by parameters. Weights count by their non-zeros: parameters, and
what is computed from parameters and constants alone, such as a masked weight. Everything else counts in full. Not
counted are additions, activations, pooling, softmax, and products of activations one by one (gates, squeeze and
excitation). A layer that is called twice is counted twice.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ttq_plugin.errors import InputError
from ttq_plugin.measures.operators import FREE, bias, is_heavy, rule_of
from ttq_plugin.measures.untouched import untouched
from ttq_plugin.support import inputs

NORMALISATIONS = (
    nn.modules.batchnorm._BatchNorm,
    nn.modules.instancenorm._InstanceNorm,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
)


@dataclass(frozen=True)
class Tally:
    """The counts of one run of a model.

    Attributes:
        mult_adds: Mult-adds per sample by the module's name. A product belongs to the module that holds its weight,
            else to the one that computes it.
        uncounted: Modules with an operator that multiplies but is not counted.
        parameters: Name of parameter -> how many of its module's mult-adds are made with it, rounded down; parameters
            that are not used as they are, such as a masked weight's, are not among them.
    """

    mult_adds: dict[str, int]
    uncounted: tuple[str, ...]
    parameters: dict[str, int]


def nonzeros(values: Tensor | None) -> int:
    """Values that are not zero; 0 for an absent tensor (a layer without bias)."""
    return 0 if values is None else int(torch.count_nonzero(values.detach()))


def count(model: nn.Module, example_input: Any) -> dict[str, int]:
    """Mult-adds of each module for one sample; see ``tally``.

    Args:
        model: A plain module.
        example_input: What the model takes.

    Returns:
        Name of module -> mult-adds a sample.
    """
    return tally(model, example_input).mult_adds


def tally(model: nn.Module, example_input: Any) -> Tally:
    """Count by running the model once; the model is not changed.

    Args:
        model: A plain module.
        example_input: What the model takes: a tensor (batch, ...), a tuple of positional or a dict of keyword
            arguments. The leading dimension is the batch, which is divided out (rounded up, where work is shared by its
            samples).

    Returns:
        The mult-adds per sample, and what was not counted.

    Raises:
        InputError: If the model does not run on `example_input`.
    """
    if not inputs.tensors(example_input) or not inputs.batch_size(example_input):
        raise InputError(
            "`example_input` must hold a tensor (batch, ...) with at least one sample: pass one of the data."
        )
    counter = _Counter(model)
    try:
        with untouched(model), torch.no_grad(), counter.modules(), counter:
            inputs.call(model, example_input)
    except (RuntimeError, TypeError) as error:
        raise InputError(
            f"The model must run on `example_input`, got an error on {inputs.kind(example_input)}: {error}"
        ) from error
    batch = inputs.batch_size(example_input)
    totals = {name: -(-total // batch) for name, total in counter.totals.items()}
    parameters = {name: total // batch for name, total in counter.parameters.items()}
    return Tally(totals, tuple(dict.fromkeys(counter.uncounted)), parameters)


class _Values:
    """Tracks by storage which tensors hold parameters or constants, or were computed from those alone."""

    def __init__(self, model: nn.Module) -> None:
        self._kinds: dict[int, str] = {}
        self._held: list[Tensor] = []  # so that no later tensor gets the address of one that is known
        self._sizes: dict[tuple[Any, ...], int] = {}
        for kind, tensors in (("constant", model.buffers()), ("weight", model.parameters())):
            for tensor in tensors:
                self._know(tensor, kind)

    def is_weight(self, tensor: Tensor) -> bool:
        """Whether it is a parameter, or computed from parameters and constants alone."""
        return self._kind(tensor) == "weight"

    def is_known(self, tensor: Tensor) -> bool:
        """Whether it does not depend on the model's input."""
        return self._kind(tensor) is not None

    def size(self, tensor: Tensor) -> int:
        """The non-zeros of a weight, the number of elements of anything else."""
        if not self.is_weight(tensor):
            return tensor.numel()
        key = (tensor.data_ptr(), tensor.shape, tensor.stride())
        if key not in self._sizes:  # a recurrent matrix is used in each step
            self._sizes[key] = nonzeros(tensor)
        return self._sizes[key]

    def learn(self, operator: Any, given: Sequence[Tensor], arguments: Sequence[Any], result: Any) -> None:
        """Note what the operator's results depend on, and what it has overwritten."""
        kinds = {self._kind(tensor) for tensor in given}
        written = [
            value
            for slot, value in zip(operator._schema.arguments, arguments, strict=False)
            if isinstance(value, Tensor) and slot.alias_info is not None and slot.alias_info.is_write
        ]
        if written:
            self._sizes.clear()
        if None in kinds:
            for tensor in written:
                self._kinds.pop(_address(tensor), None)
            return
        kind = "weight" if "weight" in kinds else "constant"
        for tensor in (*written, *(leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor))):
            self._know(tensor, kind)

    def _kind(self, tensor: Tensor) -> str | None:
        return self._kinds.get(_address(tensor))

    def _know(self, tensor: Tensor, kind: str) -> None:
        if (address := _address(tensor)) and self._kinds.get(address) != "weight":
            self._kinds[address] = kind
            self._held.append(tensor)


class _Counter(TorchDispatchMode):
    """Adds up the mult-adds of every operator under the name of a module."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.totals: Counter[str] = Counter()
        self.parameters: Counter[str] = Counter()
        self.uncounted: list[str] = []
        self._values = _Values(model)
        self._names = {module: name for name, module in model.named_modules()}
        self._owners: dict[int, list[tuple[nn.Module, str]]] = {}
        for module in self._names:
            for key, parameter in module.named_parameters(recurse=False):
                self._owners.setdefault(_address(parameter), []).append((module, key))
        self._running: list[nn.Module] = [model]

    @contextmanager
    def modules(self) -> Iterator[None]:
        """Follow which module is running."""
        handles = []
        for module in self._names:
            handles.append(module.register_forward_pre_hook(self._enter))
            handles.append(module.register_forward_hook(self._leave, always_call=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, module: nn.Module, arguments: tuple[Any, ...]) -> None:
        self._running.append(module)

    def _leave(self, module: nn.Module, arguments: tuple[Any, ...], out: Any) -> None:
        self._running.pop()
        if isinstance(module, NORMALISATIONS) and isinstance(out, Tensor):
            self.totals[self._names[module]] += out.numel()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the operator, then count it."""
        result = func(*args, **(kwargs or {}))
        given = [leaf for leaf in tree_leaves((args, kwargs or {})) if isinstance(leaf, Tensor)]
        # Devices differ in how they compute a normalisation: those are counted as modules, by their output.
        if not isinstance(self._running[-1], NORMALISATIONS):
            self._count(func, given, args, result)
        self._values.learn(func, given, args, result)
        return result

    def _count(self, func: Any, given: Sequence[Tensor], args: Sequence[Any], result: Any) -> None:
        namespace, name = func.namespace, func._schema.name.partition("::")[2]
        module = self._module(given)
        rule = rule_of(namespace, name)
        if rule is not None:
            for number, weight in rule(args, result, self._values):
                self._add(module, number, weight)
        elif name in ("add", "add_"):
            self._add_bias(module, given, result)
        elif is_heavy(namespace, name) or (name not in FREE and self._mixes(given)):
            self.uncounted.append(f"{self._names[module] or 'the model'} ({name})")

    def _add_bias(self, module: nn.Module, given: Sequence[Tensor], result: Tensor) -> None:
        """Where torch adds a bias after the product, it counts as it does inside: a vector of a module that has one."""
        name = self._names[module]
        vectors = [t for t in given if t.dim() == 1 and _address(t) in self._owners]
        if name in self.totals and len(vectors) == 1 and self._mixes(given):
            self._add(module, *bias(vectors[0], result, self._values))

    def _add(self, module: nn.Module, number: int, weight: Tensor | None) -> None:
        """Note mult-adds of a module, and with which of its parameters they are made."""
        if not number:
            return
        name = self._names[module]
        self.totals[name] += number
        held = [] if weight is None else [key for owner, key in self._owned(weight) if owner is module]
        if held:
            self.parameters[f"{name}.{held[0]}" if name else held[0]] += number

    def _mixes(self, given: Sequence[Tensor]) -> bool:
        """Whether weights meet what depends on the input."""
        return any(map(self._values.is_weight, given)) and not all(map(self._values.is_known, given))

    def _module(self, given: Sequence[Tensor]) -> nn.Module:
        """The module that holds a parameter among them, preferably the one that runs; else the one that runs."""
        running = self._running[-1]
        owners = [owner for tensor in given for owner, _ in self._owned(tensor)]
        return owners[0] if owners and running not in owners else running

    def _owned(self, tensor: Tensor) -> list[tuple[nn.Module, str]]:
        """The places of the parameter that a tensor is, or is a view of; several where it is tied."""
        owners = self._owners.get(_address(tensor), [])
        if len(owners) < 2:
            return owners
        # A recurrent layer on a GPU keeps all its parameters in one piece of memory.
        return [(owner, key) for owner, key in owners if _holds(owner.get_parameter(key), tensor)]


def _holds(parameter: Tensor, tensor: Tensor) -> bool:
    """Whether a tensor begins in the memory of a parameter."""
    return 0 <= tensor.data_ptr() - parameter.data_ptr() < parameter.numel() * parameter.element_size()


def _address(tensor: Tensor) -> int:
    """Identify the memory that a tensor uses, views included; 0 for none."""
    return tensor.untyped_storage().data_ptr() if tensor.layout == torch.strided and tensor.numel() else 0
