"""Data in a user's units, such as features of a table, brought to [0, 1] and back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from withstand.core.dataset_info import InputRange, feature_name, require_range
from withstand.types import DataError

_ROUNDING = 1e-6  # of the larger end: by how much values in single precision may be beyond it


def range_of(*arrays: Tensor | ArrayLike) -> InputRange:
    """The smallest and largest value of each feature, or channel, that some data have.

    A range from data is an estimate of what can occur: where the limits are known, as of a sensor or a grade,
    state those. Values to come that lie outside are refused by ``from_arrays`` and ``scale``.

    Args:
        arrays: Of one number of features each, (examples, features) or (examples, channels, …).

    Returns:
        ``(low, high)``, as ``from_arrays(..., input_range=…)`` takes it.

    Raises:
        DataError: there are no values, some are not finite, or numbers of features differ.
    """
    values = [_as_float64(array) for array in arrays]
    if not values or any(value.ndim < 2 or not value.numel() for value in values):
        raise DataError(
            "A range is that of arrays (examples, features) or (examples, channels, …) with values."
        )
    ends = [value.transpose(0, 1).flatten(1).aminmax(dim=1) for value in values]
    if len({len(end.min) for end in ends}) > 1:
        counts = " and ".join(str(len(end.min)) for end in ends)
        raise DataError(f"A range is that of arrays with the same features, but these have {counts}.")
    low = torch.stack([end.min for end in ends]).amin(0)
    high = torch.stack([end.max for end in ends]).amax(0)
    if not bool((low.isfinite() & high.isfinite()).all()):
        raise DataError(
            "A range is that of finite numbers, but some values are NaN or infinite. Fill them in."
        )
    return tuple(low.tolist()), tuple(high.tolist())


def as_input_range(input_range: Sequence[float | ArrayLike], count: int) -> InputRange:
    """The range of each feature, of two numbers for all or a sequence with one a feature.

    Raises:
        DataError: it is no pair of such.
    """
    try:
        low, high = (np.asarray(end, np.float64) for end in input_range)
        lows, highs = (
            np.broadcast_to(end, (count,)) if end.ndim == 0 else end.reshape(-1) for end in (low, high)
        )
    except (TypeError, ValueError) as error:
        raise DataError(
            "input_range must be a pair (low, high), each a number or a sequence of one number a feature or "
            f"channel, but is {input_range!r}."
        ) from error
    return tuple(lows.tolist()), tuple(highs.tolist())


def scale(values: Tensor | ArrayLike, input_range: InputRange, feature_names: Sequence[str] = ()) -> Tensor:
    """Values in the user's units as shares of their range.

    Args:
        values: (examples, features) or (examples, channels, …).
        input_range: ``DatasetInfo.input_range``.
        feature_names: For errors; ``DatasetInfo.feature_names``.

    Returns:
        float32 tensor in [0, 1], of the shape of ``values``. A feature whose range is one value is 0.

    Raises:
        DataError: a value is outside its range or NaN, or there are other numbers of features.
    """
    values = _as_float64(values)
    shape = tuple(values.shape[1:])
    require_range(input_range, shape, feature_names)
    low, high = _ends(input_range, values)
    slack = _ROUNDING * torch.maximum(low.abs(), high.abs())
    # Written so that NaN fails too.
    is_outside = ~((values >= low - slack) & (values <= high + slack))
    if bool(is_outside.any()):
        example, feature, *_ = place = tuple(is_outside.nonzero()[0].tolist())
        name = feature_name(shape, feature_names, feature)
        raise DataError(
            f"The value {float(values[place]):.6g} of {name} in example {example} is outside its range, "
            f"{input_range[0][feature]:.6g} to {input_range[1][feature]:.6g}. Widen input_range (of all "
            "data: withstand.data.range_of(train, test)), or clip or fill in the value."
        )
    width = torch.where(high > low, high - low, 1.0)
    return ((values - low) / width).clamp(0, 1).to(torch.float32)


def unscale(images: Tensor, input_range: InputRange | None) -> Tensor:
    """Examples in [0, 1] in the user's units again.

    Args:
        images: Tensor (examples, features) or (examples, channels, …).
        input_range: ``DatasetInfo.input_range``; where None the units are those of the examples.

    Returns:
        Tensor of the shape of ``images``; float64 where there is a range.
    """
    if input_range is None:
        return images
    low, high = _ends(input_range, images.to(torch.float64))
    return low + images * (high - low)


def _as_float64(values: Tensor | ArrayLike) -> Tensor:
    if isinstance(values, Tensor):
        return values.detach().to(torch.float64)
    try:
        return torch.from_numpy(np.array(values, np.float64))
    except (TypeError, ValueError) as error:
        raise DataError(f"Values with a range must be an array of numbers, but {error}.") from error


def _ends(input_range: InputRange, like: Tensor) -> tuple[Tensor, Tensor]:
    low, high = (
        torch.tensor(end, dtype=like.dtype, device=like.device).view(-1, *[1] * (like.ndim - 2))
        for end in input_range
    )
    return low, high
