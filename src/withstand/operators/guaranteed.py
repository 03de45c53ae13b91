"""Operator norms that are proven from above: what certificates are made of.

Everything is computed in float64 from weights that a power of two has scaled to about 1, and what
rounding can have taken is added. Where a bound cannot be had it is infinite, which certifies nothing.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from withstand.operators.clipping import as_wide
from withstand.operators.convolutions import Axis, Layout, axes_of, circular_grams, circular_work, gram
from withstand.operators.eigenvalues import (
    MOST_STEPS,
    ROUNDING,
    Gram,
    largest_eigenvalue,
    random_vector,
    ritz_value,
)
from withstand.operators.linear_operators import Convolution, Dense, LinearOperator, Shape
from withstand.operators.power_iteration import OperatorNorms
from withstand.operators.transposed_convolution import TransposedConvolution


class _Limits(NamedTuple):
    """Of what a bound may cost.

    Attributes:
        rows: Of a full Gram matrix.
        work: Of a factorisation in blocks: multiplications and additions.
        circular_work: Of the factorisations of a circular convolution.
        slack: How much larger than that of a padded one the norm of a circular one is first taken to be.
        steps: Of Lanczos, for that estimate.
    """

    rows: int
    work: float
    circular_work: float
    slack: float
    steps: int


_MOST_ROWS = 8192  # 0.5 GiB, and a factorisation of some seconds
_MOST_NUMBERS = _MOST_ROWS**2
_TIGHT = _Limits(_MOST_ROWS, 4e11, math.inf, 0.0, MOST_STEPS)
_QUICK = _Limits(2048, 1e9, 5e8, 0.1, 20)
_MOST_CACHED = 4096  # bounds
_CHUNK = 2**24  # numbers of one chunk of vectors: 128 MiB

_cache: dict[Hashable, float] = {}


class GuaranteedNorms(OperatorNorms):
    """Upper bounds by ``upper_bound``, without gradient, in the operator's precision and rounded up.

    Bounds are cached by what the operator holds, through the whole process, so that the same
    weights cost their bound once and changed ones are never mistaken for them. Operators that are
    dataclasses of tensors, numbers and sequences of these are cached; others are computed anew.

    Args:
        is_quick: As ``upper_bound`` has it.
    """

    def __init__(self, *, is_quick: bool = False) -> None:
        self.is_quick = is_quick

    @override
    def of(self, operator: LinearOperator, input_shape: Shape, key: str) -> Tensor:
        content = _content(operator)
        place = (content, tuple(input_shape), self.is_quick)
        cached = None if content is None else _cache.pop(place, None)
        bound = (
            upper_bound(operator, input_shape, is_quick=self.is_quick).item() if cached is None else cached
        )
        if content is not None:
            _cache[place] = bound  # now the youngest
            while len(_cache) > _MOST_CACHED:
                _cache.pop(next(iter(_cache)), None)
        return _rounded_up(bound, operator.entries)


@torch.inference_mode(False)
@torch.no_grad()
def upper_bound(operator: LinearOperator, input_shape: Shape, *, is_quick: bool = False) -> Tensor:
    """An upper bound of the largest singular value, for certificates.

    A matrix whose smaller side is at most 8192, and a convolution whose Gram matrix is factorised in
    some seconds, gets a bound about 5e-7 too large, relatively. Larger convolutions get that of a
    circular convolution of which theirs is a part, near for images much larger than the kernel.
    Others get the geometric mean of the largest sums of absolute values in a row and in a column
    (Schur's test), which is far above.

    Args:
        operator: The linear map; one that gives a ``norm`` is trusted to give the true one.
        input_shape: Shape of one example.
        is_quick: Whether nothing may take longer than a second: of a large convolution the bound is then up
            to a tenth too large, or that of its kernel, about twice as large; of a large matrix Schur's.

    Returns:
        Scalar float64 tensor on the operator's device; infinite where weights are not finite.
    """
    device = operator.entries.device
    operator = operator.entrywise(torch.Tensor.double)
    bound = _bound(operator, input_shape, _QUICK if is_quick else _TIGHT)
    return torch.tensor(bound, dtype=torch.float64, device=device)


def _bound(operator: LinearOperator, input_shape: Shape, limits: _Limits) -> float:
    # Of exactly these classes: the matrix of a class derived from them may be another one.
    if type(operator) is Dense:
        return _scaled(operator.weight, lambda weight: _dense(weight, limits))
    if type(operator) is Convolution:
        return _scaled(
            operator.weight,
            lambda weight: _convolution(replace(operator, weight=weight), input_shape, limits),
        )
    if type(operator) is TransposedConvolution:
        return _bound(operator.convolution, operator.output_shape(input_shape), limits)
    rows = operator.entrywise(torch.abs).apply(operator.entries.new_ones((1, *input_shape)))
    if not rows.isfinite().all():  # of such a matrix, torch refuses to compute singular values
        return math.inf
    exact = operator.norm(input_shape)
    if exact is None:
        return _other(operator, input_shape, rows, limits)
    return exact.item() * (1 + 1e-12 + ROUNDING * sum(input_shape))


def _scaled(weight: Tensor, bound: Callable[[Tensor], float]) -> float:
    """The bound of a weight times a power of two that makes its largest entry about 1, scaled back."""
    largest = weight.abs().max().item()
    if not math.isfinite(largest):
        return math.inf
    if largest == 0:
        return 0.0
    exponent = math.frexp(largest)[1]
    half = -exponent // 2  # in two steps, for 1 / denormal overflows
    return _unscaled(bound(weight * 2.0**half * 2.0 ** (-exponent - half)), exponent)


def _unscaled(bound: float, exponent: int) -> float:
    """``bound * 2**exponent``, rounded up."""
    try:
        return math.nextafter(math.ldexp(bound, exponent), math.inf)
    except OverflowError:
        return math.inf


def _root(square: float) -> float:
    return math.sqrt(square) * (1 + ROUNDING)


def _dense(weight: Tensor, limits: _Limits) -> float:
    if min(weight.shape) > limits.rows:
        sums = weight.abs()
        return _schur(sums.sum(dim=1), sums.sum(dim=0))
    wide = as_wide(weight)
    return _root(largest_eigenvalue([Gram.full((wide @ wide.T)[None])], wide.shape[1]))


def _convolution(operator: Convolution, input_shape: Shape, limits: _Limits) -> float:
    axes = axes_of(operator, input_shape)
    weight = operator.weight.reshape(operator.groups, -1, *operator.weight.shape[1:])
    layouts = [Layout(axes, weight.shape[1], of_inputs=False), Layout(axes, weight.shape[2], of_inputs=True)]
    layout = min(layouts, key=lambda layout: layout.work)
    pointwise = all(axis.taps == 1 for axis in axes)  # the circular one is no larger
    is_long = operator.groups * layout.work > limits.work or layout.numbers > _MOST_NUMBERS
    if is_long and circular_work(weight, axes) > limits.circular_work:
        return _of_kernel(weight, axes, limits)
    if pointwise:
        return _circular(weight, axes)
    estimate = ritz_value(
        lambda x: operator.adjoint(operator.apply(x), input_shape),
        random_vector(weight, (1, *input_shape)),
        limits.steps,
    )
    if is_long:
        return _circular(weight, axes, estimate * (1 + limits.slack) ** 2)
    grams = (gram(part, layout) for part in torch.split(weight, _MOST_NUMBERS // layout.numbers))
    return _root(largest_eigenvalue(grams, _inner(weight), estimate))


def _of_kernel(weight: Tensor, axes: Sequence[Axis], limits: _Limits) -> float:
    """From the kernel as a matrix, whose norm bounds what becomes of what one output reads.

    Each input is read by so many outputs, at most, as there are taps that a stride leaves.
    """
    reads = math.prod(-(-axis.taps // (axis.stride // math.gcd(axis.stride, axis.dilation))) for axis in axes)
    norms = [_scaled(kernel.flatten(1), lambda matrix: _dense(matrix, limits)) for kernel in weight]
    return _root(reads) * max(norms)


def _circular(weight: Tensor, axes: Sequence[Axis], estimate: float = 0.0) -> float:
    absolute = weight.flatten(3).abs().sum(dim=3)
    schur = _schur(absolute.sum(dim=2), absolute.sum(dim=1))
    # No more than this do the roundings of each frequency's matrix take, of whatever cancels in it.
    taps = weight[0, 0, 0].numel()
    lost = ROUNDING * (taps + 64) * schur
    bound = _root(largest_eigenvalue(circular_grams(weight, axes), _inner(weight), estimate)) + lost
    return bound * (1 + 1e-10)


def _inner(weight: Tensor) -> int:
    """At most so many terms are summed for an entry of a convolution's Gram matrix."""
    return max(weight.shape[1:3]) * weight[0, 0, 0].numel()


def _schur(rows: Tensor, columns: Tensor) -> float:
    """Schur's test, from the sums of absolute values in all rows and in all columns."""
    # The roots first: the product may underflow.
    mean = math.sqrt(rows.max().item()) * math.sqrt(columns.max().item())
    return math.nextafter(mean * (1 + ROUNDING * (rows.numel() + columns.numel())), math.inf) if mean else 0.0


def _other(operator: LinearOperator, input_shape: Shape, rows: Tensor, limits: _Limits) -> float:
    """Any operator, from what it makes of vectors; ``rows`` are the sums of absolute values in them."""
    columns = operator.entrywise(torch.abs).adjoint(torch.ones_like(rows), input_shape)
    ceiling = _schur(rows, columns)
    if not 0 < ceiling < math.inf or min(rows.numel(), columns.numel()) > limits.rows:
        return ceiling
    shift = min(-math.frexp(ceiling)[1], 1000)
    inner = rows.numel() + columns.numel()
    bound = _root(largest_eigenvalue([_other_gram(operator, rows, columns, 2.0**shift)], inner))
    return min(_unscaled(bound, -shift), ceiling)


def _other_gram(operator: LinearOperator, rows: Tensor, columns: Tensor, scale: float) -> Gram:
    """AAᵀ or AᵀA of the smaller side, of ``scale`` A: there and back with each unit vector."""
    smaller = rows if rows.numel() <= columns.numel() else columns
    units = torch.eye(smaller.numel(), dtype=smaller.dtype, device=smaller.device) * scale
    images = []
    for unit in torch.split(units, max(1, _CHUNK // max(rows.numel(), columns.numel()))):
        vectors = unit.view(-1, *smaller.shape[1:])
        if smaller is rows:
            image = operator.apply(operator.adjoint(vectors, columns.shape[1:]) * scale)
        else:
            image = operator.adjoint(operator.apply(vectors) * scale, columns.shape[1:])
        images.append(image.flatten(1))
    return Gram.full(torch.cat(images)[None])


def _content(operator: LinearOperator) -> Hashable | None:
    """What tells an operator from any other; None where it may hold more than can be seen."""
    kind = type(operator)
    # Looked up in the class itself: one that merely derives from a dataclass may hold more.
    if not is_dataclass(operator) or "__dataclass_fields__" not in vars(kind):
        return None
    try:
        return kind, *(_value(getattr(operator, field.name)) for field in fields(operator))
    except TypeError:
        return None


def _value(value: object) -> Hashable:
    if isinstance(value, Tensor):
        # A copy: a tensor of one number is called contiguous whatever its stride.
        flat = value.detach().cpu().flatten().clone(memory_format=torch.contiguous_format)
        numbers = flat.view(torch.uint8).numpy()
        return (
            str(value.dtype),
            tuple(value.shape),
            hashlib.blake2b(numbers.tobytes(), digest_size=32).digest(),
        )
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(_value(item) for item in value)
    if value is None or isinstance(value, int | float | str):
        return value
    raise TypeError(f"Expected tensors, numbers and sequences of these, but got {type(value).__name__}.")


def _rounded_up(bound: float, like: Tensor) -> Tensor:
    """The scalar in the precision and on the device of ``like``, nowhere below ``bound``."""
    rounded = torch.tensor(bound, dtype=torch.float64).to(like.dtype)
    if rounded.double().item() < bound:
        rounded = torch.nextafter(rounded, torch.full_like(rounded, math.inf))
    return rounded.to(like.device)
