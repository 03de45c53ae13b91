from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from withstand.attacks import PGD, AttackMode, cross_entropy, dlr, fgsm, margin
from withstand.core import norms
from withstand.core.schedules import Linear, Stages
from withstand.types import Batch, DataError, ModelError

Slope = Callable[[Tensor], nn.Module]
NORMS = (1.0, 2.0, math.inf)


def _grey(count: int = 3, pixels: int = 6) -> tuple[Tensor, Tensor]:
    """Images far from 0 and 1, all said to be of the first class."""
    images = 0.4 + 0.2 * torch.rand(count, pixels, generator=torch.Generator().manual_seed(0))
    return images, torch.zeros(count, dtype=torch.int64)


def _weight(pixels: int = 6) -> Tensor:
    return torch.randn(pixels, generator=torch.Generator().manual_seed(1))


def _fooled(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model(images)
    return logits.argmax(dim=1) != labels


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("loss", [cross_entropy, margin])
def test_pgd_on_a_linear_model_reaches_the_optimum(
    p: float, loss: Callable[[Tensor, Tensor], Tensor], slope: Slope
) -> None:
    # In float64: near the optimum the loss is so flat that float32 takes others for the best.
    (images, labels), weight = _grey(), _weight().double()
    images, model = images.double(), slope(weight)
    expected = images + 0.1 * norms.steepest(weight[None], p)
    for attack in (
        PGD(norm=p, epsilon=0.1, random_start=False, loss=loss),
        PGD(norm=p, epsilon=0.1, random_start=False, loss=loss, keep_best=True),
        PGD(norm=p, epsilon=0.1, num_steps=40, step_size=0.1, loss=loss),
        PGD(norm=p, epsilon=0.1, num_steps=40, step_size=0.1, loss=loss, num_restarts=2),
    ):
        torch.manual_seed(0)
        torch.testing.assert_close(attack(model, images, labels), expected, rtol=0, atol=1e-5)


def test_pgd_in_linf_at_the_edge_of_the_box_is_the_clamped_optimum(slope: Slope) -> None:
    images, weight = torch.tensor([[0.0, 1.0, 0.05, 0.95, 0.5, 0.5]]), _weight()
    expected = (images + 0.1 * weight.sign()).clamp(0, 1)
    actual = PGD(epsilon=0.1)(slope(weight), images, torch.tensor([0]))
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("p", [1.0, 2.0])
def test_pgd_spends_no_budget_on_pixels_that_cannot_move(p: float, slope: Slope) -> None:
    # The steepest pixel is white already, so all goes into the other.
    attack = PGD(norm=p, epsilon=0.2, random_start=False)
    result = attack(slope(torch.tensor([10.0, 1.0])), torch.tensor([[1.0, 0.5]]), torch.tensor([0]))
    torch.testing.assert_close(result, torch.tensor([[1.0, 0.7]]))


def test_pgd_follows_gradients_that_are_not_finite() -> None:
    class Root(nn.Module):
        @override
        def forward(self, images: Tensor) -> Tensor:
            score = images[:, 0].sqrt() + images[:, 1]  # infinite slope at 0
            return torch.stack([torch.zeros_like(score), score], dim=1)

    for p in NORMS:
        attack = PGD(norm=p, epsilon=0.1, random_start=False)
        result = attack(Root(), torch.tensor([[0.0, 0.5]]), torch.tensor([0]))
        assert result.isfinite().all()
        # By the second pixel alone it comes to 0.6; the infinite slope of the first leads farther.
        assert float(result[0, 0].sqrt() + result[0, 1]) > 0.65


@pytest.mark.parametrize("p", NORMS)
def test_pgd_does_not_write_to_gradients_that_are_views(p: float) -> None:
    def total(logits: Tensor, labels: Tensor) -> Tensor:
        return logits.sum(dim=1)  # its gradient is a single 1, seen many times

    images, labels = _grey()
    attack = PGD(norm=p, epsilon=0.1, random_start=False, loss=total)
    expected = images + 0.1 * norms.steepest(torch.ones_like(images), p)
    torch.testing.assert_close(attack(nn.Flatten(), images, labels), expected)


def test_pgd_with_margin_or_dlr_sees_through_a_saturated_softmax() -> None:
    # At such logits the softmax is exactly 1, and cross-entropy has no gradient left.
    weight = torch.randn(3, 6, generator=torch.Generator().manual_seed(3))
    model = nn.Linear(6, 3, bias=False)
    model.weight = nn.Parameter(weight * 1e5)
    images, _ = _grey(20)
    labels = model(images).argmax(dim=1)
    for loss in (margin, dlr):
        attack = PGD(epsilon=0.4, loss=loss, random_start=False)
        assert _fooled(model, attack(model, images, labels), labels).all()


def _trained(model: nn.Module, images: Tensor, labels: Tensor) -> nn.Module:
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
    return model.eval()


@pytest.mark.parametrize("kind", ["linear", "conv"])
def test_pgd_at_half_the_range_leaves_an_undefended_net_at_most_at_chance(kind: str) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        labels = torch.arange(80) % 4
        images = 0.4 * torch.rand(80, 1, 4, 4)
        images[torch.arange(80), 0, :, labels] += 0.6
        net = (
            [nn.Flatten(), nn.Linear(16, 4)]
            if kind == "linear"
            else [nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(), nn.Linear(96, 4)]
        )
        model = _trained(nn.Sequential(*net), images, labels)
        assert not _fooled(model, images, labels).any()
        for loss in (cross_entropy, margin, dlr):
            attack = PGD(epsilon=0.5, num_steps=20, loss=loss).for_evaluation()
            assert _fooled(model, attack(model, images, labels), labels).float().mean() >= 0.75


# Settings of it


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("epsilon", [0.02, 0.3])
def test_fgsm_is_one_whole_step_at_whatever_budget(
    p: float, epsilon: float, curved: tuple[nn.Module, Batch]
) -> None:
    model, (images, labels) = curved
    images = 0.4 + 0.2 * images
    leaf = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(model(leaf), labels, reduction="sum"), leaf)
    expected = (images + epsilon * norms.steepest(gradient, p)).clamp(0, 1)
    for attack in (fgsm(epsilon, p), fgsm(0.01, p).at(epsilon), fgsm(Linear(0, 1, 5), p).at(epsilon)):
        torch.testing.assert_close(attack(model, images, labels), expected)
    scheduled = fgsm(Linear(0.0, 2 * epsilon, 4), p)
    torch.testing.assert_close(scheduled(model, images, labels, progress=2.0), expected)
    assert torch.equal(fgsm(0.0, p)(model, images, labels), images)


def test_pgd_for_evaluation_goes_by_success_only() -> None:
    attack = PGD(norm=2.0, epsilon=0.5, num_restarts=3, loss=margin)
    assert attack.for_evaluation() == replace(attack, mode="evaluation")


def test_pgd_may_climb_any_function_of_logits_and_labels(slope: Slope) -> None:
    def downhill(logits: Tensor, labels: Tensor) -> Tensor:
        return -margin(logits, labels)

    images, labels = _grey()
    attack = PGD(epsilon=0.1, loss=downhill)
    torch.testing.assert_close(
        attack(slope(_weight()), images, labels), images - 0.1 * _weight().sign(), rtol=0, atol=1e-6
    )
    assert attack.name == "pgd-10-downhill-linf"


@pytest.mark.parametrize(
    ("attack", "name", "words"),
    [
        (PGD(), "pgd-10-linf", "PGD, linf, 10 steps, random start, cross-entropy, last iterate"),
        (
            PGD(2.0, 0.5, num_steps=40, num_restarts=5, loss=dlr).for_evaluation(),
            "pgd-40-dlr-l2",
            "PGD, l2, 40 steps, 5 restarts, random start, dlr, best iterate",
        ),
        (fgsm(0.1), "pgd-1-linf", "PGD, linf, 1 steps, start at the image, cross-entropy, last iterate"),
        (
            PGD(epsilon=Linear(0, 0.4, 9), step_size=0.01),
            "pgd-auto-linf",
            "PGD, linf, auto steps, random",
        ),
        (PGD(num_steps=Stages([7, 9], [1, 1])), "pgd-auto-linf", "PGD, linf, 9 steps, random"),
    ],
)
def test_pgd_has_names_and_descriptions(attack: PGD, name: str, words: str) -> None:
    assert attack.name == name
    assert attack.describe().startswith(words)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epsilon": -0.1}, "Expected epsilon of at least 0, but got -0.1"),
        ({"num_steps": 0}, "Expected num_steps of at least 1, but got 0"),
        ({"num_restarts": 0}, "Expected num_restarts of at least 1, but got 0"),
        ({"step_size": 0.0}, "Expected step_size above 0, but got 0"),
        ({"step_size": -1}, "Expected step_size above 0, but got -1"),
        ({"step_size": math.nan}, "Expected step_size above 0 and finite, but got nan"),
    ],
)
def test_pgd_refuses_settings_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PGD(**settings)


def test_pgd_takes_epsilon_from_its_schedule() -> None:
    assert PGD(epsilon=Linear(0.0, 0.4, 40)).epsilon_at(9.5) == 0.095
    assert PGD(epsilon=0.2).epsilon_at(3.0) == 0.2


@pytest.mark.parametrize("loss", [cross_entropy, margin, dlr])
@pytest.mark.parametrize("mode", get_args(AttackMode))
def test_pgd_explains_labels_beyond_the_classes(
    loss: Callable[[Tensor, Tensor], Tensor], mode: AttackMode
) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    labels = torch.tensor([0, 3])
    with pytest.raises(DataError, match=r"labels from 0 to 2, as the model has 3 outputs, but got 3"):
        PGD(loss=loss, mode=mode)(model, torch.rand(2, 1, 2, 2), labels)


def test_pgd_says_that_the_model_fails_on_the_images() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(5, 3))
    with pytest.raises(ModelError, match="shapes cannot be multiplied"):
        PGD()(model, torch.rand(2, 1, 2, 2), torch.tensor([0, 1]))


@pytest.mark.parametrize(
    ("norm", "same"),
    [
        *((1, 1.0), ("1", 1.0), ("l1", 1.0), (2, 2.0), ("2", 2.0), ("l2", 2.0), ("L2", 2.0)),
        *(("inf", math.inf), ("linf", math.inf), ("Linf", math.inf), ("l_inf", math.inf)),
        *((torch.tensor(2), 2.0), (np.float32("inf"), math.inf)),
    ],
)
def test_pgd_reads_norms_alike(norm: Any, same: float) -> None:
    assert PGD(norm=norm) == PGD(norm=same)
    assert type(PGD(norm=norm).norm) is float


@pytest.mark.parametrize("norm", ["l3", 3, "euclid", None, [2], True])
def test_pgd_names_the_norms_that_there_are(norm: Any) -> None:
    with pytest.raises(ValueError, match=r"a norm of 1, 2 or inf, but got .*; as text l1, l2 or linf"):
        PGD(norm=norm)


@pytest.mark.parametrize(
    "epsilon", ["8/255", np.float64(8 / 255), torch.tensor(8 / 255, dtype=torch.float64)]
)
def test_pgd_reads_epsilons_alike(epsilon: Any) -> None:
    assert PGD(epsilon=epsilon) == PGD(epsilon=8 / 255)


@pytest.mark.parametrize("loss", ["nosuch", None, nn.CrossEntropyLoss])
def test_pgd_refuses_what_is_no_loss(loss: Any) -> None:
    with pytest.raises(TypeError, match=r"loss as a function of \(logits, labels\)"):
        PGD(loss=loss)


@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(), lambda logits, labels: 3.0])
@pytest.mark.parametrize("mode", get_args(AttackMode))
def test_pgd_refuses_a_loss_of_one_number_for_the_batch(loss: Any, mode: AttackMode) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    with pytest.raises(ValueError, match=r"one value an example, \([12],\), but .* gives"):
        PGD(loss=loss, mode=mode)(model, torch.rand(2, 1, 2, 2), torch.tensor([0, 1]))


@pytest.mark.parametrize("epsilon", [8, 1.1, Linear(0.0, 8.0, 10)])
def test_pgd_warns_of_a_linf_budget_beyond_the_range_when_it_is_made(epsilon: Any) -> None:
    with pytest.warns(UserWarning, match=r"in linf lets an attack turn .* did you mean (8|1.1)/255\?"):
        PGD(epsilon=epsilon)
    PGD(epsilon=1.0)


@pytest.mark.parametrize(("norm", "largest"), [(1.0, 4.0), (2.0, 2.0)])
def test_pgd_warns_of_other_budgets_beyond_the_range_of_the_images(norm: float, largest: float) -> None:
    model, batch = (
        nn.Sequential(nn.Flatten(), nn.Linear(4, 3)),
        (torch.rand(2, 1, 2, 2), torch.tensor([0, 1])),
    )
    PGD(norm, largest, num_steps=1)(model, *batch)
    with pytest.warns(UserWarning, match=f"no two are farther apart than {largest:g}"):
        PGD(norm, largest + 0.1, num_steps=1)(model, *batch)
