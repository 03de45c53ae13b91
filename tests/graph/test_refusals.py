"""What cannot be bounded is refused in words that say what to do."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from withstand.domains import (
    Box,
    CorrelatedGaussian,
    Gaussian,
    Program,
    Region,
    UnsupportedOperationError,
    propagate,
)
from withstand.operators import GuaranteedNorms, PowerIteration, TransposedConvolution, upper_bound


@pytest.mark.parametrize(
    ("function", "match"),
    [
        (nn.Hardshrink(), "it jumps; take a continuous function"),
        (torch.floor, "it jumps"),
        (nn.Threshold(0.5, 0.0), "take a ReLU or clamp"),
        (lambda x: x.argmax(1), "no rule for aten.argmax"),
        (lambda x: torch.where(x > 0, x, 0), "no rule for aten.gt"),
        (lambda x: (x + 3) ** x, "exp(y * log(x))"),
        (lambda x: (-2.0) ** x, "a base above 0"),
        (lambda x: x**0, "other than 0"),
        (lambda x: x / 0, "other than 0"),
        (lambda x: x.softmax(0), "needs the batch as it is"),
        (lambda x: x.roll(1), "along which dimensions"),
        (lambda x: x.repeat(2, 1, 1).reshape(x.shape[0], -1), "repeats the images"),
        (lambda x: x.softmax(1, dtype=torch.float64), "changes the precision"),
        (lambda x: F.adaptive_max_pool1d(x, 3), "that divides that of the images"),
        (lambda x: F.scaled_dot_product_attention(x, x, x, dropout_p=0.5), "dropout to be at rest"),
        (lambda x: torch.linalg.vector_norm(x, 3, dim=1), "knows norms 1, 2 and inf"),
        (lambda x: F.conv1d(x, x[:1]), "a constant weight|images of a batch|one value for all"),
        (lambda x: nn.GRU(4, 2, batch_first=True)(x)[0], "no rule for aten.gru"),
        (nn.RReLU().train(), "not drawn at random"),
    ],
)
def test_refusals_say_what_to_do(
    function: Callable[[Tensor], Any], match: str, model_of: Callable[..., nn.Module]
) -> None:
    with pytest.raises(
        UnsupportedOperationError, match="|".join(re.escape(part) for part in match.split("|"))
    ):
        propagate(model_of(function), Box(torch.zeros(2, 3, 4), torch.ones(2, 3, 4)))


@pytest.mark.parametrize("mask", [torch.tensor([0.0, 0, -torch.inf]), torch.tensor([0.0, 0, -1e9])])
def test_masked_scores_have_finite_moments(mask: Tensor, model_of: Callable[..., nn.Module]) -> None:
    mean, variance = torch.randn(2, 3), torch.full((2, 3), 0.1)
    added = model_of(lambda x: (x + mask).softmax(1))
    filled = model_of(lambda x: x.masked_fill(mask < 0, mask[2]).softmax(1))
    for model in (added, filled):
        results = [
            propagate(model, value)
            for value in (Gaussian(mean, variance), CorrelatedGaussian.independent(mean, variance))
        ]
        for result in results:
            assert result.mean.isfinite().all()
            assert result.variance.isfinite().all()
            assert (result.mean[:, 2] == 0).all()
            torch.testing.assert_close(result.mean.sum(1), torch.ones(2), atol=0.05, rtol=0)


def test_transposed_convolution_has_the_norm_of_its_matrix() -> None:
    weight = torch.randn(4, 3, 3, 2, dtype=torch.float64)
    for settings in (([2, 1], [1, 0], [1, 0], [1, 2]), ([1, 1], [0, 0], [1, 2], [2, 3])):
        operator = TransposedConvolution(weight, *settings, groups=2)
        shape = 4, 3, 4
        unit = torch.eye(48, dtype=torch.float64).reshape(-1, *shape)
        image = operator.apply(unit)
        matrix = image.flatten(1).T
        norm = torch.linalg.matrix_norm(matrix, ord=2)
        assert operator.output_shape(shape) == tuple(image.shape[1:])
        assert norm <= upper_bound(operator, shape) <= norm * 1.3
        torch.testing.assert_close(operator.adjoint(image, shape).flatten(1), matrix.T @ matrix)
        torch.testing.assert_close(operator.row_norms(shape)[0].flatten(), matrix.norm(dim=1))
        estimate = PowerIteration(200).of(operator, shape, "here")
        torch.testing.assert_close(estimate, norm, rtol=1e-2, atol=0)


def test_last_layers_are_found_behind_functions_of_several_coordinates() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Softmax(1), nn.Linear(4, 5), nn.Linear(5, 3))
    images = torch.rand(2, 4)
    box: Region = Box(images - 0.1, images + 0.1)
    last = Program(model, images).run_to_last_layer(box, GuaranteedNorms())
    first, second = (model[place].get_parameter("weight") for place in (2, 3))
    torch.testing.assert_close(last.weight, second @ first)


def test_last_layers_have_gradients_of_what_is_made_of_weights_at_the_first_run() -> None:
    model = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
    model = nn.Sequential(model, nn.ReLU(), nn.Linear(4, 3))
    images = torch.rand(2, 4)
    box: Region = Box(images - 0.1, images + 0.1)
    last = Program(model, images).run_to_last_layer(box, GuaranteedNorms())
    gradients = torch.autograd.grad(last.differences(torch.tensor([0, 1])).sum(), [*model.parameters()][:3])
    assert all(bool(gradient.any()) for gradient in gradients)
