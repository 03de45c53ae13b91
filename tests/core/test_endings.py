"""Models that end in probabilities are refused by every entry point; logits that look like some are not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

import withstand as ws
from withstand.core.contract import adapted
from withstand.types import ModelError

IMAGES, LABELS = torch.rand(4, 1, 4, 4, generator=torch.Generator().manual_seed(1)), torch.arange(4) % 2


class Ending(nn.Module):
    """A linear net, its logits changed by a function."""

    def __init__(self, classes: int, end: Callable[[Tensor], Tensor], seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.linear, self.end = nn.Linear(16, classes), end

    @override
    def forward(self, images: Tensor) -> Tensor:
        return self.end(self.linear(images.flatten(1)))


ENTRIES: dict[str, Callable[[nn.Module], object]] = {
    "attack": lambda model: ws.attacks.PGD(epsilon=0.1, num_steps=1)(model, IMAGES, LABELS),
    "objective": lambda model: ws.objectives.CrossEntropy()(model, IMAGES, LABELS),
    "certify": lambda model: ws.certify(model, IMAGES, LABELS, norm=2, epsilon=0.1),
}
SIGMOIDS: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "squeezed": lambda z: z.sigmoid().squeeze(1),
    "clamped": lambda z: z.sigmoid().clamp(1e-6, 1 - 1e-6),
    "scaled": lambda z: z.sigmoid() * 0.5,
    "half": lambda z: z.sigmoid().half(),
    "by-exp": lambda z: 1 / (1 + (-z).exp()),
    "by-tanh": lambda z: (z.tanh() + 1) / 2,
    "by-softmax": lambda z: F.pad(z, (1, 0)).softmax(1)[:, 1:],
    "hard": F.hardsigmoid,
    "clamp": lambda z: z.clamp(0, 1),
    "hardtanh": lambda z: F.hardtanh(z, 0.0, 1.0),
    "log": F.logsigmoid,
    "log-of": lambda z: z.sigmoid().log(),
}
SOFTMAXES: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda z: z.softmax(1),
    "log": lambda z: z.log_softmax(1),
    "log-of": lambda z: z.softmax(1).log(),
    "sharp": lambda z: (100 * z).softmax(1),
    "of-constants": lambda z: (0 * z).softmax(1),
    "by-exp": lambda z: z.exp() / z.exp().sum(1, keepdim=True),
    "by-norm": lambda z: F.normalize(z.relu() + 0.1, p=1.0),
    "some-of-it": lambda z: z.softmax(1)[:, :2],
}
LOGITS: dict[str, Callable[[Tensor], Tensor]] = {
    "zero": lambda z: 0 * z,
    "constant": lambda z: 0 * z + 0.3,
    "tanh": torch.tanh,
    "both-signs": lambda z: 2 * z.sigmoid() - 1,
    "wide-clamp": lambda z: z.clamp(-50, 50),
    "gated": lambda z: z * z.sigmoid(),
    "attention": lambda z: 5 * z.softmax(-1) - 1,
    "one-hot": lambda z: F.one_hot(z.argmax(1), max(2, z.shape[1])).to(z),
    "masked": lambda z: torch.cat([z, torch.full_like(z[:, :1], -torch.inf)], 1),
}


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("end", SIGMOIDS)
def test_one_probability_an_image_is_refused(end: str, entry: str) -> None:
    with pytest.raises(ModelError, match=r"ends in (a sigmoid|softmax or log-softmax); remove it"):
        ENTRIES[entry](Ending(1, SIGMOIDS[end]))


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("end", SOFTMAXES)
def test_a_distribution_an_image_is_refused(end: str, entry: str) -> None:
    with pytest.raises(ModelError, match="ends in softmax or log-softmax; remove it"):
        ENTRIES[entry](Ending(3, SOFTMAXES[end]))


@pytest.mark.parametrize("end", ["sigmoid", "clamped", "hard", "log"])
def test_a_sigmoid_of_several_outputs_is_refused(end: str) -> None:
    with pytest.raises(ModelError, match="ends in a sigmoid; remove it"):
        adapted(Ending(3, SIGMOIDS[end]), IMAGES)


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("end", LOGITS)
def test_logits_that_may_be_probabilities_by_chance_are_taken(end: str, classes: int) -> None:
    for seed in range(8):
        adapted(Ending(classes, LOGITS[end], seed), IMAGES)


def test_a_sigmoid_of_a_model_without_gradients_or_far_images_is_refused_or_taken_without_other_errors() -> (
    None
):
    def strict(images: Tensor) -> Tensor:
        assert images.min() >= 0
        return images

    model = nn.Sequential(nn.Flatten(), Ending(1, torch.sigmoid))
    model.register_forward_pre_hook(lambda _, given: strict(given[0]))
    with pytest.raises(ModelError, match="ends in a sigmoid"):
        adapted(model, IMAGES)
    adapted(Ending(1, lambda z: torch.from_numpy(z.detach().numpy().clip(0.1, 0.9))), IMAGES)


def test_the_logarithm_of_a_mean_probability_over_draws_of_weights_is_attacked() -> None:
    model = ws.bayes.convert(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)))
    moved = ws.attacks.PGD(epsilon=0.1, num_steps=1)(ws.bayes.Predictor(model, 4), IMAGES, LABELS)
    assert float((moved - IMAGES).abs().max()) > 0
