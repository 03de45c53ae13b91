from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from withstand.attacks import Noise, cross_entropy
from withstand.core.contract import contract_of

NORMS = (1.0, 2.0, math.inf)


def _linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(6, 3)


@pytest.mark.parametrize("p", NORMS)
def test_noise_attack_of_many_draws_is_no_better_than_the_image_or_any_fewer(p: float) -> None:
    model, images = _linear(), torch.rand(40, 6)
    labels = model(images).argmax(dim=1)
    losses, fooled = [cross_entropy(model(images), labels).detach()], [torch.zeros(40, dtype=torch.bool)]
    for num_samples in (2, 20):
        torch.manual_seed(1)
        result = model(Noise(p, 0.5, num_samples)(model, images, labels)).detach()
        losses.append(cross_entropy(result, labels))
        fooled.append(result.argmax(dim=1) != labels)
    for earlier, later, was, now in zip(losses, losses[1:], fooled, fooled[1:], strict=False):
        assert (now | ~was).all()
        assert ((later >= earlier) | (now & ~was)).all()
    assert (losses[2] > losses[1]).any()


def test_noise_attack_of_a_single_draw_is_that_draw() -> None:
    torch.manual_seed(0)
    images = torch.full((2000, 1), 0.5)
    result = Noise(math.inf, 0.25)(nn.Identity(), images, torch.zeros(2000, dtype=torch.int64))
    share_above = float((result > 0.5).float().mean())
    assert share_above == pytest.approx(0.5, abs=0.05)
    assert result.std().item() == pytest.approx(0.5 / math.sqrt(12), rel=0.05)


def test_noise_attack_of_a_single_draw_asks_the_model_nothing() -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("asked")

    model, images = nn.Identity(), torch.rand(2, 3)
    contract_of(model, images)  # but once, what it gives
    model.register_forward_pre_hook(refuse)
    Noise()(model, images, torch.tensor([0, 1]))


def test_noise_attack_refuses_too_few_draws() -> None:
    with pytest.raises(ValueError, match="Expected num_samples of at least 1, but got 0"):
        Noise(num_samples=0)


def test_noise_attack_describes_itself() -> None:
    noise = Noise(2.0, 0.5, 7)
    assert noise.name == "noise-7-l2"
    assert noise.describe() == "Uniform noise in the l2 ball, worst of 7"
    assert noise.for_evaluation() == replace(noise, mode="evaluation")
    assert noise.for_evaluation().describe() == noise.describe()
    by_loss = noise.for_random_answers()
    assert by_loss.describe() == "Uniform noise in the l2 ball, worst of 7 by loss"
    assert Noise().for_random_answers().describe() == Noise().describe()  # there is nothing to rank
    assert by_loss.for_evaluation() == noise.for_evaluation()


class Flickering(nn.Module):
    """Looked at once; then wrong, but hardly; then correct, but less sure of it than of what is wrong."""

    gives_log_probabilities = True

    def __init__(self) -> None:
        super().__init__()
        self._answers = iter([[0.5, 0.25, 0.25], [0.45, 0.54, 0.01], [0.4, 0.3, 0.3], [0.9, 0.05, 0.05]])

    def forward(self, images: Tensor) -> Tensor:
        return torch.tensor(next(self._answers)).log().expand(len(images), 3)


def test_noise_attack_of_random_answers_does_not_decide_by_a_single_one() -> None:
    images, labels = torch.full((50, 1), 0.5), torch.zeros(50, dtype=torch.int64)
    torch.manual_seed(0)
    noise = Noise(epsilon=0.1, num_samples=2)
    assert torch.equal(noise.for_evaluation()(Flickering(), images, labels), images)
    assert (noise.for_random_answers()(Flickering(), images, labels) != images).any(dim=1).all()
