"""A pretended accelerator: a device of its own that computes on the CPU, and holds the library to the rules.

Its tensors say that they are on ``pretended:0``, autograd and ``torch.export`` take them for those of any
other accelerator, and its random numbers come from a generator of its own. What a real one refuses, it
refuses: a CPU tensor beside its own. What makes the host wait for a real one, it refuses in ``Device.step``.

It does not tell: a number that has no dimensions and lies on the CPU is let through wherever a device would
take one from an operation on elements; a generator of the device used for a tensor of the CPU; kernels that
need memory of another layout; other dtypes than a device has.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor, nn
from torch.utils._mode_utils import no_dispatch
from torch.utils._pytree import tree_iter, tree_map
from torch.utils.backend_registration import (
    _DummyBackendModule,
    _DummyPrivateUse1Hook,
    _setup_privateuseone_for_python_backend,
)
from typing_extensions import override

NAME = "pretended"
_Held = TypeVar("_Held")
# Values read back, and results whose size depends on data; the last ask whether a decomposition succeeded.
_WAITING = {
    *("_local_scalar_dense", "nonzero", "masked_select", "_unique", "_unique2", "unique_dim", "equal"),
    *(
        "unique_consecutive",
        "unique_dim_consecutive",
        "bincount",
        "argwhere",
        "is_nonzero",
        "item",
        "allclose",
    ),
    *("_linalg_eigh", "_linalg_svd", "_linalg_check_errors", "linalg_eig", "linalg_lstsq"),
}
_COPYING = {"_to_copy", "copy_", "copy", "_copy_from"}
_JOINING = {"cat", "stack", "mm", "bmm", "addmm", "convolution"}  # take no numbers of the CPU either
# What torch makes without a size, and resizes then.
_RESIZED = (
    *("arange", "arange.start", "arange.start_step", "range", "range.step", "linspace", "logspace"),
    *("eye", "eye.m", "randperm", "randperm.generator", "tril_indices", "triu_indices"),
)


class DeviceError(AssertionError):
    """What no accelerator can do, or what it must wait for inside a step."""


_Generator = torch.Generator


class _OfEitherDevice(type(_Generator)):  # type: ignore[misc]
    @override
    def __instancecheck__(cls, thing: object) -> bool:
        return isinstance(thing, _Generator)


class AnyGenerator(_Generator, metaclass=_OfEitherDevice):
    """Stands in for ``torch.Generator``, which torch lets no device of Python's own have."""

    device = property(lambda _: torch.device(NAME, 0))

    @staticmethod
    def __new__(cls: Any, device: torch.device | str = "cpu") -> Any:
        if torch.device(device).type != NAME:
            return _Generator(device)
        made = _Generator.__new__(cls)
        _OWN.add(made._cdata)
        return made


_OWN: set[int] = set()  # where in memory generators of the device are: an operation is given another object


class Pretended(Tensor):
    """A tensor of the device.

    Args:
        raw: The tensor of the CPU that holds its values.
    """

    raw: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls: Any, raw: Tensor) -> Pretended:
        made: Pretended = Tensor._make_wrapper_subclass(
            cls,
            raw.shape,
            strides=raw.stride(),
            storage_offset=raw.storage_offset(),
            dtype=raw.dtype,
            device=torch.device(NAME, 0),
        )
        made.raw = raw
        return made

    @classmethod
    @override
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return DEVICE.run(func, args, kwargs or {})

    @property
    def data(self) -> Tensor:
        """What torch itself would share by its storage alone."""
        return self.detach()

    @data.setter
    def data(self, other: Tensor) -> None:
        Tensor.data.__set__(self, other)  # type: ignore[attr-defined]
        self.raw = _raw(other)

    @override
    def tolist(self) -> Any:
        return self.cpu().tolist()

    @override
    def numpy(self, *, force: bool = False) -> Any:
        if not force:
            raise DEVICE.fault("numpy is called on a tensor of the device")
        return self.detach().cpu().numpy()

    @override
    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.detach().cpu().__reduce_ex__(protocol)

    @override
    def __repr__(self, *, tensor_contents: Any = None) -> Any:  # type: ignore[override]
        return f"Pretended({self.raw!r})"


class Device:
    """The device, as tests hold it.

    Attributes:
        faults: What was refused since it was switched on; also what someone caught.
        is_on: Whether torch sees the device.
        is_in_step: Whether nothing may make the host wait.
        random_state: Of the generator that it draws from.
    """

    def __init__(self) -> None:
        self.faults: list[str] = []
        self.is_on = False
        self.random_state = torch.get_rng_state()
        self.is_in_step = False

    @staticmethod
    def put(held: _Held) -> _Held:
        """A copy on the device of a module or tensor, or of those in a tuple, list or dictionary."""
        moved: _Held = tree_map(_copied, held)
        return moved

    @contextmanager
    def step(self) -> Iterator[None]:
        """Inside, nothing may make the host wait: no value is read, no number is copied over."""
        self.is_in_step = True
        try:
            yield
        finally:
            self.is_in_step = False

    @contextmanager
    def switched_on(self) -> Iterator[Device]:
        """Has the device seen meanwhile."""
        future, self.is_on = torch.__future__, True
        self.faults.clear()
        former = future.get_swap_module_params_on_conversion()
        future.set_swap_module_params_on_conversion(True)  # a moved parameter stays the same object
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch, "Generator", AnyGenerator)
            patch.setattr(torch.accelerator, "synchronize", lambda *_: None)  # which torch lets it not have
            try:
                yield self
            finally:
                self.is_on = self.is_in_step = False
                future.set_swap_module_params_on_conversion(former)

    def fault(self, what: str) -> DeviceError:
        """Notes a fault, for the end of the test, and makes the error that is raised."""
        self.faults.append(what)
        return DeviceError(what)

    def run(self, func: Any, args: Any, kwargs: Any) -> Any:
        """An operation, of which something is on the device."""
        name = func.overloadpacket.__name__
        owners: dict[int, Pretended] = {}
        others = []
        for part in tree_iter((args, kwargs)):
            if isinstance(part, Pretended):
                owners[id(part.raw)] = part
            elif isinstance(part, Tensor):
                others.append(part)
        target = kwargs.get("device")
        stays = torch.device(target).type == NAME if target is not None else bool(owners)
        self._require_allowed(name, args, kwargs, others, stays=stays)
        generator = kwargs.get("generator")
        if stays and generator is not None and generator._cdata not in _OWN:
            raise self.fault(f"{name} draws for the device from a generator of the CPU")
        if target is not None:
            kwargs = {**kwargs, "device": torch.device("cpu")}
        raw_args, raw_kwargs = tree_map(_raw, (args, kwargs))
        with self._own_draws(is_drawing=torch.Tag.nondeterministic_seeded in func.tags and stays):
            result = func(*raw_args, **raw_kwargs)
        if torch.Tag.inplace_view in func.tags:  # what torch knows of the tensor's shape follows
            with no_dispatch():
                func(*args, **kwargs)

        def wrapped(part: Any) -> Any:
            if not (stays and isinstance(part, Tensor)):
                return part
            owner = owners.get(id(part))
            if owner is not None and owner.shape != part.shape:
                raise NotImplementedError(f"{func} resizes a tensor of the pretended device")
            return Pretended(part) if owner is None else owner

        return tree_map(wrapped, result)

    def _require_allowed(
        self, name: str, args: Any, kwargs: Any, others: list[Tensor], *, stays: bool
    ) -> None:
        if name in _COPYING:
            crosses = bool(others) or not stays
            if crosses and self.is_in_step:
                raise self.fault(f"{name} copies between host and device in a step")
            return
        # As torch allows, which copies them; what is indexed, or put there, must lie on the device.
        indices = [] if self.is_in_step else [id(part) for part in _indices(name, args)]
        met = [part for part in others if (part.dim() or name in _JOINING) and id(part) not in indices]
        if met:
            raise self.fault(f"{name} meets a tensor of the CPU, of shape {tuple(met[0].shape)}")
        has_mask = any(index.dtype == torch.bool for index in _indices(name, args))
        counts = name == "repeat_interleave" and kwargs.get("output_size") is None  # what it gives
        if self.is_in_step and (name in _WAITING or counts or has_mask):
            raise self.fault(f"{name} makes the host wait in a step")

    @contextmanager
    def _own_draws(self, *, is_drawing: bool) -> Iterator[None]:
        if not is_drawing:
            yield
            return
        of_cpu = torch.get_rng_state()
        torch.set_rng_state(self.random_state)
        try:
            yield
        finally:
            self.random_state = torch.get_rng_state()
            torch.set_rng_state(of_cpu)


def _copied(part: Any) -> Any:
    if isinstance(part, nn.Module):
        return copy.deepcopy(part).to(NAME)
    return part.to(NAME) if isinstance(part, Tensor) else part


def _raw(part: Any) -> Any:
    return part.raw if isinstance(part, Pretended) else part


def _indices(name: str, args: Any) -> list[Tensor]:
    indices = args[1] if name.startswith(("index", "_index")) and isinstance(args[1], list | tuple) else ()
    return [index for index in indices if isinstance(index, Tensor)]


class _Module(_DummyBackendModule):
    """What torch asks of ``torch.pretended``."""

    @override
    def is_available(self) -> bool:
        return DEVICE.is_on

    @override
    def device_count(self) -> int:
        return int(DEVICE.is_on)

    @override
    def manual_seed_all(self, seed: int) -> None:
        DEVICE.random_state = _Generator().manual_seed(seed).get_state()

    def get_rng_state(self, device: Any = NAME) -> Tensor:
        return DEVICE.random_state.clone()

    def set_rng_state(self, state: Tensor, device: Any = NAME) -> None:
        DEVICE.random_state = state.clone()

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.float16, torch.bfloat16]


class _Hook(_DummyPrivateUse1Hook):
    @override
    def is_available(self) -> bool:
        return DEVICE.is_on


def _register() -> None:
    # A device of Python's own, which torch offers for this: https://github.com/pytorch/pytorch, in
    # test/test_privateuseone_python_backend.py.
    _setup_privateuseone_for_python_backend(NAME, backend_module=_Module(), hook=_Hook())
    fallback, operators = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")
    _LIBRARIES.extend((fallback, operators))
    run: Callable[..., Any] = DEVICE.run
    fallback.fallback(lambda func, *args, **kwargs: run(func, args, kwargs), "PrivateUse1")
    for name in _RESIZED:
        packet, _, overload = name.partition(".")
        func = getattr(getattr(torch.ops.aten, packet), overload or "default")
        operators.impl(name, _kernel(func), "PrivateUse1")
    copy_ = torch.ops.aten.copy_.default
    operators.impl("_copy_from", lambda source, to, *_: run(copy_, (to, source), {}), "PrivateUse1")


def _kernel(func: Any) -> Any:
    return lambda *args, **kwargs: DEVICE.run(func, args, kwargs)


_LIBRARIES: list[torch.library.Library] = []
DEVICE = Device()
_register()  # at once: autograd counts the devices at its first pass backward
