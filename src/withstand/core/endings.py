"""Whether what a model answers are probabilities, or their logarithms, where logits are expected."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from withstand.core.devices import preserved_random_state
from withstand.core.modes import eval_mode
from withstand.core.outputs import taken_out
from withstand.types import ModelError

# As torch names the derivatives of operations. What only copies or picks out:
_PASSED_ON = {
    *("Alias", "Clone", "ReshapeAlias", "Select", "Slice", "Squeeze", "ToCopy", "Unsqueeze", "View"),
    *("UnsafeView", "ConstantPadNd"),
}
_SHIFTS = {"Add", "Sub", "Rsub"}
_SCALES = {"Mul", "Div", "Neg", "Pow", "Reciprocal", "Log", "Log1P", "Clamp", "ClampMin", "ClampMax"}
_SOFTMAXES = {"Softmax", "LogSoftmax"}
_SIGMOIDS = {"Sigmoid", "Hardsigmoid", "LogSigmoid"}
_HALVES = {"Tanh", "Exp"}  # of a sigmoid, where something is added to them
_BOUNDS = (("_saved_min", "_saved_max"), ("_saved_min_val", "_saved_max_val"))  # of Clamp and Hardtanh
_FAR = 30.0  # times an image's distance from grey: there half a sigmoid is told from a net of small logits


def require_logits(model: nn.Module, images: Tensor, output: Tensor) -> None:
    """Accepts what a model gave, unless these are surely probabilities or their logarithms.

    What was computed last tells, together with the values: of constant logits, say, the values alone may be
    probabilities by chance.

    Args:
        model: What gave it; one with a true ``gives_log_probabilities`` is meant so. Its modes, gradients and
            the random state stay as they were.
        images: Float tensor (batch, …) as it takes them.
        output: What it gave of them in eval mode (batch, …).

    Raises:
        ModelError: it ends in softmax, log-softmax or a sigmoid.
    """
    rows = output.detach().reshape(len(images), -1).double()
    if getattr(model, "gives_log_probabilities", False) or not _are_shares(rows):
        return
    found = _ending(model, images, rows, torch.finfo(output.dtype).eps ** 0.5)
    if found:
        raise ModelError(
            f"The model ends in {found}; remove it, because losses, attacks and certificates work on logits."
        )


def _ending(model: nn.Module, images: Tensor, rows: Tensor, tolerance: float) -> str:
    """What a model ends in whose values may be probabilities; nothing where it ends in neither."""
    with torch.enable_grad():
        nodes = list(_last_nodes(_answer(model, images)))
    names = [_name_of(node) for node in nodes]
    last, between = (names[-1], set(names[:-1])) if names else ("", set[str]())
    if rows.shape[1] > 1:
        may_be = torch.equal(rows[0], rows[-1]) or torch.equal(rows, rows.round())  # constant, or one-hot
        if (last in _SOFTMAXES and between <= _PASSED_ON) or (not may_be and _sum_to_one(rows, tolerance)):
            return "softmax or log-softmax"
    elif last in _SOFTMAXES:
        return "softmax or log-softmax"
    is_bounded = last in _SIGMOIDS or (bool(nodes) and _is_clamped(nodes[-1]))
    is_sure = is_bounded and not between & _SHIFTS
    if is_sure or (
        (is_bounded or (last in _HALVES and between & _SHIFTS)) and _are_shares(_far_away(model, images))
    ):
        return "a sigmoid"
    return ""


def _are_shares(rows: Tensor) -> bool:
    """Whether all values are in [0, 1], or none is above 0, as logarithms of probabilities are."""
    return bool(((rows >= 0) & (rows <= 1)).all() or (rows <= 0).all())


def _sum_to_one(rows: Tensor, tolerance: float) -> bool:
    """Whether rows are distributions, or the logarithms of some, within rounding."""
    is_distribution = (rows >= 0).all() and ((rows.sum(dim=1) - 1).abs() < tolerance).all()
    return bool(is_distribution or (rows.logsumexp(dim=1).abs() < tolerance).all())


def _answer(model: nn.Module, images: Tensor) -> Tensor:
    """What a model gives, with gradients where these are on; NaN, which is no share, where it fails."""
    with preserved_random_state(images.device), eval_mode(model):
        try:
            return taken_out(model(images.clone().requires_grad_(torch.is_grad_enabled()).clone()))
        except Exception:  # such as one that computes with numpy, or asserts the range of its images
            return images.new_full((1,), torch.nan)


def _far_away(model: nn.Module, images: Tensor) -> Tensor:
    """What a model gives far outside of [0, 1], on both sides."""
    away = _FAR * (images - 0.5)
    return torch.cat([_answer(model, 0.5 + away), _answer(model, 0.5 - away)]).double()


def _last_nodes(output: Tensor) -> Iterator[Any]:
    """The last operations, from the end back to the first that does more than copy, scale and shift."""
    node: Any = output.grad_fn
    while node is not None:
        yield node
        if _name_of(node) not in _PASSED_ON | _SCALES | _SHIFTS or _is_clamped(node):
            return
        before = [
            other for other, _ in node.next_functions if other is not None and _name_of(other) != "Accumulate"
        ]
        node = before[0] if len(before) == 1 else None


def _is_clamped(node: Any) -> bool:
    """Whether an operation holds values in [0, 1]."""
    bounds = [(getattr(node, low, None), getattr(node, high, None)) for low, high in _BOUNDS]
    return any(low is not None and high is not None and 0 <= low <= high <= 1 for low, high in bounds)


def _name_of(node: Any) -> str:
    name = str(node.name()).rpartition("::")[2]
    return "Accumulate" if "AccumulateGrad" in name else name.partition("Backward")[0].removesuffix("0")
