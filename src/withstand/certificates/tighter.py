"""Bounds of logits that are tighter than those of fixed lines, for as long as there is time.

Both functions start from what the linear domain gives and are nowhere looser. Within ``core.deadlines.until``
they end soon after the deadline with what they have by then.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress

import torch
from torch import Tensor

from withstand.certificates.branching import branched
from withstand.certificates.margins import rounding_allowance
from withstand.core.deadlines import OutOfTime
from withstand.domains.linear.linear import Linear
from withstand.domains.linear.slopes import Functions, Record, Search, rows_at_once
from withstand.graph.domain import LastLayer

_STEPS = 20


def optimised_differences(last: LastLayer, labels: Tensor, *, steps: int = _STEPS) -> Tensor:
    """The worst of each logit minus the true one, by slopes that are optimised for each (alpha-CROWN).

    Args:
        last: What a ``Linear`` set of a batch in float64 became before the last layer.
        labels: True classes (batch,).
        steps: Of the search, for each logit that is not below the true one by the fixed lines, where the true
            one is the largest at the center.

    Returns:
        Tensor (batch, classes): upper bounds over the sets; nowhere above ``last.differences(labels)``.

    Raises:
        OutOfTime: time was up before even those were known.
    """
    features, differences = last.features, last.differences(labels)
    assert isinstance(features, Linear)
    record = Record.of(features.node, features.inputs)
    is_right = last.logits.argmax(1) == labels
    is_open = (differences >= 0) & is_right[:, None]
    is_open.scatter_(1, labels[:, None], False)
    owner, classes = is_open.nonzero(as_tuple=True)
    if not len(owner) or not record.bent:
        return differences
    single, ends = record.cast(torch.float32), [node.ends for node in record.bent]
    most = torch.full_like(owner, math.inf, dtype=torch.float64)
    with suppress(OutOfTime):
        for rows in torch.split(torch.arange(len(owner), device=owner.device), rows_at_once(ends)):
            search = Search.of(
                record, single, _gaps(last, labels[owner[rows]], classes[rows]), owner[rows], ends
            )
            search.improve(steps)
            least = search.bounds().least
            most[rows] = -least.where(least.isfinite(), -math.inf)
    return torch.minimum(differences, torch.full_like(differences, math.inf).masked_scatter(is_open, most))


def branched_differences(
    last: LastLayer, label: Tensor, differences: Tensor, predict: Callable[[Tensor], Tensor]
) -> Tensor:
    """The worst of each logit of one image minus the true one, by branch and bound.

    Args:
        last: What a ``Linear`` set of one image in float64 became before the last layer.
        label: The true class, (1,).
        differences: Upper bounds that are known, (1, classes).
        predict: The logits (images, classes) of images; where one is given another class, the search ends.

    Returns:
        Tensor (1, classes): upper bounds over the set, nowhere above those that are known. All that were not
        negative have one bound in common.
    """
    features = last.features
    assert isinstance(features, Linear)
    is_open = (differences + rounding_allowance(last.logits, label) >= 0)[0]
    is_open[label] = False
    others = is_open.nonzero()[:, 0]
    if not len(others):
        return differences

    def check(points: Tensor) -> Tensor | None:
        logits = predict(points)
        gaps = logits[:, others] - logits[:, label]
        is_broken = (gaps >= 0).any(1)
        return points[is_broken][0] if bool(is_broken.any()) else None

    weight, bias, _ = _gaps(last, label.expand(len(others)), others)
    allowance = rounding_allowance(last.logits, label)[0, others]
    functions = Functions(weight, bias - allowance)
    bound = -math.inf
    with suppress(OutOfTime):  # before the first bound
        bound = branched(features, functions, torch.arange(len(others), device=others.device), check).bound
    tighter = torch.minimum(differences[0, others], -bound - allowance)
    return differences.index_put((torch.zeros_like(others), others), tighter)


def _gaps(last: LastLayer, labels: Tensor, others: Tensor) -> Functions:
    """The true logit minus another one, a row each."""
    weight = last.weight[labels] - last.weight[others]
    bias = weight.new_zeros(len(weight)) if last.bias is None else last.bias[labels] - last.bias[others]
    return Functions(weight, bias)
