"""What is held still around a capture: what torch prints, what a forward writes, fused attention."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from typing import Any

import torch
from torch import nn


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps what torch says of its own work from users, who get one clear error."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


@contextmanager
def unchanged(model: nn.Module) -> Iterator[None]:
    """Takes back what a forward has set on its modules: tensors of the capture hold no numbers."""
    before = [
        (module, {key: (value, _content(value)) for key, value in vars(module).items()})
        for module in model.modules()
    ]
    try:
        yield
    finally:
        for module, attributes in before:
            for value, content in attributes.values():
                if isinstance(value, list):
                    value[:] = content
                elif content is not None:
                    value.clear()
                    value.update(content)
            vars(module).clear()
            vars(module).update({key: value for key, (value, _) in attributes.items()})


def _content(value: Any) -> Any:
    """A copy of what is in a container that a forward may fill."""
    return copy.copy(value) if type(value) in (list, dict, set) else None


@contextmanager
def unfused() -> Iterator[None]:
    """Has attention layers go by their parts, where in eval mode one fused operation does all."""
    is_enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(is_enabled)
