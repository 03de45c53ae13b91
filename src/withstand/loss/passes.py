"""One forward pass of a batch, which several terms of an objective share."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any, NamedTuple, TypeVar
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from typing_extensions import override

from withstand.core.contract import Adapted
from withstand.core.devices import random_state, set_random_state
from withstand.core.modes import differs_in_training, eval_mode
from withstand.core.outputs import as_logits
from withstand.core.wrappers import eager, unwrapped
from withstand.types import DataError

_logger = logging.getLogger(__name__)


def logits_of(model: nn.Module, images: Tensor) -> Tensor:
    """What a model answers, in its present mode.

    Args:
        model: Maps images in [0, 1] to logits (batch, classes).
        images: Float tensor (batch, …).

    Raises:
        ModelError: there are no logits in the answer.
    """
    given = images.clone() if model.training else images  # some write to their images only when they train
    output = model(given)
    if model.training and isinstance(output, tuple):
        _say_of_heads(model, output)
    return as_logits(output, len(images))  # also of one that answers otherwise when it trains


def _say_of_heads(model: nn.Module, output: tuple[Any, ...]) -> None:
    """Says, once, that a model gives more while it trains, as Inception and GoogLeNet do."""
    name = type(unwrapped(model)).__name__
    if name not in _HEADS and sum(isinstance(part, Tensor) for part in output) > 1:
        _HEADS.add(name)
        _logger.warning(
            "%s gives more than logits while it trains. Objectives take the logits alone, so its auxiliary "
            "heads are not trained: switch them off (aux_logits=False), or add their loss in an objective of "
            "your own.",
            name,
        )


_HEADS: set[str] = set()


_Shared = TypeVar("_Shared")


class Differentiable(NamedTuple):
    """Images that require gradient, and their logits in eval mode, to be differentiated twice.

    Attributes:
        model: What made the logits; out of its wrappers, since it runs beside the pass that trains.
        images: Float tensor (batch, …) that requires gradient.
        logits: Tensor (batch, classes), a function of the images.
    """

    model: nn.Module
    images: Tensor
    logits: Tensor

    @staticmethod
    def of(model: nn.Module, images: Tensor) -> Differentiable:
        """A pass of its own.

        Args:
            model: Maps images in [0, 1] to logits (batch, classes).
            images: Float tensor (batch, …).
        """
        original = unwrapped(model)
        leaf = images.detach().requires_grad_()
        with torch.enable_grad(), eval_mode(original), differentiable_twice(original):
            return Differentiable(original, leaf, logits_of(original, leaf))


class Pass:
    """A batch on its way through a model; each part is computed when it is first asked for.

    Args:
        model: Maps images in [0, 1] to logits (batch, classes).
        images: Float tensor (batch, …), in [0, 1].
        tracks_images: Whether the logits will be differentiated with respect to the images.

    Raises:
        DataError: there is no image.
    """

    def __init__(self, model: nn.Module, images: Tensor, *, tracks_images: bool = False) -> None:
        if not len(images):
            raise DataError("Expected at least one image in a batch, but got none.")
        self.model = model
        self.images = images
        # Per example a network is what it is in eval mode, so one pass serves for both only where
        # the modes are alike; and gradients of images are not of mixed precision.
        is_cast = torch.is_autocast_enabled(images.device.type)
        shares = tracks_images and torch.is_grad_enabled() and _is_plain(model) and not is_cast
        self._inputs = images.detach().requires_grad_() if shares else images
        self._tracks_images = tracks_images
        self._is_random = False
        self._shared: dict[Hashable, Any] = {}
        self._new_searches: dict[Hashable, tuple[Any, Tensor]] = {}
        self._searches: dict[Hashable, tuple[Any, Tensor]] = {}

    def shared(self, key: Hashable, make: Callable[[], _Shared]) -> _Shared:
        """What several terms share beside the logits; made by whoever asks first.

        Args:
            key: Names it; a class whose object it is, say.
            make: Makes it.
        """
        if key not in self._shared:
            self._shared[key] = make()
        value: _Shared = self._shared[key]
        return value

    def searched(self, key: Hashable, search: Callable[[], _Shared]) -> _Shared:
        """What is looked for once a batch, such as adversarial images, and known in all passes ``again``.

        Those draw afterwards what this one did.

        Args:
            key: Names it; the objective that looks for it, say.
            search: Finds it.
        """
        device = self.images.device
        if key in self._searches:
            value, state = self._searches[key]
            set_random_state(device, state)
        else:
            value = search()
            self._new_searches[key] = value, random_state(device)
        result: _Shared = value
        return result

    def again(self) -> Pass:
        """The same batch through the model as it now is, with what was found by ``searched`` before."""
        passed = Pass(self.model, self.images, tracks_images=self._tracks_images)
        passed._searches = self._searches | self._new_searches
        return passed

    @cached_property
    def logits(self) -> Tensor:
        """(batch, classes), as the model gives them in its present mode."""
        if self._inputs is self.images:
            return logits_of(self.model, self.images)
        before = random_state(self.images.device)
        with differentiable_twice(self.model):
            logits = logits_of(self.model, self._inputs)
        # Then it may be a function such as F.dropout, of which no layer tells that it is there.
        self._is_random = not torch.equal(random_state(self.images.device), before)
        return logits

    @cached_property
    def differentiable(self) -> Differentiable:
        """Images and logits to be differentiated, of this pass where that is possible."""
        if self._inputs is not self.images:
            logits = self.logits
            if not self._is_random:
                return Differentiable(self.model, self._inputs, logits)
        return Differentiable.of(self.model, self.images)


@contextmanager
def differentiable_twice(model: nn.Module) -> Iterator[None]:
    """Has a model run by operations that have second derivatives, for whatever differentiates twice.

    Fused attention has none, and is computed by its parts (``SDPBackend.MATH``), which is said once a model:
    that needs memory for (tokens, tokens) weights a head. Nor have the graphs of ``torch.compile``.

    Args:
        model: What is run inside.

    Yields:
        Nothing.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel  # here, since it is slow to import

    model = unwrapped(model)
    model = model.model if isinstance(model, Adapted) else model  # which may be made anew
    with eager(), sdpa_kernel(SDPBackend.MATH):
        if model in _WATCHED:
            yield
            return
        with _Attention(type(model).__name__):
            yield
        _WATCHED.add(model)


_WATCHED: WeakSet[nn.Module] = WeakSet()


class _Attention(TorchFunctionMode):
    """Says, once, that a model has attention.

    Args:
        name: Of the model.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name, self._is_said = name, False

    @override
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not self._is_said and func in (F.scaled_dot_product_attention, F.multi_head_attention_forward):
            self._is_said = True
            _logger.warning(
                "%s is differentiated twice, so its attention is computed by its parts (SDPBackend.MATH): "
                "fused kernels have no second derivative. That takes more memory and time.",
                self._name,
            )
        return func(*args, **(kwargs or {}))


def _is_plain(model: nn.Module) -> bool:
    return unwrapped(model) is model and not differs_in_training(model)
