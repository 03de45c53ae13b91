from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from withstand.objectives import (
    AnnealedCrossEntropy,
    BoostedCrossEntropy,
    CappedCrossEntropy,
    SymmetricCrossEntropy,
    WorstCrossEntropy,
    WorstLoss,
)

LOSSES: dict[str, WorstLoss] = {
    "worst": WorstCrossEntropy(),
    "boosted": BoostedCrossEntropy(),
    "symmetric-0": SymmetricCrossEntropy(0.0),
    "symmetric-0.9": SymmetricCrossEntropy(0.9),
    "symmetric-1": SymmetricCrossEntropy(1.0),
    "capped-0": CappedCrossEntropy(0.0),
    "capped-0.9": CappedCrossEntropy(0.9),
    "annealed": AnnealedCrossEntropy(),
    "annealed-0.5": AnnealedCrossEntropy(beta=0.5),
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
    assert BoostedCrossEntropy()(differences, labels, differences).item() == pytest.approx(
        expected, rel=1e-12
    )


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_symmetric_cross_entropy_is_its_formula(share: float) -> None:
    differences, labels = _differences()
    likelihood = differences.softmax(1).gather(1, labels[:, None])
    expected = (-(1 - share) * likelihood.log() + share * (1 - likelihood)).mean()
    torch.testing.assert_close(SymmetricCrossEntropy(share)(differences, labels, differences), expected)


def test_symmetric_cross_entropy_is_what_remains_where_the_example_is_nearly_sure() -> None:
    differences = torch.tensor([[0.0, -40.0]], dtype=torch.float64)
    labels = torch.zeros(1, dtype=torch.int64)
    result = SymmetricCrossEntropy(1.0)(differences, labels, differences).item()
    assert result == pytest.approx(math.exp(-40), rel=1e-6)


def test_symmetric_cross_entropy_with_a_larger_share_gives_up_the_hopeless() -> None:
    """The pull of a hopeless example, relative to that of one on the edge, decreases."""
    ratios = []
    for loss in (WorstCrossEntropy(), SymmetricCrossEntropy(0.5), SymmetricCrossEntropy(0.95)):
        differences = torch.tensor([[0.0, 0.0], [0.0, 8.0]], dtype=torch.float64, requires_grad=True)
        loss(differences, torch.zeros(2, dtype=torch.int64), differences).backward()
        assert differences.grad is not None
        ratios.append(float(differences.grad[1, 1] / differences.grad[0, 1]))
    assert ratios[0] > 1.9
    assert ratios[0] > 1.3 * ratios[1] > 1.3 * 5 * ratios[2] > 0


def _of_ball(margins: Tensor, lipschitz: float, epsilon: float) -> Tensor:
    """The worst differences of clean ones, with the true class first."""
    added = torch.full_like(margins, lipschitz * epsilon)
    added[:, 0] = 0.0
    return margins + added


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_capped_cross_entropy_is_its_formula_with_a_radius_for_each_example_and_class(share: float) -> None:
    clean, labels = torch.tensor([[0.0, -5.0, -1.0], [0.0, 2.0, -0.25]]).double(), torch.tensor([0, 0])
    epsilon, constant = 1.5, 2.0
    radii = (-clean / constant).clamp(0, epsilon)  # e_j of the source, (f_y - f_j) / L_yj up to epsilon
    capped = clean + constant * radii * torch.tensor([0.0, 1.0, 1.0])
    worst = _of_ball(clean, constant, epsilon)
    unlikely = 1 - worst.softmax(1)[:, 0]
    expected = (1 - share) * F.cross_entropy(capped, labels) + share * unlikely.mean()
    torch.testing.assert_close(CappedCrossEntropy(share)(worst, labels, clean), expected)


def test_capped_cross_entropy_has_no_gradient_through_its_caps() -> None:
    """By the Lipschitz constant, where the cap binds: that of clean + radius · constant at a fixed radius."""
    constant = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    clean, labels = torch.tensor([[0.0, -1.0]]).double(), torch.tensor([0])
    added = 1.5 * constant * torch.tensor([[0.0, 1.0]]).double()
    CappedCrossEntropy()(clean + added, labels, clean).backward()
    # The capped logit is 0, beside that of the true class, so its probability is a half; its radius is 0.5.
    assert constant.grad is not None
    assert constant.grad.item() == pytest.approx(0.5 * 0.5)


def test_capped_cross_entropy_is_the_cross_entropy_of_worst_logits_where_all_margins_are_wide() -> None:
    clean, labels = torch.tensor([[0.0, -9.0, -7.0]]), torch.tensor([0])
    worst = _of_ball(clean, 2.0, 1.5)
    torch.testing.assert_close(CappedCrossEntropy()(worst, labels, clean), F.cross_entropy(worst, labels))


def test_capped_cross_entropy_of_wrong_answers_is_that_of_clean_logits() -> None:
    clean, labels = torch.tensor([[0.0, 1.0, 3.0]]), torch.tensor([0])
    worst = _of_ball(clean, 2.0, 1.5)
    torch.testing.assert_close(CappedCrossEntropy()(worst, labels, clean), F.cross_entropy(clean, labels))


@pytest.mark.parametrize("beta", [0.0, 0.5, 5.0])
def test_annealed_cross_entropy_is_its_formula(beta: float) -> None:
    differences, labels = _differences()
    likelihood = (differences / 0.6).softmax(1).gather(1, labels[:, None])
    expected = -(0.6 * (1 - likelihood) ** beta * likelihood.log()).mean()
    found = AnnealedCrossEntropy(temperature=0.6, beta=beta)(differences, labels, differences)
    torch.testing.assert_close(found, expected)


def test_annealed_cross_entropy_leaves_wide_margins_alone() -> None:
    """An example that is certain has less of the gradient, relative to one on the edge, than without it."""
    ratios = []
    for loss in (WorstCrossEntropy(), AnnealedCrossEntropy(temperature=1.0)):
        differences = torch.tensor([[0.0, 0.0], [0.0, -4.0]], dtype=torch.float64, requires_grad=True)
        loss(differences, torch.zeros(2, dtype=torch.int64), differences).backward()
        assert differences.grad is not None
        ratios.append(float(differences.grad[1, 1] / differences.grad[0, 1]))
    assert 0 < 1e3 * ratios[1] < ratios[0]


def test_worst_losses_push_every_wrong_class_down(loss: WorstLoss) -> None:
    differences, labels = _differences()
    differences.requires_grad_()
    loss(differences, labels, differences - 1 + F.one_hot(labels, 5)).backward()
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
    value = loss(differences, torch.zeros(4, dtype=torch.int64), differences)
    value.backward()
    assert value.isfinite()
    assert value >= -1e-3  # -log(1.0001) is the least of the boosted one
    assert differences.grad is not None
    assert differences.grad.isfinite().all()


@pytest.mark.parametrize("share", [-0.1, 1.1, math.nan])
def test_worst_losses_refuse_shares_out_of_range(share: float) -> None:
    with pytest.raises(ValueError, match=f"share from 0 to 1, but got {share}"):
        SymmetricCrossEntropy(share)
    with pytest.raises(ValueError, match=f"share from 0 to 1, but got {share}"):
        CappedCrossEntropy(share)


def test_annealed_cross_entropy_refuses_numbers_out_of_range() -> None:
    with pytest.raises(ValueError, match="temperature above 0, but got 0"):
        AnnealedCrossEntropy(temperature=0.0)
    with pytest.raises(ValueError, match="beta of at least 0, but got -1"):
        AnnealedCrossEntropy(beta=-1.0)


def test_worst_losses_differ_in_their_repr() -> None:
    assert repr(SymmetricCrossEntropy(0.7)) == "SymmetricCrossEntropy(share=0.7)"
