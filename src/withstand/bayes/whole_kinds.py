"""Attention, recurrent layers and others that torch runs whole, with random weights.

Such a layer is no single linear map of one input, so that there is neither local reparametrisation nor
flipout of it: whatever the posterior's estimator, all parameters are drawn once a sample, for all of its
examples, and torch's own code runs with them. So each output has its exact distribution, and the fused code
that attention takes in eval mode reads what was drawn.
"""

from __future__ import annotations

import inspect
import weakref
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, ClassVar, TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.nn.modules.rnn import RNNCellBase
from typing_extensions import override

from withstand.bayes.kinds import Linear
from withstand.bayes.layer import Drawing, VariationalLayer
from withstand.bayes.posterior import Posterior
from withstand.types import ModelError

_Dims: TypeAlias = int | tuple[int, ...]


class _Whole(VariationalLayer):
    """The interface of a layer that runs as torch runs it, with one draw of all its parameters a sample.

    Attributes:
        input_dims: Of the first argument of a batch, at least.
    """

    input_dims: ClassVar[int]

    @abstractmethod
    def example_dims(self, given: Mapping[str, Any]) -> Mapping[str, int]:
        """In which dimension examples lie, in each argument that has any; the first argument has.

        Args:
            given: The arguments of torch's layer, by name.
        """

    @property
    def output_dims(self) -> _Dims:
        """The same of the output, of each part where it is a tuple and they differ."""
        return 0

    @override
    def draw(self, how: Drawing, *inputs: Any, **options: Any) -> Any:
        plain = super(VariationalLayer, self).forward  # torch's
        given = inspect.signature(plain).bind(*inputs, **options).arguments
        dims = self.example_dims(given)
        name, first = next(iter(given.items()))
        if not isinstance(first, Tensor) or first.dim() < self.input_dims:
            raise ModelError(
                f"{type(self).__name__} with random weights takes batches, tensors of at least "
                f"{self.input_dims} dimensions, but its {name} is {_described(first)}. Put the batch first."
            )
        num_samples = how.of_rows(first.shape[dims[name]]).num_samples
        blocks = {
            key: _blocks(value, dims[key], num_samples) if key in dims else [value] * num_samples
            for key, value in given.items()
        }
        parts = []
        for number in range(num_samples):
            with self.drawn():
                parts.append(plain(**{key: values[number] for key, values in blocks.items()}))
        return parts[0] if num_samples == 1 else _concatenated(parts, self.output_dims)

    @contextmanager
    def drawn(self) -> Iterator[None]:
        """Puts a draw in the place of each random parameter for a while."""
        with _held(self):
            yield


@contextmanager
def _held(layer: VariationalLayer) -> Iterator[None]:
    layer.has_drawn = True  # also where another reads its weight
    parameters = cast(dict[str, Any], layer._parameters)
    former = dict(parameters)
    for name, normal in layer.normals().items():
        parameters[name] = torch.addcmul(normal.mean, normal.std, torch.randn_like(normal.mean))
    try:
        yield
    finally:
        parameters.update(former)


def _blocks(value: Any, dim: int, num_samples: int) -> Sequence[Any]:
    """The examples of each sample: of a tensor, of each of several, or None."""
    if isinstance(value, tuple):
        return list(zip(*(_blocks(part, dim, num_samples) for part in value), strict=True))
    return [None] * num_samples if value is None else value.chunk(num_samples, dim)


def _concatenated(parts: Sequence[Any], dims: _Dims) -> Any:
    """The outputs of all samples as one."""
    first = parts[0]
    if isinstance(first, tuple):
        each = dims if isinstance(dims, tuple) else (dims,) * len(first)
        return tuple(
            _concatenated(part, dim) for part, dim in zip(zip(*parts, strict=True), each, strict=True)
        )
    return None if first is None else torch.cat(list(parts), cast(int, dims))


def _described(value: object) -> str:
    return f"of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


class OutputProjection(Linear, NonDynamicallyQuantizableLinear):
    """The last layer of ``MultiheadAttention``, which reads its weight instead of calling it."""


class MultiheadAttention(_Whole, nn.MultiheadAttention):
    """``torch.nn.MultiheadAttention`` whose projections and biases are normal variables.

    Args:
        embed_dim: Size of each vector.
        num_heads: Heads.
        posterior: Of all parameters, the output projection's too.
        **options: Those of ``torch.nn.MultiheadAttention``.
    """

    input_dims = 3

    def __init__(
        self, embed_dim: int, num_heads: int, *, posterior: Posterior = Posterior(), **options: Any
    ) -> None:
        super().__init__(embed_dim, num_heads, posterior=posterior, **options)
        output: nn.Module = self.out_proj
        output.__class__ = OutputProjection
        cast(OutputProjection, output).make_random(posterior)

    @override
    def example_dims(self, given: Mapping[str, Any]) -> Mapping[str, int]:
        rows = 0 if self.batch_first else 1
        dims = {"query": rows, "key": rows, "value": rows, "key_padding_mask": 0}
        mask = given.get("attn_mask")
        return dims if mask is None or mask.dim() == 2 else {**dims, "attn_mask": 0}  # one for all where 2-D

    @property
    @override
    def output_dims(self) -> _Dims:
        return (0 if self.batch_first else 1, 0)

    @override
    @contextmanager
    def drawn(self) -> Iterator[None]:
        output: nn.Module = self.out_proj
        with super().drawn(), _held(output) if isinstance(output, VariationalLayer) else nullcontext():
            yield


class _Recurrent(_Whole, nn.RNNBase):
    """What recurrent layers draw: one weight for all steps of a sequence."""

    input_dims = 3

    @override
    def example_dims(self, given: Mapping[str, Any]) -> Mapping[str, int]:
        return {"input": 0 if self.batch_first else 1, "hx": 1}

    @property
    @override
    def output_dims(self) -> _Dims:
        return (0 if self.batch_first else 1, 1)

    @override
    @contextmanager
    def drawn(self) -> Iterator[None]:
        # Torch keeps its weights in a list beside the parameters, and makes it anew where they differ.
        former = self._flat_weights, self._flat_weight_refs
        with super().drawn():
            drawn: list[Any] = [self._parameters[name] for name in self._flat_weights_names]
            self._flat_weights, self._flat_weight_refs = drawn, [weakref.ref(weight) for weight in drawn]
            try:
                yield
            finally:
                self._flat_weights, self._flat_weight_refs = former


class RNN(_Recurrent, nn.RNN):
    """``torch.nn.RNN`` whose parameters are normal variables.

    Args:
        input_size: Size of each input.
        hidden_size: Size of the state.
        posterior: Of all parameters.
        **options: Those of ``torch.nn.RNN``.
    """


class LSTM(_Recurrent, nn.LSTM):
    """``torch.nn.LSTM`` whose parameters are normal variables.

    Args:
        input_size: Size of each input.
        hidden_size: Size of the state.
        posterior: Of all parameters.
        **options: Those of ``torch.nn.LSTM``.
    """


class GRU(_Recurrent, nn.GRU):
    """``torch.nn.GRU`` whose parameters are normal variables.

    Args:
        input_size: Size of each input.
        hidden_size: Size of the state.
        posterior: Of all parameters.
        **options: Those of ``torch.nn.GRU``.
    """


class _Cell(_Whole, RNNCellBase):
    """What recurrent cells draw: a weight for each step."""

    input_dims = 2

    @override
    def example_dims(self, given: Mapping[str, Any]) -> Mapping[str, int]:
        return {"input": 0, "hx": 0}


class RNNCell(_Cell, nn.RNNCell):
    """``torch.nn.RNNCell`` whose parameters are normal variables, drawn anew at each step.

    Args:
        input_size: Size of each input.
        hidden_size: Size of the state.
        posterior: Of all parameters.
        **options: Those of ``torch.nn.RNNCell``.
    """


class LSTMCell(_Cell, nn.LSTMCell):
    """``torch.nn.LSTMCell`` whose parameters are normal variables, drawn anew at each step.

    Args:
        input_size: Size of each input.
        hidden_size: Size of the state.
        posterior: Of all parameters.
        **options: Those of ``torch.nn.LSTMCell``.
    """


class GRUCell(_Cell, nn.GRUCell):
    """``torch.nn.GRUCell`` whose parameters are normal variables, drawn anew at each step.

    Args:
        input_size: Size of each input.
        hidden_size: Size of the state.
        posterior: Of all parameters.
        **options: Those of ``torch.nn.GRUCell``.
    """


class Bilinear(_Whole, nn.Bilinear):
    """``torch.nn.Bilinear`` whose weight and bias are normal variables.

    Args:
        in1_features: Size of the first input.
        in2_features: Size of the second input.
        out_features: Size of the output.
        posterior: Of weight and bias.
        **options: Those of ``torch.nn.Bilinear``.
    """

    input_dims = 2

    @override
    def example_dims(self, given: Mapping[str, Any]) -> Mapping[str, int]:
        return {"input1": 0, "input2": 0}


class PReLU(_Whole, nn.PReLU):
    """``torch.nn.PReLU`` whose slopes are normal variables.

    Args:
        num_parameters: Slopes: one, or one a channel.
        posterior: Of the slopes.
        **options: Those of ``torch.nn.PReLU``.
    """

    input_dims = 2
    redraws_means = False

    @override
    def example_dims(self, given: Mapping[str, Any]) -> Mapping[str, int]:
        return {"input": 0}
