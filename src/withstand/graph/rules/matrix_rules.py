"""Rules of products of matrices, and of attention."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from withstand.graph.bilinear import MatrixProduct
from withstand.graph.coupled import Softmax
from withstand.graph.domain import Domain
from withstand.graph.primitives import moved
from withstand.graph.rule_registry import Site, register
from withstand.graph.rules.arithmetic_rules import add
from withstand.graph.rules.pieces import scaled, with_constants
from withstand.operators import Dense, Matrices

__all__: list[str] = []

_ATEN = torch.ops.aten


@register(_ATEN.linear)
def _linear(site: Site, input: Any, weight: Any, bias: Any = None) -> Domain:
    if isinstance(input, Domain) and isinstance(weight, Tensor) and not isinstance(bias, Domain):
        site.dim(-1)
        return input.affine(Dense(weight), bias, site.norm)
    product = _product(site, input, _swapped(site, weight))
    return site.fitted(product if bias is None else add(site, site.fitted(product), bias))


@register(_ATEN.matmul, _ATEN.mm, _ATEN.bmm, _ATEN.mv, _ATEN.dot)
def _matmul(site: Site, input: Any, other: Any) -> Domain:
    one = input[None] if isinstance(input, Tensor) and input.dim() == 1 else input
    two = other[:, None] if isinstance(other, Tensor) and other.dim() == 1 else other
    return site.fitted(_product(site, one, two))


@register(_ATEN.addmm, _ATEN.baddbmm, _ATEN.addmv)
def _add_product(
    site: Site, input: Any, one: Any, other: Any, *, beta: float = 1, alpha: float = 1
) -> Domain:
    is_constant = isinstance(one, Tensor) and isinstance(other, Tensor)
    product = one @ other if is_constant else _matmul(site, one, other)
    first = scaled(site, input, beta) if isinstance(input, Domain) else input * beta
    return add(site, first, product, alpha=alpha)


@register(_ATEN.scaled_dot_product_attention)
def _attention(
    site: Site,
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Domain:
    if dropout_p > 0:
        raise site.refusal("needs its dropout to be at rest, but it is active; call eval() on the model.")
    if enable_gqa or isinstance(attn_mask, Domain) or not isinstance(query, Domain) | isinstance(key, Domain):
        raise site.refusal(
            "needs queries or keys that depend on the input, as many heads of keys as of queries, and a "
            "constant mask; write it by matmul and softmax."
        )
    factor = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = scaled(site, _product(site, query, _swapped(site, key)), factor)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.center.device).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = with_constants(scores, lambda x: torch.where(attn_mask, x, -math.inf))
    elif attn_mask is not None:
        scores = scores.shift(attn_mask)
    return site.fitted(_product(site, scores.coupled(Softmax(len(scores.shape) - 1)), value))


def _product(site: Site, one: Domain | Tensor, other: Domain | Tensor) -> Domain:
    """The product of two matrices or stacks of them, of which at least one depends on the input."""
    if not isinstance(one, Domain):
        swapped: Domain = _swapped(site, _times(site, _swapped(site, other), one.mT))
        return swapped
    if not isinstance(other, Domain):
        return _times(site, one, other)
    rank = max(len(one.example_shape), len(other.example_shape))
    return site.aligned(one, rank).product(site.aligned(other, rank), MatrixProduct())


def _times(site: Site, value: Domain, matrix: Tensor) -> Domain:
    """A product x @ A with a constant A, (…, k, n)."""
    if matrix.dim() == 2:
        return value.affine(Dense(matrix.T), None, site.norm)
    value = site.aligned(value, max(matrix.dim(), len(value.example_shape)))
    return value.affine(Matrices(matrix.mT), None, site.norm)


def _swapped(site: Site, matrix: Any) -> Any:
    """The transpose of each matrix."""
    if not isinstance(matrix, Domain):
        return matrix.mT
    # Of (batch, …) each example is one row.
    return site.aligned(matrix, max(2, len(matrix.example_shape))).monotone(moved(lambda x: x.mT))
