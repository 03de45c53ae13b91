from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from withstand.objectives import BoostedCrossEntropy, SymmetricCrossEntropy, WorstCrossEntropy, WorstLoss

LOSSES: dict[str, WorstLoss] = {
    "worst": WorstCrossEntropy(),
    "boosted": BoostedCrossEntropy(),
    "symmetric-0": SymmetricCrossEntropy(0.0),
    "symmetric-0.9": SymmetricCrossEntropy(0.9),
    "symmetric-1": SymmetricCrossEntropy(1.0),
}


@pytest.fixture(params=LOSSES.values(), ids=list(LOSSES))
def loss(request: pytest.FixtureRequest) -> WorstLoss:
    result: WorstLoss = request.param
    return result


def _differences(num_classes: int = 5, scale: float = 2.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(num_classes, (30,), generator=generator)
    differences = scale * torch.randn(30, num_classes, generator=generator, dtype=torch.float64)
    return differences.scatter(1, labels[:, None], 0.0), labels


def test_boosted_cross_entropy_is_its_formula() -> None:
    differences, labels = _differences()
    expected = 0.0
    for row, label in zip(differences.tolist(), labels.tolist(), strict=True):
        total = sum(math.exp(value) for value in row)
        wrong = max(math.exp(value) / total for index, value in enumerate(row) if index != label)
        expected += (-math.log(math.exp(row[label]) / total) - math.log(1.0001 - wrong)) / len(labels)
    assert BoostedCrossEntropy()(differences, labels).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_symmetric_cross_entropy_is_its_formula(share: float) -> None:
    differences, labels = _differences()
    likelihood = differences.softmax(1).gather(1, labels[:, None])
    expected = (-(1 - share) * likelihood.log() + share * (1 - likelihood)).mean()
    torch.testing.assert_close(SymmetricCrossEntropy(share)(differences, labels), expected)


def test_symmetric_cross_entropy_is_what_remains_where_the_example_is_nearly_sure() -> None:
    differences = torch.tensor([[0.0, -40.0]], dtype=torch.float64)
    result = SymmetricCrossEntropy(1.0)(differences, torch.zeros(1, dtype=torch.int64)).item()
    assert result == pytest.approx(math.exp(-40), rel=1e-6)


def test_symmetric_cross_entropy_with_a_larger_share_gives_up_the_hopeless() -> None:
    """The pull of a hopeless example, relative to that of one on the edge, decreases."""
    ratios = []
    for loss in (WorstCrossEntropy(), SymmetricCrossEntropy(0.5), SymmetricCrossEntropy(0.95)):
        differences = torch.tensor([[0.0, 0.0], [0.0, 8.0]], dtype=torch.float64, requires_grad=True)
        loss(differences, torch.zeros(2, dtype=torch.int64)).backward()
        assert differences.grad is not None
        ratios.append(float(differences.grad[1, 1] / differences.grad[0, 1]))
    assert ratios[0] > 1.9
    assert ratios[0] > 1.3 * ratios[1] > 1.3 * 5 * ratios[2] > 0


def test_worst_losses_push_every_wrong_class_down(loss: WorstLoss) -> None:
    differences, labels = _differences()
    differences.requires_grad_()
    loss(differences, labels).backward()
    gradient = differences.grad
    assert gradient is not None
    is_true = F.one_hot(labels, 5).bool()
    likeliest = differences.detach().masked_fill(is_true, -math.inf).argmax(dim=1)
    assert (gradient[is_true] < 0).all()
    assert (gradient.gather(1, likeliest[:, None]) > 0).all()
    if not isinstance(loss, BoostedCrossEntropy):  # which lifts the others to push the likeliest down
        assert (gradient[~is_true] > 0).all()


@pytest.mark.parametrize("num_classes", [2, 100])
@pytest.mark.parametrize("scale", [0.0, 1e4, -1e4, 1e30, -1e30])
def test_worst_losses_of_extreme_differences_are_finite_with_their_gradients(
    loss: WorstLoss, scale: float, num_classes: int
) -> None:
    differences = torch.full((4, num_classes), scale)
    differences[:, 0] = 0.0
    differences.requires_grad_()
    value = loss(differences, torch.zeros(4, dtype=torch.int64))
    value.backward()
    assert value.isfinite()
    assert value >= -1e-3  # -log(1.0001) is the least of the boosted one
    assert differences.grad is not None
    assert differences.grad.isfinite().all()


@pytest.mark.parametrize("share", [-0.1, 1.1, math.nan])
def test_worst_losses_refuse_shares_out_of_range(share: float) -> None:
    with pytest.raises(ValueError, match=f"share from 0 to 1, but got {share}"):
        SymmetricCrossEntropy(share)


def test_worst_losses_differ_in_their_repr() -> None:
    assert repr(SymmetricCrossEntropy(0.7)) == "SymmetricCrossEntropy(share=0.7)"
