"""Weights that are divided among processes, and whole inside a step alone.

An objective walks the network, and reads its weights. So inside a step they are whole, in the module's own
parameters, which are empty outside; and no hook of a module has to bring them. What the optimiser changes are
the parts: tensors of ``torch.distributed.tensor``, divided by their first dimension.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard
from torch.nn import functional as F
from typing_extensions import override

from withstand.core.processes import add_up_, by_type, exchanging, num_processes, rank
from withstand.training.whole_weights import Weights
from withstand.types import NonFiniteLossError

_Change: TypeAlias = Callable[[Any, torch.Size], Any]


class ShardedWeights(Weights):
    """The weights of a model, of which each process has a part: some rows of each.

    Args:
        model: The same in all processes, on its device.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self._mesh = init_device_mesh(self._wholes[0].device.type, (num_processes(),))
        self._sizes = [whole.size() for whole in self._wholes]
        self._parts = [
            nn.Parameter(self._divided(_own_rows(whole), whole.size()), whole.requires_grad)
            for whole in self._wholes
        ]
        self._strides = [whole.stride() for whole in self._wholes]
        self._is_divided = False

    @property
    @override
    def parameters(self) -> Sequence[nn.Parameter]:
        return self._parts

    @contextmanager
    @override
    def divided(self) -> Iterator[None]:
        self._divide()
        try:
            yield
        except NonFiniteLossError:
            self._gather()  # since all have it; after any other error a process may wait for ever
            raise
        self._gather()

    @contextmanager
    @override
    def whole(self) -> Iterator[None]:
        if not self._is_divided:
            yield
            return
        self._gather()
        yield
        self._divide()

    @contextmanager
    @override
    def in_parts(self) -> Iterator[None]:
        if self._is_divided:
            yield
            return
        self._divide()
        yield
        self._gather()

    @torch.no_grad()
    def _divide(self) -> None:
        self._strides = [whole.stride() for whole in self._wholes]
        for whole, part in zip(self._wholes, self._parts, strict=True):
            _local(part).copy_(_own_rows(whole))
            whole.data = whole.new_empty(0)
        self._is_divided = True

    @torch.no_grad()
    def _gather(self) -> None:
        if not self._is_divided:
            return
        for numbers in by_type(self._parts):
            parts = [self._parts[number] for number in numbers]
            own = torch.cat([_padded(_local(part), _length(part)) for part in parts])
            of_all = own.new_empty(num_processes(), len(own))
            with exchanging():
                dist.all_gather(list(of_all), own)
            columns = of_all.split([_length(part) for part in parts], dim=1)
            for number, column in zip(numbers, columns, strict=True):
                size, stride = self._sizes[number], self._strides[number]
                data = column.reshape(-1)[: size.numel()].view(size)
                is_so = data.stride() == stride
                self._wholes[number].data = data if is_so else own.new_empty_strided(size, stride).copy_(data)
        self._is_divided = False

    @override
    def _sums(
        self, parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor], others: Sequence[Tensor]
    ) -> Sequence[Tensor]:
        add_up_(others)
        sums: dict[int, Tensor] = {}
        for numbers in by_type(parameters):
            lengths = [_length(parameters[number]) for number in numbers]
            columns = [
                _padded(gradients[number], num_processes() * length).view(num_processes(), length)
                for number, length in zip(numbers, lengths, strict=True)
            ]
            of_all = torch.cat(columns, dim=1)
            own = of_all.new_empty(of_all.shape[1])
            with exchanging():
                dist.reduce_scatter(own, list(of_all))
            for number, piece in zip(numbers, own.split(lengths), strict=True):
                local = _local(parameters[number])
                rows = piece[: local.numel()].view(local.shape)
                sums[number] = self._divided(rows, parameters[number].shape)
        return [sums[number] for number in range(len(parameters))]

    def _divided(self, rows: Tensor, size: torch.Size) -> DTensor:
        """A tensor of which this process has these rows; they are copied, so that the rest can be let go."""
        size = size or torch.Size([1])
        stride = torch.empty(size, device="meta").stride()
        own = rows.clone(memory_format=torch.contiguous_format)
        return DTensor.from_local(own, self._mesh, [Shard(0)], run_check=False, shape=size, stride=stride)

    @override
    def state_of(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        def joined(value: Any, size: torch.Size) -> Any:
            if not isinstance(value, DTensor):
                return value
            with exchanging():
                full = value.full_tensor()
            return full.reshape(size) if full.numel() == size.numel() else full

        return self._changed(optimizer, optimizer.state_dict(), joined)

    @override
    def load_into_(self, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        device = self._mesh.device_type

        def divided(value: Any, size: torch.Size) -> Any:
            is_divided = isinstance(value, Tensor) and value.shape == size
            return self._divided(_own_rows(value).to(device), size) if is_divided else value

        optimizer.load_state_dict(self._changed(optimizer, state, divided))

    def _changed(
        self, optimizer: torch.optim.Optimizer, state: dict[str, Any], change: _Change
    ) -> dict[str, Any]:
        """A state dict with each value of each weight changed, which is given with the weight's size."""
        sizes = {id(part): size for part, size in zip(self._parts, self._sizes, strict=True)}
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        changed = {
            number: {
                name: value if name == "step" else change(value, sizes[id(weights[number])])
                for name, value in values.items()
            }
            for number, values in state["state"].items()
        }
        return {**state, "state": changed}


def _local(part: nn.Parameter) -> Tensor:
    return cast(DTensor, part.detach()).to_local()


def _own_rows(whole: Tensor) -> Tensor:
    """Those that ``Shard(0)`` gives this process; a tensor of no dimension has one."""
    rows: Tensor = torch.atleast_1d(whole.detach())
    num = math.ceil(len(rows) / num_processes())
    return rows[rank() * num : (rank() + 1) * num]


def _length(part: nn.Parameter) -> int:
    """The numbers of a weight that the process with the most of its rows has."""
    return math.ceil(part.shape[0] / num_processes()) * math.prod(part.shape[1:])


def _padded(values: Tensor, length: int) -> Tensor:
    values = values.reshape(-1)
    return values if len(values) == length else F.pad(values, (0, length - len(values)))
