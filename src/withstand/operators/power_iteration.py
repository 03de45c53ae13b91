"""Where operator norms come from: the interface, and the estimate that training uses."""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from withstand.core.setting_rules import COUNT
from withstand.operators.linear_operators import LinearOperator, Shape


class Buffers(nn.Module):
    """Tensors by name, as buffers, so that they move with the device and are saved in checkpoints.

    They are made when they are first needed. So a fresh object meets them in a checkpoint first, and one that
    goes back to a checkpoint from before their time forgets them.
    """

    def get(self, name: str) -> Tensor | None:
        """What was put under a name last; None where nothing was."""
        return self._buffers.get(_key(name))

    def put(self, name: str, value: Tensor) -> None:
        """Keeps a tensor, in place of the one before."""
        self.register_buffer(_key(name), value)

    def __len__(self) -> int:
        return len(self._buffers)

    @override
    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *arguments: Any, **options: Any
    ) -> None:
        self._buffers.clear()
        for name, value in state_dict.items():
            if name.startswith(prefix):
                self.register_buffer(name.removeprefix(prefix), value.clone())
        super()._load_from_state_dict(state_dict, prefix, *arguments, **options)


def _key(name: str) -> str:
    # Not the name of a method or attribute, nor that of another: a.b and a_b are two layers.
    return "of_" + name.replace(".", "/")


_FIRST_ITERATIONS = 20
_RANDOM_SHARE = 1e-4  # of a vector's length, once a call


class OperatorNorms(ABC):
    """The interface of what says how far an operator can stretch."""

    @abstractmethod
    def of(self, operator: LinearOperator, input_shape: Shape, key: str) -> Tensor:
        """The largest singular value of an operator, or a bound or estimate of it.

        Args:
            operator: The linear map.
            input_shape: Shape of one example.
            key: Names the place of the operator in its model, for what is stored between calls.

        Returns:
            Scalar tensor.
        """


class PowerIteration(nn.Module, OperatorNorms):
    """Estimates from below, cheap and differentiable: for training, never for certificates.

    Stores one vector an operator, as a buffer, so that a single iteration a step follows weights
    that move slowly (Miyato et al., ICLR 2018). The gradient is that of uᵀ A v with u and v held.

    Three things keep an estimate from staying too small. Each block of an operator (each group of a
    convolution) has a vector of its own length, since one that shrinks would take its share of a common
    vector down to nothing, where nothing brings it back. Each call adds a small random share, so that no
    direction is ever missing; after weights were loaded it catches up in some tens of calls. And the vectors
    belong to a parameter: those of another begin anew.

    Args:
        num_iterations: Iterations a call; one that begins anew makes at least 20.

    Raises:
        ValueError: there are none.
    """

    def __init__(self, num_iterations: int = 1) -> None:
        super().__init__()
        self.num_iterations = COUNT("num_power_iterations", num_iterations)
        self.vectors = Buffers()
        self._parameters_seen: dict[str, weakref.ref[Tensor]] = {}

    @override
    def of(self, operator: LinearOperator, input_shape: Shape, key: str) -> Tensor:
        closed_form = operator.norm(input_shape)
        return closed_form if closed_form is not None else self._estimate(operator, input_shape, key)

    def _estimate(self, operator: LinearOperator, input_shape: Shape, key: str) -> Tensor:
        like, blocks = operator.entries, operator.num_blocks
        vector = self.vectors.get(key)
        random = _random_direction(input_shape, blocks, like.dtype, like.device)
        is_other = self._is_of_another_parameter(key, like)
        with torch.no_grad():
            if vector is None or vector.shape[1:] != input_shape or is_other:
                vector, image = _iterated(operator, random, max(self.num_iterations, _FIRST_ITERATIONS))
            else:
                vector = vector.to(like) + _RANDOM_SHARE * random  # a resumed one may be on another device
                vector, image = _iterated(operator, vector, self.num_iterations)
        self.vectors.put(key, vector)
        norms: Tensor = (operator.apply(vector) * image).reshape(blocks, -1).sum(dim=1)
        return norms.max()

    def _is_of_another_parameter(self, key: str, entries: Tensor) -> bool:
        """Whether a key's vector is known to belong to another parameter; computed weights tell nothing."""
        seen = self._parameters_seen.pop(key, None)
        if isinstance(entries, nn.Parameter):
            self._parameters_seen[key] = weakref.ref(entries)
            return seen is not None and seen() is not entries
        return False

    def __getstate__(self) -> dict[str, Any]:
        # Which parameters were seen means nothing to a copy or in a file.
        return {**self.__dict__, "_parameters_seen": {}}

    @override
    def extra_repr(self) -> str:
        return f"num_iterations={self.num_iterations}"


def _iterated(operator: LinearOperator, vector: Tensor, num_iterations: int) -> tuple[Tensor, Tensor]:
    """The right and the left singular vector of each block, as far as some iterations come."""
    blocks, shape = operator.num_blocks, vector.shape[1:]
    vector = _direction(vector, blocks)
    for _ in range(num_iterations):
        image = _direction(operator.apply(vector), blocks)
        after = _direction(operator.adjoint(image, tuple(shape)), blocks)
        # Where weights are all zero, or not finite, the vector must outlive them.
        parts = after.reshape(blocks, -1)
        is_one = parts.isfinite().all(dim=1) & parts.any(dim=1)
        vector = torch.where(is_one[:, None], parts, vector.reshape(blocks, -1)).reshape(1, *shape)
    return vector, image


@lru_cache(maxsize=256)
def _random_direction(shape: Shape, blocks: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A vector whose part in each block has length 1.

    From a generator of its own: what a step draws must not depend on what was drawn before.
    """
    with torch.inference_mode(False):
        generator = torch.Generator().manual_seed(0)
        return _direction(torch.randn(1, *shape, generator=generator).to(device, dtype), blocks)


def _direction(x: Tensor, blocks: int) -> Tensor:
    """``x`` with the part of each block at length 1; a zero part stays zero.

    In two steps, so that neither 1e-30 nor 1e30 is lost when it is squared.
    """
    parts = x.reshape(blocks, -1)
    tiny = torch.finfo(x.dtype).tiny
    parts = parts / parts.abs().amax(dim=1, keepdim=True).clamp_min(tiny)
    lengths: Tensor = torch.linalg.vector_norm(parts, dim=1, keepdim=True)
    return (parts / lengths.clamp_min(tiny)).reshape(x.shape)
