"""Images that fool another model."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from withstand.attacks import PGD, Transfer
from withstand.types import AttackError


def test_transfer_takes_what_fools_the_surrogate_where_it_fools_the_model(
    slope: Callable[[Tensor], nn.Linear],
) -> None:
    surrogate, model = slope(torch.tensor([1.0, 1.0])), slope(torch.tensor([1.0, -1.5]))
    model.bias = nn.Parameter(torch.tensor([0.4, 0.0]))  # class 1 where x_0 - 1.5 x_1 > 0.4
    images, labels = torch.tensor([[0.7, 0.1], [0.1, 0.2]]), torch.tensor([1, 0])
    attack = Transfer(surrogate, PGD(epsilon=0.2, num_steps=3, random_start=False)).for_evaluation()
    result = attack(model, images, labels)
    # Downhill on the surrogate, (0.5, 0) is still class 1 of the model; uphill, (0.3, 0.4) still class 0.
    assert torch.equal(result, images)
    model.bias = nn.Parameter(torch.tensor([0.51, 0.0]))
    result = attack(model, images, labels)
    torch.testing.assert_close(result, torch.tensor([[0.5, 0.0], [0.1, 0.2]]))


def test_transfer_attacks_the_surrogate_beyond_its_own_boundary() -> None:
    torch.manual_seed(0)
    surrogate = nn.Sequential(nn.Flatten(), nn.Linear(9, 3))
    images = torch.rand(8, 1, 3, 3)
    labels = surrogate(images).argmax(dim=1)
    pgd = PGD(epsilon=0.3, num_steps=10, random_start=False)
    evaluated = Transfer(surrogate, pgd).for_evaluation()
    assert evaluated.mode == "evaluation"
    assert "largest loss" in evaluated.describe()
    result = evaluated(surrogate, images, labels)
    fooled = surrogate(result).argmax(dim=1) != labels
    assert fooled.any()
    assert torch.equal(result[fooled], pgd.for_random_answers()(surrogate, images, labels)[fooled])


def test_transfer_of_random_answers_takes_the_larger_loss() -> None:
    torch.manual_seed(0)
    surrogate = nn.Sequential(nn.Flatten(), nn.Linear(9, 3))
    images = torch.rand(8, 1, 3, 3)
    labels = surrogate(images).argmax(dim=1)
    attack = Transfer(surrogate, PGD(epsilon=0.01, num_steps=3)).for_random_answers()
    with torch.no_grad():
        before, after = (
            nn.functional.cross_entropy(surrogate(x), labels, reduction="none")
            for x in (images, attack(surrogate, images, labels))
        )
    assert (after > before).all()  # though nothing fooled it


def test_transfer_takes_a_surrogate_in_another_precision() -> None:
    torch.manual_seed(0)
    surrogate = nn.Sequential(nn.Flatten(), nn.Linear(9, 3))
    model = nn.Sequential(nn.Flatten(), nn.Linear(9, 3)).double()
    images, labels = torch.rand(4, 1, 3, 3, dtype=torch.float64), torch.tensor([0, 1, 2, 0])
    result = Transfer(surrogate, PGD(epsilon=0.2, num_steps=2))(model, images, labels)
    assert result.dtype == torch.float64
    assert (result - images).abs().max() <= 0.2 * (1 + 1e-5)
    assert surrogate.training


@pytest.mark.parametrize("surrogate", [nn.Linear(7, 3), nn.Linear(4, 2)])
def test_transfer_names_a_surrogate_that_does_not_fit(surrogate: nn.Module) -> None:
    attack = Transfer(surrogate, PGD(epsilon=0.1, num_steps=1), "runs/plain")
    with pytest.raises(AttackError, match=r"attack on runs/plain.*same images and has the same classes"):
        attack(nn.Linear(4, 3), torch.rand(3, 4), torch.tensor([0, 1, 2]))


def test_transfer_describes_itself() -> None:
    attack = Transfer(nn.Linear(4, 3), PGD(2.0, num_steps=4), "runs/Plain_1")
    assert attack.name == "transfer-runs-plain-1-l2"
    assert attack.describe().startswith("Transfer from runs/Plain_1, l2: PGD, l2, 4 steps")
    assert attack.kind == "transfer"
    with pytest.raises(ValueError, match="a source with a letter or digit"):
        Transfer(nn.Linear(4, 3), PGD(), "…")
