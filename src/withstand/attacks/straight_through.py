"""An attack that looks through layers without a gradient."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Final, Self

import torch
from torch import Tensor, nn
from typing_extensions import override

from withstand.attacks.attack import AttackAround
from withstand.bayes import Predictor
from withstand.core.suggest import nearest
from withstand.core.wrappers import eager, unwrapped
from withstand.types import AttackError

_CUT_OFF: Final = ("Hardtanh", "ReLU6", "Hardsigmoid")  # flat at both ends
_AS_IT_IS: Final = "Attack the network as it is before it is compiled or scripted"


@dataclass(frozen=True)
class StraightThrough(AttackAround):
    """Another attack, which takes the gradient of some layers to be that of the identity.

    A layer that cuts off, rounds or thresholds its inputs has no gradient where it is flat, and an attack by
    gradients does not move what lies there. This one does: it is the backward pass differentiable
    approximation (BPDA) of Athalye et al., "Obfuscated gradients give a false sense of security"
    (ICML 2018), section 4.1, with the identity for the layer. Answers are those of the network itself, so
    what it breaks is broken. Use it in training and in evaluation alike, of networks with ``stretch``, say.

    Args:
        attack: What to run.
        layers: Names of the layers, as ``model.named_modules()`` has them, or else their last parts. Each
            gives a tensor of the shape of its one input. Empty: all ``Hardtanh``, ``ReLU6`` and
            ``Hardsigmoid``.

    Raises:
        ValueError: ``layers`` is no list of names, or the attack transfers from another model.
        AttackError: when called: the network has no such layer, or one has another shape after than
            before, or has not run at all.
    """

    layers: Sequence[str] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        names = (
            None if isinstance(self.layers, str) or not isinstance(self.layers, Iterable) else (*self.layers,)
        )
        if names is None or not all(isinstance(name, str) and name for name in names):
            raise ValueError(f"layers must be a list of names of layers, but got {self.layers!r}.")
        object.__setattr__(self, "layers", names)
        if any(stage.kind == "transfer" for stage in self.attack.stages):
            raise ValueError(
                "What is transferred follows the gradient of another model, whose layers stay as they are: "
                "put StraightThrough inside Transfer."
            )

    @override
    def perturb(
        self, model: nn.Module, images: Tensor, labels: Tensor, *, progress: float = math.inf
    ) -> Tensor:
        network = unwrapped(model)  # compiled code would not see what is put around its layers
        with eager(), _as_identities(network, self._layers_of(network), is_named=bool(self.layers)):
            return self.attack.perturb(network, images, labels, progress=progress)

    @property
    @override
    def name(self) -> str:
        return f"straight-through-{self.attack.name}"

    @override
    def describe(self) -> str:
        which = ", ".join(self.layers) or "layers that cut off"
        return f"{self.attack.describe()}, with the gradient of the identity for {which}"

    def _layers_of(self, network: nn.Module) -> dict[str, nn.Module]:
        modules = dict(network.named_modules(remove_duplicate=False))
        if not self.layers:
            chosen = {name: layer for name, layer in modules.items() if _cuts_off(layer)}
            if not chosen:
                raise AttackError(
                    f"The network has no layer of {', '.join(_CUT_OFF)}. Leave StraightThrough out, or name "
                    "in its layers those that a gradient is to pass through. Where the forward cuts off or "
                    "rounds by a function, make that a module."
                )
            return chosen
        chosen = {}
        for wanted in self.layers:
            ending = {name: layer for name, layer in modules.items() if name.endswith(f".{wanted}")}
            named = {wanted: modules[wanted]} if wanted in modules else ending
            if not named:
                known = nearest(wanted, filter(None, modules))
                raise AttackError(f"The network has no layer {wanted!r}: {known}")
            chosen.update(named)
        return chosen


def _cuts_off(layer: nn.Module) -> bool:
    """Of a scripted network too, whose layers are of no class of their own."""
    return getattr(layer, "original_name", type(layer).__name__) in _CUT_OFF


@contextmanager
def _as_identities(network: nn.Module, layers: dict[str, nn.Module], *, is_named: bool) -> Iterator[None]:
    """While open, the gradient of layers is that of the identity.

    Args:
        network: Whose layers; what it averages over draws may be attacked alone.
        layers: Name -> layer.
        is_named: Whether each of them has to run, since it was asked for, or one of them.
    """
    hooks = {layer: _Identity(name) for name, layer in layers.items()}
    runs: list[None] = []
    with ExitStack() as stack:
        inside = network.model if isinstance(network, Predictor) else network
        try:
            stack.callback(inside.register_forward_pre_hook(lambda *_: runs.append(None)).remove)
            for layer, hook in hooks.items():
                # The last to see what the layer is given, and the first to see what it gives.
                stack.callback(layer.register_forward_pre_hook(hook.before).remove)
                stack.callback(layer.register_forward_hook(hook.after, prepend=True).remove)
        except RuntimeError as error:  # of a scripted module
            raise AttackError(
                f"Layers of this network cannot be passed through: {error}. {_AS_IT_IS}"
            ) from error
        yield
    silent = [hook.name for hook in hooks.values() if not hook.has_run]
    if runs and silent and (is_named or len(silent) == len(hooks)):
        raise AttackError(
            f"The layers {', '.join(silent)} did not run as modules, so their gradient is as it was. "
            f"{_AS_IT_IS}, and name layers that its forward calls."
        )


class _Identity:
    """What is put before and after one layer; the layer itself computes without a gradient."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.has_run = False
        self._inputs: list[Tensor] = []

    def __deepcopy__(self, memo: object) -> Self:
        """Itself: of a copy of the network that an attack makes, a layer runs as well."""
        return self

    def before(self, _layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        if len(inputs) != 1 or not isinstance(inputs[0], Tensor):
            raise AttackError(
                f"The layer {self.name} must be given one tensor, by position, to let a gradient through."
            )
        self._inputs.append(inputs[0])
        return (inputs[0].detach().clone(),)  # a layer may work in place

    def after(self, _layer: nn.Module, _inputs: object, output: object) -> Tensor:
        self.has_run = True
        given = self._inputs.pop()
        if not isinstance(output, Tensor) or output.shape != given.shape:
            raise AttackError(
                f"The layer {self.name} must give a tensor of the shape of its input, {tuple(given.shape)}, "
                "to let a gradient through."
            )
        passed: Tensor = _Passed.apply(given, output.detach())  # type: ignore[no-untyped-call]
        return passed


class _Passed(torch.autograd.Function):
    """The second tensor, with the gradient for the first."""

    @staticmethod
    @override
    def forward(ctx: Any, given: Tensor, output: Tensor) -> Tensor:
        return output.clone()

    @staticmethod
    @override
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None
