"""What a certificate says of the precision that the model runs in."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from withstand import certify


def of_weights(*rows: list[float], dtype: torch.dtype = torch.float32) -> nn.Module:
    """A linear model of images of two pixels, without bias."""
    linear = nn.Linear(2, len(rows), bias=False)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor(rows))
    return nn.Sequential(nn.Flatten(), linear).to(dtype).eval()


def images_of(*pixels: list[float]) -> tuple[Tensor, Tensor]:
    """Images (batch, 1, 1, 2), all of class 0."""
    return torch.tensor(pixels).reshape(-1, 1, 1, 2), torch.zeros(len(pixels), dtype=torch.int64)


def test_certify_gives_the_rounding_of_a_float16_model_exactly() -> None:
    """Float16 has steps of 2^-10 from 1 and of 2^-11 from 0.5: halves of them are lost."""
    model = of_weights([1.0, 2.0**-11], [0.0, 0.0], dtype=torch.float16)
    images, labels = images_of([1.0, 1.0], [0.5 + 2.0**-12, 0.0], [0.25, 0.0])
    proof = certify(model, images, labels, norm=2, epsilon=0.0)
    assert proof.rounding.dtype == torch.float64
    assert proof.rounding.tolist() == [2.0**-11, 2.0**-12, 0.0]
    assert proof.precision == "float16"
    torch.testing.assert_close(
        proof.margin, torch.tensor([1 + 2.0**-11, 0.5 + 2.0**-12, 0.25], dtype=torch.float64)
    )
    assert proof.certified.all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_certify_names_the_precision_of_a_model(dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 4)).to(dtype).eval()
    images, labels = torch.rand(20, 1, 4, 4), torch.zeros(20, dtype=torch.int64)
    proof = certify(model, images, labels, norm=2, epsilon=0.1)
    assert f"torch.{proof.precision}" == str(dtype)
    assert (proof.rounding <= 4 * torch.finfo(dtype).eps).all()
    assert dtype == torch.float64 or (proof.rounding > 0).any()


def test_certify_under_autocast_asks_the_model_under_it() -> None:
    """Bfloat16 has steps of 2^-7 from 1: there the two logits are one."""
    model, (images, labels) = of_weights([1.0, 2.0**-9], [1.0, 0.0]), images_of([1.0, 1.0])
    plain = certify(model, images, labels, norm=2, epsilon=1e-4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = certify(model, images, labels, norm=2, epsilon=1e-4)
        double = certify(model.double(), images, labels, norm=2, epsilon=1e-4)
    assert (plain.precision, cast.precision, double.precision) == (
        "float32",
        "autocast to bfloat16",
        "float64",
    )
    assert (plain.rounding.item(), cast.rounding.item(), double.rounding.item()) == (0.0, 2.0**-9, 0.0)
    assert (plain.certified.item(), cast.certified.item(), double.certified.item()) == (True, False, True)
    assert torch.equal(cast.margin, plain.margin)


def test_certify_of_logits_that_are_not_finite_gives_infinite_rounding() -> None:
    images, labels = images_of([1.0, 1.0], [0.1, 0.1])
    overflowing = of_weights([6e4, 6e4], [0.0, 0.0], dtype=torch.float16)
    proof = certify(overflowing, images, labels, norm=2, epsilon=0.0)
    assert (proof.margin > 0).all()
    assert proof.rounding.isinf().tolist() == [True, False]
    assert proof.certified.tolist() == [False, True]
    difference = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        difference.weight.copy_(torch.tensor([[1.0, -0.5], [0.0, 0.0]]))
    of_infinities = nn.Sequential(*of_weights([6e4, 6e4], [6e4, 6e4]).children(), difference).to(
        torch.float16
    )
    assert of_infinities(images.half())[0].isnan().any()
    proof = certify(of_infinities, images, labels, norm=2, epsilon=0.0)
    assert proof.rounding.tolist()[0] == math.inf
    assert proof.certified.tolist() == [False, True]


def test_certify_of_nan_in_every_precision_gives_infinite_rounding() -> None:
    model, (images, labels) = of_weights([1.0, 0.0], [0.0, math.nan]), images_of([1.0, 1.0])
    proof = certify(model, images, labels, norm=2, epsilon=0.0)
    assert proof.rounding.tolist() == [math.inf]
    assert not proof.certified.any()


def test_certify_of_a_class_masked_by_infinity_has_the_rounding_of_the_others() -> None:
    linear = nn.Linear(2, 2)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[1.0, 2.0**-11], [0.0, 0.0]]))
        linear.bias.copy_(torch.tensor([0.0, -math.inf]))
    images, labels = images_of([1.0, 1.0])
    proof = certify(nn.Sequential(nn.Flatten(), linear).half(), images, labels, norm=2, epsilon=0.0)
    assert proof.rounding.tolist() == [2.0**-11]
