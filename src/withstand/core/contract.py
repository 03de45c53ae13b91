"""What is asked of a model, images in and logits out, and the one adapter of models that differ in form.

A model that takes float images and gives a float tensor (batch, classes) is used as it is. Of one that writes
to its images, computes in another type or on another device, or hands over its logits in another form,
everything else sees an ``Adapted`` one. Which it is, one pass of two images tells, once for each model and
form of images.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary, WeakValueDictionary

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parameter import is_lazy
from typing_extensions import override

from withstand.core.devices import preserved_random_state
from withstand.core.endings import require_logits
from withstand.core.modes import eval_mode
from withstand.core.outputs import as_logits, has_others, taken_out
from withstand.core.wrappers import require_network, unwrapped
from withstand.types import ModelError

_logger = logging.getLogger(__name__)

_TRIED = 2  # images; of a single one a batch dimension may go lost
_FEW_WEIGHTS = 8  # by which a model is told from another
_MOST_FORMS = 64  # of images that are remembered of a model
_MOST_CHANNELS = 4  # of images that came with their channels last


class Contract(NamedTuple):
    """How a model keeps to what is asked of it.

    Attributes:
        writes: It changes the images that it is given.
        converts: It fails on images that are not of the type and on the device of its weights.
        is_plain: Its answer is a tensor (batch, classes) of at least float32.
        precision: Of its answer.
        num_outputs: Logits an image, as it gives them; of one, two are made.
    """

    writes: bool
    converts: bool
    is_plain: bool
    precision: torch.dtype
    num_outputs: int

    @property
    def num_classes(self) -> int:
        """How many classes its answers tell apart."""
        return max(2, self.num_outputs)


class Adapted(nn.Module):
    """A model that takes float images of any type, leaves them as they are, and gives logits.

    Args:
        model: Any.
        contract: In what it differs.
    """

    def __init__(self, model: nn.Module, contract: Contract) -> None:
        super().__init__()
        self.model = model
        self.training = model.training
        self.contract = contract

    @override
    def forward(self, images: Tensor) -> Tensor:
        """Logits (batch, classes), at least float32, on the device of the images (batch, …)."""
        given = _as_weights(self.model, images) if self.contract.converts else images
        if self.contract.writes and given is images:
            given = images.clone()
        return as_logits(self.model(given), images.shape[0]).to(images.device)

    def unwrapped_adapter(self) -> nn.Module:
        """The same around what is inside the wrappers of the model."""
        return _around(unwrapped(self.model), self.contract)


def adapted(model: nn.Module, images: Tensor) -> nn.Module:
    """The model itself where it keeps to what is asked of it, else one around it that does.

    The same one each time, so that a graph of it can be used again.

    Args:
        model: Maps images in [0, 1] to logits; its modes, gradients and the random state stay as they were.
        images: Float tensor (batch, …) of those that it will be given; of none nothing is known.

    Raises:
        ModelError: it is no module, has weights without a shape, fails on such images, or gives no logits.
    """
    return adapted_with_classes(model, images)[0]


def adapted_with_classes(model: nn.Module, images: Tensor) -> tuple[nn.Module, int | None]:
    """``adapted``, and how many classes its answers tell apart; None of no images.

    Args:
        model: Maps images in [0, 1] to logits; its modes, gradients and the random state stay as they were.
        images: Float tensor (batch, …) of those that it will be given; of none nothing is known.

    Raises:
        ModelError: it is no module, has weights without a shape, fails on such images, or gives no logits.
    """
    if isinstance(model, DistributedDataParallel):  # a pass through which waits for other processes
        model = model.module
    inner = model.model if isinstance(model, Adapted) else model
    if not isinstance(inner, nn.Module):
        require_module(inner)
    if not images.numel():
        return model, None
    contract = contract_of(inner, images)
    is_kept = contract.is_plain and not (contract.writes or contract.converts)
    return inner if is_kept else _around(inner, contract), contract.num_classes


def contract_of(model: nn.Module, images: Tensor) -> Contract:
    """How a model keeps to what is asked of it, found out once for a form of images.

    Args:
        model: Any module.
        images: Float tensor (batch, …), at least one.

    Raises:
        ModelError: as ``adapted``.
    """
    if isinstance(model, Adapted):
        model = model.model
    known = _CONTRACTS.setdefault(model, {})
    modules, weight = _survey(model)
    of_weights = () if weight is None else (weight.dtype, weight.device)
    form = (images.shape[1:], images.dtype, images.device, of_weights)
    key = (form, _state_of(modules))
    if key not in known:
        few = images[:_TRIED].detach()
        few = few if len(few) == _TRIED else torch.cat([few, 1 - few])
        contract, _ = try_out(model, few)
        if len(known) >= _MOST_FORMS:
            known.clear()
        known[key] = known[form, _state_of(modules)] = contract  # a first pass may set flags
    return known[key]


def try_out(model: nn.Module, images: Tensor, *, of: str = "") -> tuple[Contract, Tensor]:
    """One pass in eval mode: how the model keeps to what is asked of it, and its logits (batch, classes).

    Args:
        model: Any module; its modes, gradients and the random state stay as they were.
        images: Float tensor (batch, …), some two.
        of: What they are of, for the error.

    Raises:
        ModelError: as ``adapted``.
    """
    require_module(model)
    inner = unwrapped(model)
    with outside_inference_mode(), torch.no_grad():
        images = images.clone() if images.is_inference() else images
        own = _as_weights(inner, images)
        forms = [images] if own is images else [images, own]
        device = own.device
        with preserved_random_state(device), eval_mode(inner), torch.autocast(device.type, enabled=False):
            output, given, writes = _answer(inner, forms, of)
            logits = as_logits(output, len(images))
            raw = taken_out(output)
            require_logits(inner, given, raw)
    is_plain = isinstance(output, Tensor) and raw.shape == logits.shape and raw.dtype == logits.dtype
    num_outputs = raw.numel() // len(images)
    _say_what_was_assumed(inner, num_outputs, has_other_logits=has_others(output))
    return Contract(writes, given is not images, is_plain, raw.dtype, num_outputs), logits


def precision_of(model: object, images: Tensor) -> torch.dtype:
    """In what to compute with images: the most precise of their type, float32 and that of the weights.

    Args:
        model: Any.
        images: Float tensor (batch, …).
    """
    weight: Tensor | None = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    if isinstance(model, nn.Module) and not (weight is not None and weight.is_floating_point()):
        weight = _survey(model)[1]  # walks through all of it, which takes time at every step
    of_weights = images.dtype if weight is None else weight.dtype
    return torch.promote_types(torch.promote_types(images.dtype, torch.float32), of_weights)


@contextmanager
def outside_inference_mode() -> Iterator[None]:
    """Leaves ``torch.inference_mode``, in which nothing can be differentiated; gradients stay on or off.

    Yields:
        Nothing. Tensors that were made in that mode must be cloned.
    """
    has_gradients = torch.is_grad_enabled()
    with torch.inference_mode(False), torch.set_grad_enabled(has_gradients):
        yield


def require_module(model: nn.Module) -> None:
    """Accepts a module whose weights have their shapes.

    Raises:
        ModelError: it is none, or has lazy layers that were never run.
    """
    require_network(model)
    if any(is_lazy(tensor) for tensor in chain(model.parameters(), model.buffers())):
        raise ModelError(
            f"The model {type(model).__name__} has lazy layers, whose weights have no shape yet. Run it once "
            "on some images."
        )
    if any(tensor.is_meta for tensor in chain(model.parameters(), model.buffers())):
        raise ModelError(
            f"The weights of the model {type(model).__name__} are on the device meta, where they have no "
            "values. Build it on the CPU, or call model.to_empty(device='cpu') and load its weights."
        )


def require_differentiable(model: nn.Module) -> None:
    """Accepts a model whose weights gradients can be computed with.

    Raises:
        ModelError: they were made in ``torch.inference_mode``.
    """
    if any(weight.is_inference() for weight in model.parameters()):
        raise ModelError(
            f"The weights of the model {type(model).__name__} were made in torch.inference_mode, so nothing "
            "can be differentiated. Make or load the model outside of it."
        )


def _answer(model: nn.Module, forms: list[Tensor], of: str) -> tuple[Any, Tensor, bool]:
    """What the model returns of the first form of images that it takes; which that is; whether it writes."""
    failure: BaseException | None = None
    for given in forms:
        handed = given.clone()
        version = handed._version
        try:
            output = model(handed)
        except (Exception, SystemExit) as error:
            failure = error
        else:
            return output, given, handed._version != version or not torch.equal(handed, given)
    shape, text = tuple(forms[0].shape), " ".join(str(failure).split()) or type(failure).__name__
    if isinstance(failure, SystemExit):
        text = f"it calls sys.exit({text})"
    raise ModelError(
        f"The model fails on images {shape}{of}: {text.rstrip('. ')}. {_remedy(shape)}"
    ) from failure


def _remedy(shape: tuple[int, ...]) -> str:
    if len(shape) == 4 and shape[-1] <= _MOST_CHANNELS < shape[1]:
        return "The channels seem to come last; put them first by images.permute(0, 3, 1, 2)."
    if len(shape) == 3:
        return "Images are (batch, channels, height, width); images[:, None] adds one channel."
    return (
        "Give images (batch, channels, height, width) of the size that it is built for, or mend its forward."
    )


def _say_what_was_assumed(model: nn.Module, num_outputs: int, *, has_other_logits: bool) -> None:
    """Once a model; a copy of it, which has the same weights, is the same one."""
    name, assumed = type(model).__name__, []
    if num_outputs == 1:
        assumed.append(
            "gives one logit an image, which is taken for class 1 against a logit of 0 for class 0."
        )
    if has_other_logits:
        assumed.append(
            "gives several tensors of one shape, of which the first is taken for the logits; wrap it in a "
            "module whose forward returns those that you mean."
        )
    _, weight = _survey(model)
    few = [] if weight is None else weight.detach().flatten()[:_FEW_WEIGHTS].double().tolist()
    for text in assumed:
        key = (name, text, *few)
        if key not in _SAID:
            _SAID.add(key)
            _logger.warning("%s %s", name, text)


def _survey(model: nn.Module) -> tuple[list[nn.Module], Tensor | None]:
    """All modules, and the first weight: that is, its type and place.

    At every training step, so not by ``modules()`` and ``parameters()``, which make names of all.
    """
    met: dict[int, nn.Module] = {}
    weights: list[Tensor] = []
    buffers: list[Tensor] = []
    waiting: list[nn.Module | None] = [model]
    while waiting:
        module = waiting.pop()
        if module is not None and id(module) not in met:
            met[id(module)] = module
            for floats, held in ((weights, module._parameters), (buffers, module._buffers)):
                if not floats:
                    floats += [
                        value for value in held.values() if value is not None and value.is_floating_point()
                    ]
            waiting.extend(reversed(module._modules.values()))
    return list(met.values()), next(iter(weights + buffers), None)


def _state_of(modules: Sequence[nn.Module]) -> tuple[object, ...]:
    """What the form of a model's answers may change with: its layers, flags, hooks and last weights."""
    last = next((module._parameters for module in reversed(modules) if module._parameters), {})
    flags = [
        value
        for module in modules
        for name, value in vars(module).items()
        if (type(value) is bool or type(value) is str) and name != "training"
    ]
    hooks = [len(module._forward_hooks) for module in modules]
    shapes = [weight.shape for weight in last.values() if weight is not None and not is_lazy(weight)]
    return (*map(id, modules), *flags, *hooks, *shapes)


def _as_weights(model: nn.Module, images: Tensor) -> Tensor:
    """The images in the type and on the device of a model's first weight; the same tensor where they are."""
    _, weight = _survey(model)
    return images if weight is None else images.to(device=weight.device, dtype=weight.dtype)


def _around(model: nn.Module, contract: Contract) -> Adapted:
    key = (id(model), contract)
    adapter = _ADAPTERS.get(key)
    if adapter is None:
        adapter = _ADAPTERS[key] = Adapted(model, contract)
    _RECENT.append(adapter)
    return adapter


_CONTRACTS: WeakKeyDictionary[nn.Module, dict[Hashable, Contract]] = WeakKeyDictionary()
_SAID: set[Hashable] = set()
_ADAPTERS: WeakValueDictionary[Hashable, Adapted] = WeakValueDictionary()  # each holds its model
_RECENT: deque[Adapted] = deque(maxlen=2)  # so that one is the same at the next training step
