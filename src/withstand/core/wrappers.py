"""What is put around a network to compile it or to spread its passes, and how it is taken off again.

A wrapper has the weights of what is inside it. Passes go through the wrapper as it was given; graphs, second
derivatives, layers, copies and files are of the network itself.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from withstand.types import ModelError

_COMPILED = "_orig_mod"  # where torch.compile keeps the network, by its own name
_FABRIC = "_original_module"  # where Lightning Fabric does
_MODULE = "module"
_AROUND = (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)


def unwrapped(model: nn.Module) -> nn.Module:
    """The network inside what ``torch.compile``, DataParallel, DDP, an average of weights or Fabric made.

    Args:
        model: Any module; the adapter of ``core.contract`` is around what is inside then.

    Returns:
        The network with the same weights; a model that is in nothing as it is.

    Raises:
        ModelError: it is no module.
    """
    require_network(model)
    adapter = getattr(model, "unwrapped_adapter", None)
    if adapter is not None:
        inside: nn.Module = adapter()
        return inside
    place = _place_inside(model)
    return model if place is None else unwrapped(model.get_submodule(place))


def require_network(model: object) -> None:
    """Accepts what is a module.

    Raises:
        ModelError: it is something else; the text says how to make one of it.
    """
    if isinstance(model, nn.Module):
        return
    if isinstance(model, torch.export.ExportedProgram):
        raise ModelError("Expected a model, but got an ExportedProgram; give what its module() returns.")
    got = repr(model) if isinstance(model, str | None) else f"a {type(model).__name__}"
    raise ModelError(
        f"Expected a model, a torch.nn.Module, but got {got}. Build it first, such as by "
        "withstand.models.create, and put a function in a module's forward."
    )


def unwrapped_copy(model: nn.Module) -> nn.Module:
    """A deep copy of a network without what is around it or around its parts.

    Args:
        model: Any module.
    """
    copied = copy.deepcopy(unwrapped(model))
    wrapped = [path for path, part in copied.named_modules() if path and _place_inside(part) is not None]
    for path in reversed(wrapped):  # what is deepest first
        copied.set_submodule(path, unwrapped(copied.get_submodule(path)))
    return copied


def own_state(model: nn.Module) -> dict[str, Any]:
    """The state dict of a network by its own names, whatever is around it or around its parts.

    Args:
        model: Any module.

    Returns:
        Names without ``_orig_mod`` and ``module`` of wrappers -> the very tensors of the model.
    """
    network = unwrapped(model)
    return {_own_name(name, network): value for name, value in network.state_dict().items()}


def load_own_state(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Puts tensors into a network by the names that ``own_state`` gives them.

    Args:
        model: Any module.
        state: All that ``own_state`` names, of the same shapes.
    """
    network = unwrapped(model)
    network.load_state_dict({name: state[_own_name(name, network)] for name in network.state_dict()})


def _own_name(name: str, network: nn.Module) -> str:
    """A name of a state dict without the places that wrappers of parts have what is inside as."""
    kept, part = [], network
    for place in name.split("."):
        if place != _place_inside(part):
            kept.append(place)
        child = getattr(part, place, None)
        part = child if isinstance(child, nn.Module) else part
    return ".".join(kept)


@contextmanager
def eager() -> Iterator[None]:
    """Has what ``torch.compile`` was called with, or any part of it, run as it is written.

    A compiled graph can be differentiated once only, and writes to buffers that a captured one has read.

    Yields:
        Nothing.
    """
    if "torch._dynamo" not in sys.modules:  # it takes seconds to load, and without it nothing is compiled
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


def _place_inside(model: nn.Module) -> str | None:
    """The name of the child that a wrapper has the network as; None of another module."""
    if isinstance(model, _AROUND):
        return _MODULE
    return next((place for place in (_COMPILED, _FABRIC) if place in model._modules), None)
