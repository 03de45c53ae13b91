"""Packs models and settings for processes on other machines, where files of the user's own are not."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from torch import nn
from torch.nn.utils import parametrize
from typing_extensions import override

from withstand.core.named_values import LIBRARIES
from withstand.integrations.ray_cluster import require_ray
from withstand.types import ModelError

_OWN = __name__.partition(".")[0]


def packed(value: object) -> bytes:
    """A value with the code that it needs, but for that of installed packages and of this one.

    Args:
        value: Anything; modules of torch, also parametrised ones.

    Raises:
        ModelError: something in it cannot be sent.
    """
    buffer = io.BytesIO()
    try:
        with _sending_own_code():
            _pickler(buffer).dump(value)
    except Exception as error:  # of whatever kind what is pickled may raise
        raise ModelError(
            "The network, a meter or an attack cannot be sent to other machines "
            f"({type(error).__name__}: {str(error)[:200]}). Evaluate in one process, or by torchrun."
        ) from error
    return buffer.getvalue()


def unpacked(content: bytes) -> Any:
    """What was packed.

    Args:
        content: From ``packed``.
    """
    return require_ray().cloudpickle.loads(content)


def _pickler(buffer: io.BytesIO) -> Any:
    class _Pickler(require_ray().cloudpickle.Pickler):  # type: ignore[misc]
        @override
        def reducer_override(self, value: Any) -> Any:
            if isinstance(value, nn.Module) and parametrize.is_parametrized(value):
                return _parametrized, (parametrize.type_before_parametrizations(value), value.__dict__)
            return super().reducer_override(value)

    return _Pickler(buffer)


def _parametrized(kind: type[nn.Module], state: dict[str, Any]) -> nn.Module:
    """A layer as ``parametrize`` makes it, which pickle does not take: its class has a property a weight."""
    layer = kind.__new__(kind)
    layer.__dict__.update(state)
    parametrize._inject_new_class(layer)
    for name in state["_modules"]["parametrizations"]:
        parametrize._inject_property(layer, name)
    return layer


@contextmanager
def _sending_own_code() -> Iterator[None]:
    """Within, code of modules that are not installed is sent itself, and not where to import it from."""
    cloudpickle = require_ray().cloudpickle
    own = [module for module in list(sys.modules.values()) if _is_own(module)]
    for module in own:
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in own:
            cloudpickle.unregister_pickle_by_value(module)


def _is_own(module: ModuleType) -> bool:
    """Whether it is the user's own: of a file, and of no library."""
    name, file = getattr(module, "__name__", ""), getattr(module, "__file__", None)
    is_known = name.partition(".")[0] in (_OWN, "__main__", *sys.stdlib_module_names)
    return (
        isinstance(module, ModuleType) and not is_known and bool(file) and not str(file).startswith(LIBRARIES)
    )
