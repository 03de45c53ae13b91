"""Where operator norms come from: the interface, and the estimate that training uses."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

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

    Keeps one vector an operator, as a buffer, so that a single iteration a step follows weights
    that move slowly (Miyato et al., ICLR 2018). The gradient is that of uᵀ A v with u and v held.

    Args:
        num_iterations: Iterations a call; the first call of an operator makes at least 20.

    Raises:
        ValueError: there are none.
    """

    def __init__(self, num_iterations: int = 1) -> None:
        super().__init__()
        if num_iterations < 1:
            raise ValueError(f"Expected at least 1 power iteration, but got {num_iterations}.")
        self.num_iterations = num_iterations
        self.vectors = Buffers()

    @override
    def of(self, operator: LinearOperator, input_shape: Shape, key: str) -> Tensor:
        exact = operator.norm(input_shape)
        return exact if exact is not None else self._estimate(operator, input_shape, key)

    def _estimate(self, operator: LinearOperator, input_shape: Shape, key: str) -> Tensor:
        vector = self.vectors.get(key)
        iterations = self.num_iterations
        if vector is None or vector.shape[1:] != input_shape:  # new, or the model's input has changed
            vector = _random_direction(operator.entries, input_shape)
            iterations = max(iterations, _FIRST_ITERATIONS)
        vector = vector.to(operator.entries)  # a resumed one may be on another device
        with torch.no_grad():
            for _ in range(iterations):
                image = _direction(operator.apply(vector))
                candidate = _direction(operator.adjoint(image, input_shape))
                # Where weights are all zero, or not finite, the vector must outlive them.
                vector = torch.where(candidate.isfinite().all() & candidate.any(), candidate, vector)
        self.vectors.put(key, vector)
        return (operator.apply(vector) * image).sum()

    @override
    def extra_repr(self) -> str:
        return f"num_iterations={self.num_iterations}"


def _random_direction(like: Tensor, shape: Shape) -> Tensor:
    # From a generator of its own: what a first step draws must not depend on what was drawn before.
    generator = torch.Generator().manual_seed(0)
    return _direction(torch.randn(1, *shape, generator=generator).to(like))


def _direction(x: Tensor) -> Tensor:
    """``x`` at length 1; the zero vector stays what it is."""
    length: Tensor = torch.linalg.vector_norm(x)
    return x / length.clamp_min(torch.finfo(x.dtype).tiny)
