"""Rules of what is not linear: bounds hold for members, and points stay points."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

MASK = torch.tensor([True, False, True, False])
CONSTANT = torch.tensor([0.5, -0.3, 1.0, -0.1], dtype=torch.float64)
MATRIX = torch.randn(4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


ARITHMETIC: dict[str, Callable[[Tensor], Tensor]] = {
    "product": lambda x: x * x.flip(1),
    "square by product": lambda x: x * x,
    "gate": lambda x: x * x[:, :1].sigmoid(),
    "gate of few dimensions": lambda x: x * x.mean((1, 2)).reshape(-1, 1, 1),
    "quotient": lambda x: x / (1 + x.abs()),
    "constant quotient": lambda x: 2 / (3 + x.sigmoid()),
    "matrices": lambda x: x @ x.mT,
    "matrices twice": lambda x: x.mT @ MATRIX[:3, :3] @ x,
    "bmm": lambda x: torch.bmm(x, x.transpose(1, 2)),
    "baddbmm": lambda x: torch.baddbmm(x[:, :, :3], x, x.mT, beta=0.5, alpha=2),
    "merged batch": lambda x: torch.bmm(x.reshape(-1, 1, 4), x.reshape(-1, 4, 1)).reshape(x.shape[0], 3),
    "einsum": lambda x: torch.einsum("bij,bkj->bik", x, x),
    "cosine": lambda x: F.cosine_similarity(x[:, :1] + 3, x[:, 1:] - 3, dim=2),
    "normalize": lambda x: F.normalize(x + 3, dim=2),
    "square": torch.square,
    "cube": lambda x: x**3,
    "fourth": lambda x: x.pow(torch.tensor(4.0)),
    "exponential of 2": lambda x: 2**x + torch.exp2(x),
    "exponential of constants": lambda x: torch.pow(CONSTANT.abs(), x),
    "exp": torch.exp,
    "expm1": torch.expm1,
    "logs": lambda x: (x.abs() + 1).log() + (x.abs() + 2).log2() + (x.abs() + 3).log10() + x.abs().log1p(),
    "roots": lambda x: (x.abs() + 1).sqrt() + (x.abs() + 2).rsqrt() + (x.abs() + 3).reciprocal(),
    "asinh": torch.asinh,
    "addcmul": lambda x: torch.addcmul(x, x, x.flip(1), value=0.5) + torch.addcdiv(x, x, x.abs() + 2),
    "lerp": lambda x: torch.lerp(x, x.flip(1), 0.3),
    "glu": F.glu,
    "tanhshrink": F.tanhshrink,
}

COMPARISONS: dict[str, Callable[[Tensor], Tensor]] = {
    "clamp": lambda x: x.clamp(-CONSTANT.abs(), CONSTANT.abs()),
    "clamp below": lambda x: torch.clamp(x, min=CONSTANT),
    "maximum": lambda x: torch.maximum(x, x.flip(1)),
    "minimum": lambda x: torch.minimum(x, x[:, :1]),
    "maximum of constant": lambda x: torch.maximum(CONSTANT, x) - torch.min(x, CONSTANT),
    "maximum of far constants": lambda x: torch.clamp(x, torch.tensor(-math.inf), torch.tensor(1e300)),
    "where": lambda x: torch.where(MASK, x, 2 * x.flip(1)),
    "where constant": lambda x: torch.where(MASK, CONSTANT, x),
    "masked": lambda x: x.masked_fill(MASK, -math.inf).softmax(-1),
    "threshold": lambda x: F.threshold(x, 0.2, 0.2),
    "amax": lambda x: x.amax((1, 2), keepdim=True) + x.amin(2, keepdim=True),
    "max": lambda x: x.max(1).values + x.min(1, keepdim=True).values.squeeze(1),
    "rrelu": nn.RReLU().eval(),
    "adaptive max": nn.AdaptiveMaxPool1d(2),
    "adaptive max to one": lambda x: F.adaptive_max_pool2d(x, 1),
}

COUPLED: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda x: x.softmax(1),
    "log softmax": lambda x: F.log_softmax(x, -1),
    "logsumexp": lambda x: x.logsumexp((1, 2), keepdim=True),
    "l1": lambda x: x.norm(p=1, dim=1),
    "l2": lambda x: torch.linalg.vector_norm(x, dim=(1, 2)),
    "linf": lambda x: torch.linalg.vector_norm(x, math.inf, dim=-1, keepdim=True),
    "var": lambda x: x.var((1, 2), keepdim=True) + x.var(2, unbiased=False, keepdim=True),
    "std": lambda x: x.std(1) + x.std((1, 2), correction=2, keepdim=True).squeeze(1),
    "layer norm": nn.LayerNorm(4, eps=0.1),
    "layer norm over two": nn.LayerNorm([3, 4], elementwise_affine=False),
    "rms norm": nn.RMSNorm(4),
    "group norm": nn.GroupNorm(3, 3),
    "instance norm": nn.InstanceNorm1d(3, affine=True),
    "instance norm by running statistics": nn.InstanceNorm1d(3, track_running_stats=True, affine=True),
    "attention": lambda x: F.scaled_dot_product_attention(x, 2 * x, x),
    "causal attention": lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True, scale=0.3),
    "masked attention": lambda x: F.scaled_dot_product_attention(x, x, x, MASK[:3]),
    "added mask": lambda x: F.scaled_dot_product_attention(x, x, x, CONSTANT[:3].abs().log()),
    "learnt queries": lambda x: F.scaled_dot_product_attention(MATRIX.expand(x.shape[0], 4, 4), x, x),
    "learnt values": lambda x: F.scaled_dot_product_attention(x, x, MATRIX[:3]),
}


@pytest.mark.parametrize("function", ARITHMETIC.values(), ids=ARITHMETIC.keys())
def test_rules_of_arithmetic_are_sound(
    function: Callable[[Tensor], Tensor], soundly: Callable[..., None]
) -> None:
    soundly(function, (3, 4), size=0.3)


@pytest.mark.parametrize("function", COMPARISONS.values(), ids=COMPARISONS.keys())
def test_rules_of_comparisons_are_sound(
    function: Callable[[Tensor], Tensor], soundly: Callable[..., None]
) -> None:
    soundly(function, (3, 4), size=0.3)


@pytest.mark.parametrize("function", COUPLED.values(), ids=COUPLED.keys())
def test_rules_of_coupled_functions_are_sound(
    function: Callable[[Tensor], Tensor], soundly: Callable[..., None]
) -> None:
    soundly(function, (3, 4), size=0.3)


_FEW = settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@given(data=st.data())
@_FEW
def test_rules_of_products_of_any_shapes_are_sound(soundly: Callable[..., None], data: st.DataObject) -> None:
    rows, inner, columns = (data.draw(st.integers(1, 3)) for _ in range(3))
    stacks = data.draw(
        st.sampled_from([((), ()), ((2,), (1,)), ((1,), (3,)), ((3, 1), (1, 2)), ((2, 2), (1, 2))])
    )
    shapes = (*stacks[0], rows, inner), (*stacks[1], inner, columns)
    sizes = [math.prod(shape) for shape in shapes]

    def product(x: Tensor) -> Tensor:
        first, second = torch.split(x, sizes, 1)
        one, other = first.reshape(-1, *shapes[0]), second.reshape(-1, *shapes[1])
        return one @ other

    soundly(product, (sum(sizes),), size=0.3, count=10)


@given(data=st.data())
@_FEW
def test_rules_of_reductions_over_any_dimensions_are_sound(
    soundly: Callable[..., None], data: st.DataObject
) -> None:
    shape = tuple(data.draw(st.integers(2, 3)) for _ in range(3))
    dims = data.draw(
        st.lists(st.sampled_from([1, 2, 3, -1]), min_size=1, max_size=2, unique_by=lambda d: d % 4)
    )
    keepdim = data.draw(st.booleans())
    reduce: Any = data.draw(
        st.sampled_from(
            [torch.amax, torch.amin, torch.logsumexp, torch.var, torch.std, torch.sum, torch.mean]
        )
    )
    soundly(lambda x: reduce(x, dims, keepdim=keepdim), shape, size=0.3, count=10)


@given(data=st.data())
@_FEW
def test_rules_of_normalisation_of_any_shape_are_sound(
    soundly: Callable[..., None], data: st.DataObject
) -> None:
    groups = data.draw(st.integers(1, 3))
    shape = (groups * data.draw(st.integers(1, 2)), *data.draw(st.sampled_from([(3,), (2, 2)])))
    eps = data.draw(st.floats(0.01, 1))
    layers = [nn.GroupNorm(groups, shape[0], eps), nn.LayerNorm(shape[-1:], eps), nn.LayerNorm(shape, eps)]
    layer = data.draw(st.sampled_from([*layers, nn.RMSNorm(shape[-2:], eps)]))
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, -1, 1)
    soundly(layer, shape, size=0.3, count=10)


@given(data=st.data())
@_FEW
def test_rule_of_attention_of_any_shape_is_sound(soundly: Callable[..., None], data: st.DataObject) -> None:
    heads, tokens, sources, width = (data.draw(st.integers(1, 3)) for _ in range(4))
    is_causal, scale = data.draw(st.booleans()), data.draw(st.sampled_from([None, 0.2]))
    mask = None if is_causal else torch.arange(tokens * sources).reshape(tokens, sources) % 3 > 0
    sizes = [tokens * width, sources * width, sources * width]

    def attention(x: Tensor) -> Tensor:
        query, key, value = (
            part.reshape(x.shape[0], heads, -1, width)
            for part in torch.split(x, [heads * size for size in sizes], 1)
        )
        kept = None if mask is None else mask.index_fill(1, torch.tensor([0]), True)
        return F.scaled_dot_product_attention(query, key, value, kept, is_causal=is_causal, scale=scale)

    soundly(attention, (heads * sum(sizes),), size=0.3, count=10)
