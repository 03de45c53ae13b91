"""Bounds against what is known exactly: linear models in closed form, tiny nets by exhaustive search."""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import product
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from withstand.core import norms
from withstand.domains import DomainName, Program, input_set
from withstand.models import Normalize
from withstand.operators import OperatorNorms

Array: TypeAlias = npt.NDArray[np.float64]

NAMES: tuple[DomainName, ...] = ("box_ball", "box", "ball", "linear")


def _margins(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    norms_of: OperatorNorms,
    *,
    setting: tuple[float, float, DomainName, bool],
) -> Tensor:
    norm, epsilon, domain, clip = setting
    value = input_set(images, norm, epsilon, domain, clip=clip)
    with torch.no_grad():
        differences = _program(model, images).run_to_last_layer(value, norms_of).differences(labels)
    return -differences.scatter(1, labels[:, None], -math.inf).amax(dim=1)


@lru_cache(maxsize=2)
def _program(model: nn.Module, images: Tensor) -> Program:
    return Program(model, images)


# Linear models


@pytest.mark.parametrize(
    ("norm", "domain"),
    [
        *((2.0, name) for name in ("ball", "box_ball", "linear")),
        *((math.inf, name) for name in ("box", "box_ball", "linear")),
        (1.0, "linear"),
    ],
)
@pytest.mark.parametrize("is_flat", [False, True])
def test_bounds_of_a_linear_model_have_the_exact_margin(
    norm: float, domain: DomainName, is_flat: bool, exact: OperatorNorms
) -> None:
    torch.manual_seed(0)
    layer, images, labels = nn.Linear(12, 5).double(), torch.rand(20, 3, 2, 2).double(), torch.arange(20) % 5
    model = nn.Sequential(nn.Flatten(), layer)
    if not is_flat:  # the same with operations around it
        model = nn.Sequential(nn.Identity(), nn.Unflatten(1, (3, 2, 2)), nn.Flatten(), layer, nn.Identity())
        images = images.flatten(1)
    for epsilon in (0.0, 0.1, 2.0):
        actual = _margins(model, images, labels, exact, setting=(norm, epsilon, domain, False))
        logits = layer(images.flatten(1)).detach()
        gaps = logits.gather(1, labels[:, None]) - logits
        away = layer.weight[None] - layer.weight[labels, None]
        worst = gaps - epsilon * norms.norm(away.flatten(0, 1), norms.dual(norm)).reshape(gaps.shape)
        expected = worst.scatter(1, labels[:, None], math.inf).amin(dim=1)
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


def test_bounds_lose_nothing_by_normalisation_where_it_is_even(exact: OperatorNorms) -> None:
    torch.manual_seed(1)
    layer, images, labels = nn.Linear(4, 3).double(), torch.rand(6, 1, 2, 2).double(), torch.arange(6) % 3
    model = nn.Sequential(Normalize([0.3], [0.25]).double(), nn.Flatten(), layer)
    actual = _margins(model, images, labels, exact, setting=(2.0, 0.2, "ball", False))
    logits = model(images).detach()
    gaps = logits.gather(1, labels[:, None]) - logits
    away = (layer.weight[None] - layer.weight[labels, None]).norm(dim=-1)
    expected = (gaps - 0.8 * away).scatter(1, labels[:, None], math.inf).amin(dim=1)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


# Tiny nets: on each linear piece the margin is least where two lines cross, where a line meets the
# circle, or on the circle against the gradient


class Pieces(NamedTuple):
    """The linear pieces of a ReLU net of two inputs.

    Attributes:
        slopes: Of each logit, (pieces, classes, 2).
        lines: Where a ReLU switches: normal · x = offset, rows of (normal, offset).
    """

    slopes: Array
    lines: Array


def _pieces(model: nn.Sequential) -> Pieces:
    """Takes every pattern of ReLUs that are on; some are of no input, and do no harm."""
    layers = [layer for layer in model if isinstance(layer, nn.Linear)]
    sizes = [layer.out_features for layer in layers[:-1]]
    slopes, lines = [], []
    for pattern in product(*[product((0.0, 1.0), repeat=size) for size in sizes]):
        matrix, offset = np.eye(2), np.zeros(2)
        for layer, is_on in zip(layers, [*pattern, None], strict=True):
            weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
            matrix, offset = weight @ matrix, weight @ offset + bias
            if is_on is not None:
                lines.append(np.column_stack([matrix, -offset]))
                matrix, offset = np.array(is_on)[:, None] * matrix, np.array(is_on) * offset
        slopes.append(matrix)
    unique = np.unique(np.concatenate(lines).round(12), axis=0)
    return Pieces(np.stack(slopes), unique[abs(unique[:, :2]).max(axis=1) > 1e-9])


def _crossings(lines: Array) -> Array:
    first, second = np.triu_indices(len(lines), 1)
    matrices = np.stack([lines[first, :2], lines[second, :2]], axis=1)
    is_crossing = abs(np.linalg.det(matrices)) > 1e-12
    offsets = np.stack([lines[first, 2], lines[second, 2]], axis=1)
    crossings: Array = np.linalg.solve(matrices[is_crossing], offsets[is_crossing, :, None])[..., 0]
    return crossings


def _on_circle(lines: Array, center: Array, radius: float) -> Array:
    normals, offsets = np.split(lines / np.linalg.norm(lines[:, :2], axis=1, keepdims=True), [2], axis=1)
    heights = offsets - normals @ center[:, None]
    along = np.sqrt(np.maximum(radius**2 - heights**2, 0)) * normals[:, ::-1] * np.array([-1, 1])
    feet = center + heights * normals
    return np.concatenate([feet + along, feet - along])


def _steepest(slopes: Array, label: int, center: Array, radius: float) -> Array:
    gaps = (slopes[:, label, None] - slopes).reshape(-1, 2)
    points: Array = center - radius * gaps / np.linalg.norm(gaps, axis=1, keepdims=True).clip(1e-12)
    return points


def _true_margin(
    model: nn.Sequential, pieces: Pieces, image: Tensor, label: int, around: tuple[float, float, bool]
) -> float:
    """The least margin over the set: the least of all candidates that lie in it."""
    (norm, epsilon, clip), center = around, image.numpy()
    lower, upper = center - epsilon, center + epsilon
    if clip:
        lower, upper = lower.clip(0), upper.clip(max=1)
    edges = [np.append(unit, unit @ end) for unit in np.eye(2) for end in (lower, upper)]
    lines = np.concatenate([pieces.lines, edges])
    points = [center[None], _crossings(lines)]
    if norm == 2:
        points += [_on_circle(lines, center, epsilon), _steepest(pieces.slopes, label, center, epsilon)]
    result = np.concatenate(points)
    away = np.linalg.norm(result - center, axis=1, ord=norm)
    is_inside = (away <= epsilon + 1e-9) & ((result >= lower - 1e-9) & (result <= upper + 1e-9)).all(axis=1)
    return float(_margin(model, torch.from_numpy(result[is_inside]), label).min())


def _margin(model: nn.Module, points: Tensor, label: int) -> Tensor:
    with torch.no_grad():
        logits = model(points)
    true = logits[:, label].clone()
    logits[:, label] = -math.inf
    margin: Tensor = true - logits.amax(dim=1)
    return margin


def _tiny(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    widths = [(2, 3), (3, 3), (3, 3)] if seed % 2 else [(2, 5), (5, 2)]
    layers = [nn.Linear(*width) for width in widths]
    for layer in layers:
        nn.init.normal_(layer.weight)
    return nn.Sequential(*[part for layer in layers for part in (layer, nn.ReLU())][:-1]).double()


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("norm", [2.0, math.inf])
@pytest.mark.parametrize("seed", range(8))
def test_bounds_of_a_tiny_net_are_never_above_the_true_margin(
    seed: int, norm: float, clip: bool, exact: OperatorNorms
) -> None:
    model = _tiny(seed)
    pieces, images = _pieces(model), torch.rand(8, 2, dtype=torch.float64)
    labels = model(images).argmax(dim=1)
    for epsilon in (0.02, 0.2, 0.7):
        true = [
            _true_margin(model, pieces, image, int(label), (norm, epsilon, clip))
            for image, label in zip(images, labels, strict=True)
        ]
        for domain in NAMES:
            result = _margins(model, images, labels, exact, setting=(norm, epsilon, domain, clip))
            assert (result <= torch.tensor(true, dtype=torch.float64) + 1e-9).all()


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("norm", [2.0, math.inf])
def test_exhaustive_search_is_one(norm: float, seed: int) -> None:
    """Against a fine grid, which comes near the least margin from above."""
    model, image = _tiny(seed), torch.tensor([0.4, 0.7], dtype=torch.float64)
    label = int(model(image[None]).argmax())
    side = torch.linspace(-0.4, 0.4, 401, dtype=torch.float64)
    grid = torch.cartesian_prod(side, side)
    coarse = float(_margin(model, image + grid[norms.norm(grid, norm) <= 0.4], label).min())
    exhaustive = _true_margin(model, _pieces(model), image, label, (norm, 0.4, False))
    assert exhaustive <= coarse + 1e-9
    assert exhaustive == pytest.approx(coarse, abs=0.01)
