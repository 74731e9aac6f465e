"""What quantizers and pruners share: options, initial parameters, learning rates, health and checkpoints."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Literal, Self

from nni.compression.base.compressor import Compressor
from nni.compression.base.config import select_modules_by_config
from nni.compression.base.wrapper import ModuleWrapper
from nni.compression.utils import Evaluator
from torch import Tensor, nn

from ttq_plugin.core import Params, Ternarizer, get_method
from ttq_plugin.core.model.attach import check_rate
from ttq_plugin.core.model.held import check_trainable
from ttq_plugin.core.model.layers import channel_of, check_layers, tensor_of
from ttq_plugin.core.model.state import TernaryState, share_thresholds
from ttq_plugin.errors import InputError
from ttq_plugin.methods import LR_THRESHOLD
from ttq_plugin.nni_adapter.beside import check_free
from ttq_plugin.nni_adapter.export import effective
from ttq_plugin.nni_adapter.health import Health, HealthMonitor, Look, frozen
from ttq_plugin.nni_adapter.layers.folding import latent
from ttq_plugin.nni_adapter.layers.lean import adopt
from ttq_plugin.nni_adapter.layers.names import first_names
from ttq_plugin.nni_adapter.training.checkpoint import Checkpointed
from ttq_plugin.nni_adapter.training.epochs import call_each_epoch, check_length, check_reports
from ttq_plugin.nni_adapter.training.evaluators import after_steps
from ttq_plugin.nni_adapter.training.groups import NewGroup, add_groups, check_optimizers, home_of, untrained
from ttq_plugin.nni_adapter.training.recipes import check_groups_of_old
from ttq_plugin.nni_adapter.training.undo import Originals, release, unchanged_on_failure
from ttq_plugin.nni_adapter.training.zeros import Prescribed, learn_length
from ttq_plugin.support.arguments import check_types
from ttq_plugin.support.names import check_module_names


class TernaryCompressor(Prescribed, Checkpointed, Compressor):
    """Base of ``TernaryQuantizer`` and ``TernaryPruner``; stands before NNI's class in their bases.

    Args:
        model: The full-precision model to compress; NNI wraps it in place.
        config_list: NNI's config list; ``target_names`` may only be ``["weight"]``, which is also the default.
        evaluator: An NNI evaluator with traced optimisers; nothing can be trained without one.
        existed_wrappers: NNI's wrappers, as passed by ``from_compressor``.
        method: Another method of ``METHODS`` than the class's own, such as an ablation (``pttq-fixed``).
        lr_scale: Learning rate of the scales W_p and W_n; None for the optimiser's own.
        lr_threshold: Learning rate of thresholds and alpha, if the method learns them; None for the optimiser's own.
        on_health: Called with a ``Health`` every ``health_every`` training steps.
        health_every: Steps between two calls of ``on_health``, or ``"epoch"`` if the evaluator's trainer knows its
            epochs (Lightning's, Transformers'). In a loop of your own, use the steps of an epoch, ``len(loader)``.
        options: The method's numbers and options (``t``, ``t_min``, ``t_max``, ``alpha``, ``scale_init``,
            ``on_empty``, ...), see ``Ternarizer``. With ``zeros=0.9`` instead of ``t``, exactly this share of all their
            weights is zero when the training ends. The share rises over the steps of ``compress(max_steps)``, or over
            those that Lightning's or Transformers' trainer expects, or else over ``zeros_steps`` (1000 by default).

    Raises:
        InputError: If the config list, an optimiser, a weight or an option cannot be used; the model is left unwrapped
            and unchanged.
    """

    method_name: str
    state_name: str
    """The attribute of NNI's wrapper that holds this compressor's ``TernaryState``."""
    _interrupted = False
    """Whether the last training failed, and left the model unwrapped."""

    def __init__(
        self,
        model: nn.Module,
        config_list: list[dict[str, Any]],
        evaluator: Evaluator | None = None,
        existed_wrappers: dict[str, ModuleWrapper] | None = None,
        *,
        method: str | None = None,
        lr_scale: float | None = 1e-3,
        lr_threshold: float | None = LR_THRESHOLD,
        on_health: Callable[[Health], object] | None = None,
        health_every: int | Literal["epoch"] = 100,
        **options: Any,
    ) -> None:
        check_types(TernaryCompressor.__init__, locals())
        check_trainable(model)
        self.method_name = self.method_name if method is None else method
        self.method: Ternarizer = get_method(self.method_name).configure(**options)
        self.lr_scale = check_rate("lr_scale", lr_scale)
        self.lr_threshold = check_rate("lr_threshold", lr_threshold)
        check_reports(health_every, evaluator)
        self.notes: list[str] = []
        self._parameter_order: dict[str, list[str]] = {}
        configs = self._configs(model, config_list)
        _check_unwrapped(model)
        check_module_names(model)
        initial = self._initial(model, configs)
        check_free(initial, existed_wrappers or {}, self.mode)
        if evaluator is not None:
            if not evaluator._initialization_complete:
                evaluator._init_optimizer_helpers(model)
            check_optimizers(evaluator, model)
        self._originals = Originals(model)
        self._aliases = {name: first for name, first in first_names(model).items() if first in initial}
        with unchanged_on_failure(model, evaluator, (existed_wrappers or {}).values()):
            super().__init__(model, configs, evaluator, existed_wrappers)
            self._attach(initial)
        self.notes += [f"{name}: {why}" for name in self.states() if (why := untrained(evaluator, name))]
        self._monitor = HealthMonitor(self, on_health, health_every)
        self._forget_epochs: Callable[[], None] = _nothing
        self._forget_length: Callable[[], None] = _nothing

    @classmethod
    def from_compressor(
        cls, compressor: Compressor, new_config_list: list[dict[str, Any]], *args: Any, **kwargs: Any
    ) -> Self:
        """Create a compressor that joins another one's model and training; see NNI's method of the same name.

        Args:
            compressor: The compressor to join.
            new_config_list: This one's config list.
            args: Further arguments of this class.
            kwargs: Further arguments of this class.

        Returns:
            The new compressor; train with it, not with the one it joined.
        """
        wrapped = compressor._is_wrapped
        with unchanged_on_failure(compressor.bound_model, compressor.evaluator, compressor._module_wrappers.values()):
            try:
                return super().from_compressor(compressor, new_config_list, *args, **kwargs)
            except BaseException:
                # NNI has unwrapped it; what was wrapped stays wrapped.
                compressor._is_wrapped = wrapped
                raise

    def _configs(self, model: nn.Module, config_list: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The config list, checked before NNI touches the model."""
        raise NotImplementedError

    def _use(self, name: str, wrapper: ModuleWrapper, space: Any) -> None:
        """Make NNI's target space apply this compressor's state."""
        raise NotImplementedError

    def _initial(self, model: nn.Module, configs: list[dict[str, Any]]) -> dict[str, tuple[Ternarizer, Params]]:
        """Each selected layer's method and initial parameters, computed before NNI touches the model."""
        initial = {}
        for config in configs:
            modules, _, _ = select_modules_by_config(model, config)
            check_layers(model, modules)
            for name, module in modules.items():
                method = self._layer_method(module, config)
                params, notes = self._begin(method, module, name, config)
                initial[name] = method, params
                self.notes += notes
                self._parameter_order[name] = list(module._parameters)
        self._begin_course(model, initial)
        return initial

    def _begin(
        self, method: Ternarizer, module: nn.Module, name: str, config: dict[str, Any]
    ) -> tuple[Params, list[str]]:
        """A layer's initial parameters, and notes on them."""
        return method.init(tensor_of(module, "weight"), name)

    def _layer_method(self, module: nn.Module, config: dict[str, Any]) -> Ternarizer:
        """The method with the granularity that NNI's config asks for this layer."""
        setting = config.get("target_settings", {}).get("weight", {})
        channel = channel_of(module, setting.get("granularity", config.get("granularity", "default")))
        return self.method.configure(channel=channel)

    def _attach(self, initial: dict[str, tuple[Ternarizer, Params]]) -> None:
        for wrapper in self._module_wrappers.values():
            adopt(wrapper)
        for name, wrapper, space in self._ternary_spaces():
            setattr(wrapper, self.state_name, TernaryState(*initial[name]).to(wrapper.weight.device))
            self._use(name, wrapper, space)
        self._attach_course()
        if self.method.share_thresholds:
            share_thresholds(list(self.states().values()))
        self._homes = dict.fromkeys(self.states(), 0)
        self._counted = 0
        if self.evaluator is not None:
            names = self._get_param_names_map()
            self._homes |= add_groups(self.evaluator, self.bound_model, self._parameter_groups(), names)
            self._counted = home_of(self.evaluator, next(iter(self._homes)))

    def _ternary_spaces(self) -> list[tuple[str, ModuleWrapper, Any]]:
        """(layer name, NNI's wrapper, NNI's target space) of every weight this compressor owns."""
        return [
            (name, self._module_wrappers[name], spaces["weight"])
            for name, spaces in sorted(self._target_spaces.items())
            if "weight" in spaces
        ]

    def _parameter_groups(self) -> list[NewGroup]:
        # A parameter that several layers share appears under its first name only.
        present = {name for name, _ in self.bound_model.named_parameters()}
        groups = []
        for rate, members in ((self.lr_scale, ("scales",)), (self.lr_threshold, ("thresholds", "alpha"))):
            names = {
                path: name
                for name in self.states()
                for member in members
                if (path := f"{name}._nni_wrapper.{self.state_name}.{member}") in present
            }
            # Weight decay would pull scales and thresholds towards zero, where they have no meaning.
            groups.append(NewGroup(names, {"weight_decay": 0.0} | ({"lr": rate} if rate is not None else {})))
        return groups

    def states(self) -> dict[str, TernaryState]:
        """Each selected layer's scales and thresholds, by layer name."""
        return {name: self._state(wrapper) for name, wrapper, _ in self._ternary_spaces()}

    def _state(self, wrapper: ModuleWrapper) -> TernaryState:
        state: TernaryState = getattr(wrapper, self.state_name)
        return state

    def codes(self) -> dict[str, Tensor]:
        """Each selected layer's signs (int8: -1, 0, 1; 0 is the dead zone), by layer name."""
        return {name: self._state(wrapper).codes(latent(wrapper)) for name, wrapper, _ in self._ternary_spaces()}

    def looks(self) -> list[Look]:
        """The layers that ``health`` examines."""
        return [
            Look(
                name,
                self._state(wrapper),
                latent(wrapper),
                self._exported(wrapper),
                frozen(wrapper.weight) or untrained(self.evaluator, name),
            )
            for name, wrapper, _ in self._ternary_spaces()
        ]

    def _exported(self, wrapper: ModuleWrapper) -> Tensor:
        """The weight that an export would write."""
        return effective(wrapper)["weight"]

    def health(self) -> Health:
        """The current state of the layers, and how many signs have flipped since the last call.

        Returns:
            One row for each layer; there is also a warning, once, for each layer that collapsed.
        """
        return self._monitor.look()

    def _check_training(self, max_steps: int | None, max_epochs: int | None) -> None:
        check_types(TernaryCompressor._check_training, locals())
        if self.evaluator is None:
            raise InputError(f"{type(self).__name__} has no evaluator to train with; pass one to train.")
        check_length("compress", max_steps, max_epochs)

    def unwrap_model(self) -> None:
        """Unwrap the layers, as NNI does; they have the parameters again that they had, with today's latent values."""
        super().unwrap_model()
        self._originals.give_back(self._module_wrappers)

    def _fusion_compress(self, max_steps: int | None, max_epochs: int | None) -> None:
        if self._interrupted and not self._is_wrapped:
            self.wrap_model()
        if self.evaluator is not None:
            check_groups_of_old(self.evaluator)
        own = [c for c in self.fused_compressors if isinstance(c, TernaryCompressor)]
        steps = [compressor.steps for compressor in own]
        try:
            super()._fusion_compress(max_steps, max_epochs)
        except BaseException:
            self._interrupted = True
            if self.evaluator is not None:
                for compressor in own:
                    compressor._leave_training(self.evaluator)
                release(self.evaluator)
            self.unwrap_model()
            raise
        self._interrupted = False
        if 0 not in (max_steps, max_epochs) and steps == [compressor.steps for compressor in own]:
            warnings.warn(
                "the training ended without a step of the evaluator's optimisers, so that scales, thresholds and zeros "
                "were not looked after; step the optimisers that the training function is given.",
                stacklevel=5,
            )

    def _fuse_preprocess(self, evaluator: Evaluator) -> None:
        after_steps(evaluator, self._step_task)
        self._forget_length = learn_length([self.course], evaluator)
        if self._monitor.every == "epoch" and self._monitor.callback is not None:
            self._forget_epochs = call_each_epoch(evaluator, self._monitor.tell)
        self._restore_training(evaluator)

    def _fuse_postprocess(self, evaluator: Evaluator) -> None:
        self._leave_training(evaluator)
        self._settle()

    def _leave_training(self, evaluator: Evaluator) -> None:
        self._keep_training(evaluator)
        self._forget_epochs()
        self._forget_length()
        self._forget_epochs = self._forget_length = _nothing

    def _step_task(self, index: int) -> Callable[[], None]:
        """What follows each step of the optimiser of that index; a training step is one of the first layer's."""
        learned = [state for name, state in self.states().items() if self._homes[name] == index]

        def after_step() -> None:
            # Only what that optimiser changed: the others' may be part of a graph that is yet to go backward.
            for state in learned:
                state.project_()
            if index == self._counted:
                self.steps += 1
                if self.course is not None:
                    self.course.step(self.members)
                self._monitor.step()

        return after_step


def _nothing() -> None:
    """Nothing is called after each epoch."""


def _check_unwrapped(model: nn.Module) -> None:
    if wrapped := [name for name, m in model.named_modules() if hasattr(m, "_nni_wrapper")]:
        raise InputError(
            f"layer {wrapped[0]!r} is already wrapped by another compressor; use from_compressor to add this one "
            "to it, or call its unwrap_model() first."
        )
