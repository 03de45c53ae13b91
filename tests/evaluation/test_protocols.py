"""The published protocols: as published, outside [0, 1], and comparable with nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from withstand import bayes
from withstand.core.dataset_info import DatasetInfo
from withstand.data import Dataset, Split
from withstand.evaluation import Predictor, evaluate, random_predictor
from withstand.evaluation.meters import SebrProtocol
from withstand.reporting.table import rows, select
from withstand.results.measurements import protocol_measure
from withstand.types import Batch

if TYPE_CHECKING:
    from tests.evaluation.conftest import Gather

pytestmark = pytest.mark.filterwarnings("ignore:The protocol sebr is for networks with random weights")


class Recorder(nn.Module):
    """Two logits, the images' sum and its negative; keeps every image that it is asked of."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(scale))
        self.seen: list[Tensor] = []

    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(images.detach())
        total = self.weight * images.flatten(1).sum(dim=1)
        return torch.stack([total, -total], dim=1)


def split(images: Tensor, labels: list[int]) -> Split:
    return Split(images, torch.tensor(labels))


def black(number: int = 4) -> Split:
    """Black images of the first class, which a step against the gradient turns darker than black."""
    return split(torch.full((number, 1, 2, 3), 51, dtype=torch.uint8), [0] * number)


def random_split(number: int, seed: int = 0) -> Split:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (number, 1, 3, 3), dtype=torch.uint8, generator=generator)
    return Split(images, torch.randint(0, 4, (number,), generator=generator))


Accuracies: TypeAlias = Callable[..., dict[tuple[str, float], float]]


@pytest.fixture
def accuracies(gather: Gather) -> Accuracies:
    """By attack and epsilon; clean at 0."""

    def measure(
        protocol: SebrProtocol, model: nn.Module, test: Split, seed: int = 0
    ) -> dict[tuple[str, float], float]:
        predictor = Predictor.of(model)
        if bayes.is_stochastic(model):
            predictor = random_predictor(model, num_samples=2, num_repeats=2, attack_samples=2)
        result = protocol.score(predictor, Batch(test.images / 255, test.labels), test.labels, seed=seed)
        assert not result.columns
        table, _ = protocol.summary(
            gather(pd.DataFrame({"label": test.labels}), predictor, counts=result.counts)
        )
        return {(row.by, row.level): row.value for row in table}

    return measure


def test_sebr_fgsm_moves_each_pixel_by_epsilon_and_leaves_the_unit_range(accuracies: Accuracies) -> None:
    model = Recorder()
    measured = accuracies(SebrProtocol(fgsm=(0.1, 0.3), pgd=()), model, black())
    assert measured == {("clean", 0.0): 1.0, ("fgsm", 0.1): 1.0, ("fgsm", 0.3): 0.0}
    assert min(float(images.min()) for images in model.seen) == pytest.approx(0.2 - 0.3)  # not cut to 0


def test_sebr_pgd_starts_at_random_and_each_step_ends_in_a_corner(
    accuracies: Accuracies,
) -> None:
    model = Recorder()
    measured = accuracies(SebrProtocol(fgsm=(), pgd=(0.25,), num_steps=3), model, black())
    clean, start, *corners = model.seen
    assert torch.equal(clean, torch.full_like(clean, 0.2))
    assert 0 < float((start - 0.2).abs().max()) <= 0.25 + 1e-6
    assert len(set((start - 0.2).flatten().tolist())) > 6
    assert len(corners) == 3  # two more gradients and the prediction
    for images in corners:
        assert torch.allclose(images, torch.full_like(images, 0.2 - 0.25))
    assert measured["pgd", 0.25] == 0.0


def test_sebr_attacks_do_not_move_where_the_gradient_is_0(accuracies: Accuracies) -> None:
    model = Recorder(scale=1e4)  # so sure that its cross-entropy is flat in float32
    measured = accuracies(SebrProtocol(fgsm=(0.3,), pgd=(0.3,)), model, black())
    assert measured["fgsm", 0.3] == 1.0
    assert torch.equal(model.seen[2], model.seen[0])


def test_sebr_attacks_the_mean_weights_and_scores_draws(accuracies: Accuracies) -> None:
    torch.manual_seed(0)
    start = nn.Sequential(nn.Flatten(), nn.Linear(9, 4))
    model = bayes.convert(start, posterior=bayes.Posterior(initial_std=1e-6))
    test, protocol = random_split(40), SebrProtocol(fgsm=(0.05, 0.2), pgd=())
    # With no spread to speak of both are one network.
    assert accuracies(protocol, model, test) == accuracies(protocol, bayes.mean_network(model), test)


@pytest.mark.filterwarnings("error")
def test_sebr_says_that_figures_of_weights_that_are_not_random_compare_with_none(
    accuracies: Accuracies,
) -> None:
    protocol, test = SebrProtocol(fgsm=(0.05,), pgd=()), random_split(4)
    plain = nn.Sequential(nn.Flatten(), nn.Linear(9, 4))
    with pytest.warns(UserWarning, match="for networks with random weights, which this one has not"):
        accuracies(protocol, plain, test)
    accuracies(protocol, bayes.convert(plain), test)


def test_sebr_scores_by_draws_where_the_weights_spread(accuracies: Accuracies) -> None:
    torch.manual_seed(1)
    plain = nn.Sequential(nn.Flatten(), nn.Linear(9, 4))
    model = bayes.convert(plain, posterior=bayes.Posterior(initial_std=3.0))
    first, again, other = (
        accuracies(SebrProtocol(pgd=()), model, random_split(200), seed=seed) for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other


def test_sebr_rows_are_whole_and_random_state_and_modes_are_left_alone() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.9), nn.Linear(9, 4))
    torch.manual_seed(3)
    before, test = torch.get_rng_state(), random_split(7)
    dataset = Dataset(DatasetInfo("noise", (1, 3, 3), list("abcd"), [0.5], [0.5]), test, test, test)
    evaluation = evaluate(model, dataset, [SebrProtocol()], batch_size=3)
    assert torch.equal(torch.get_rng_state(), before)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    (protocol,) = evaluation.results.protocols
    assert (protocol.name, list(protocol.attacks)) == ("sebr", ["fgsm", "pgd"])
    assert protocol.description == SebrProtocol().describe()
    clean, *attacked = rows(select(evaluation.table, protocol_measure("sebr")))
    assert (clean.by, clean.norm, clean.total) == ("clean", "", 7)
    assert [(row.by, row.norm, row.level) for row in attacked] == [
        *(("fgsm", "inf", epsilon) for epsilon in (0.04, 0.16, 0.3)),
        *(("pgd", "inf", epsilon) for epsilon in (0.04, 0.16, 0.22)),
    ]
    assert all(None not in (row.lower, row.upper, row.correct) and row.total == 7 for row in attacked)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fgsm": [0.0]}, "every one of fgsm"),
        ({"pgd": [0.1, float("inf")]}, "every one of pgd"),
        ({"pgd": [0.1, 0.1]}, "given twice"),
        ({"fgsm": [], "pgd": []}, "none of either"),
        ({"num_samples": 0}, "num_samples"),
        ({"num_steps": 0}, "num_steps"),
        ({"step_size": 0.0}, "step_size"),
    ],
)
def test_sebr_refuses_settings_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SebrProtocol(**settings)
