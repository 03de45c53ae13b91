from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from withstand.core.contract import contract_of
from withstand.core.noise import GaussianNoise
from withstand.core.schedules import Linear, Stages
from withstand.objectives import CrossEntropy, GaussianExpectation, NoisyCrossEntropy
from withstand.penalties import LossGradient
from withstand.types import Batch, DataError, ModelError

STD = 0.2


def _net() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(64, 3),
        )


class Probe:
    """Notes what a model is called with, after the one look at two images."""

    def __init__(self, model: nn.Module) -> None:
        contract_of(model, torch.zeros(2, 2, 4, 4))
        self.seen: list[Tensor] = []
        model.register_forward_pre_hook(lambda _, arguments: self.seen.append(arguments[0].detach()))


@pytest.fixture
def batch() -> Batch:
    generator = torch.Generator().manual_seed(1)
    return Batch(torch.rand(10, 2, 4, 4, generator=generator), torch.arange(10) % 3)


def test_noisy_cross_entropy_without_copies_is_cross_entropy(batch: Batch) -> None:
    model, twin = _net(), _net()
    before = torch.get_rng_state()
    ours, theirs = NoisyCrossEntropy(STD, 0)(model, *batch), CrossEntropy()(twin, *batch)
    assert torch.equal(torch.get_rng_state(), before)
    torch.testing.assert_close(ours.loss, theirs.loss)
    assert set(ours.terms) == {"cross_entropy", "accuracy"}
    torch.testing.assert_close(ours.terms["accuracy"], theirs.terms["accuracy"])
    for name, value in model.state_dict().items():
        assert torch.equal(value, twin.state_dict()[name]), name


@pytest.mark.parametrize("num_copies", [1, 3])
@pytest.mark.parametrize("keeps_clean", [True, False])
@pytest.mark.parametrize("blur", [0.0, 1.0])
def test_noisy_cross_entropy_is_the_mean_of_all_copies_in_one_pass(
    num_copies: int, keeps_clean: bool, blur: float, batch: Batch
) -> None:
    model, twin, (images, labels) = _net(), _net(), batch
    probe = Probe(model)
    torch.manual_seed(2)
    loss, terms = NoisyCrossEntropy(STD, num_copies, keeps_clean=keeps_clean, blur=blur)(model, *batch)
    torch.manual_seed(2)
    noise = GaussianNoise(STD, blur).draw(images.repeat(num_copies, 1, 1, 1))
    noisy = images.repeat(num_copies, 1, 1, 1) + noise
    given = torch.cat([images, noisy]) if keeps_clean else noisy
    (seen,) = probe.seen  # one pass of (copies + clean) * batch images, so that BatchNorm sees all of them
    assert len(seen) == (num_copies + keeps_clean) * len(images)
    assert torch.equal(seen, given)
    logits, copies = twin(given), num_copies + keeps_clean
    expected = F.cross_entropy(logits, labels.repeat(copies))
    torch.testing.assert_close(loss, expected)
    for ours, theirs in zip(
        torch.autograd.grad(loss, list(model.parameters())),
        torch.autograd.grad(expected, list(twin.parameters())),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-4)
    parts = [F.cross_entropy(part, labels) for part in logits.detach().chunk(copies)]
    accuracies = [(part.argmax(1) == labels).float().mean() for part in logits.detach().chunk(copies)]
    assert set(terms) == {"noisy", "noisy_accuracy"} | (
        {"cross_entropy", "accuracy"} if keeps_clean else set()
    )
    torch.testing.assert_close(terms["noisy"], torch.stack(parts[keeps_clean:]).mean())
    torch.testing.assert_close(terms["noisy_accuracy"], torch.stack(accuracies[keeps_clean:]).mean())
    if keeps_clean:
        torch.testing.assert_close(terms["cross_entropy"], parts[0])
        torch.testing.assert_close(terms["accuracy"], accuracies[0])
    assert all(value.shape == () and not value.requires_grad for value in terms.values())
    assert int(model.state_dict()["1.num_batches_tracked"]) == 1


def test_noisy_cross_entropy_draws_noise_for_every_image_copy_and_step(batch: Batch) -> None:
    model, same = _net(), batch.images[:1].expand(4, -1, -1, -1)
    probe, objective = Probe(model), NoisyCrossEntropy(STD, 2, keeps_clean=False)
    state = torch.get_rng_state()
    for _ in range(2):
        objective(model, same, batch.labels[:4])
    first, second = probe.seen
    everything = torch.cat([first, second]).flatten(1)
    assert len(everything) == 16
    for index, noisy in enumerate(everything):
        assert not torch.isclose(noisy, everything[index + 1 :]).all(1).any()
    torch.set_rng_state(state)  # what a checkpoint brings back
    objective(model, same, batch.labels[:4])
    assert torch.equal(probe.seen[2], first)


def test_noisy_cross_entropy_does_not_clip_its_noise_which_follows_its_schedule(batch: Batch) -> None:
    model, images = _net(), torch.ones(200, 2, 4, 4)
    labels = torch.zeros(200, dtype=torch.int64)
    probe = Probe(model)
    objective = NoisyCrossEntropy(Linear(0.0, 0.4, epochs=4), keeps_clean=False)
    for progress in (0.0, 2.0, 4.0, math.inf):
        objective(model, images, labels, progress=progress)
    stds = [float((seen - 1).std()) for seen in probe.seen]
    assert stds == pytest.approx([0.0, 0.2, 0.4, 0.4], rel=0.05)
    assert abs(float(probe.seen[-1].mean()) - 1) < 0.05


def test_noisy_cross_entropy_takes_a_std_for_each_channel(batch: Batch) -> None:
    model, images = _net(), torch.zeros(300, 2, 4, 4)
    probe = Probe(model)
    NoisyCrossEntropy([0.1, 0.5], keeps_clean=False)(model, images, torch.zeros(300, dtype=torch.int64))
    stds = probe.seen[0].transpose(0, 1).flatten(1).std(1)
    torch.testing.assert_close(stds, torch.tensor([0.1, 0.5]), rtol=0.05, atol=0)
    with pytest.raises(ValueError, match="one value for each of 3 channels"):
        NoisyCrossEntropy([0.1, 0.2, 0.3])(model, *batch)


def test_noisy_cross_entropy_training_lowers_the_loss_and_leaves_all_else_as_it_was(batch: Batch) -> None:
    torch.manual_seed(0)
    model, images = _net().train(), batch.images.clone()
    model[1].eval()
    objective = NoisyCrossEntropy(STD, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = objective(model, images, batch.labels).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.85 * sum(losses[:5])
    assert [module.training for module in model] == [True, False, True, True, True]
    assert images.grad is None
    assert torch.equal(images, batch.images)
    assert not objective.state_dict()


def test_noisy_cross_entropy_adds_up(batch: Batch) -> None:
    model = _net().eval()
    torch.manual_seed(1)
    whole = (NoisyCrossEntropy(STD) + 0.1 * LossGradient(2))(model, *batch)
    torch.manual_seed(1)
    parts = NoisyCrossEntropy(STD)(model, *batch), LossGradient(2)(model, *batch)
    torch.testing.assert_close(whole.loss, parts[0].loss + 0.1 * parts[1].loss)
    half = (Stages([0.0, 0.5], [1, 1]) * NoisyCrossEntropy(STD))(model, *batch, progress=0)
    assert half.loss.item() == 0.0
    assert not half.terms


def test_noisy_cross_entropy_shows_its_settings() -> None:
    settings = [
        NoisyCrossEntropy(0.1),
        NoisyCrossEntropy(0.2),
        NoisyCrossEntropy(Linear(0.0, 0.2, epochs=3)),
        NoisyCrossEntropy([0.1, 0.2]),
        NoisyCrossEntropy(0.1, 2),
        NoisyCrossEntropy(0.1, keeps_clean=False),
        NoisyCrossEntropy(0.1, blur=1.0),
        GaussianExpectation(0.1),
    ]
    assert len({str(objective) for objective in settings}) == len(settings)


def test_noisy_cross_entropy_checks_each_batch(batch: Batch) -> None:
    objective = NoisyCrossEntropy(STD)
    for _ in range(2):
        with pytest.raises(DataError, match=r"Expected images in \[0, 1\]"):
            objective(_net(), batch.images * 255, batch.labels)
    with pytest.raises(DataError, match="one int64 label an image"):
        objective(_net(), batch.images, batch.labels[:-1])
    objective(_net(), *batch)
    with pytest.raises(DataError, match=r"Expected images in \[0, 1\]"):
        objective(_net(), batch.images * 255, batch.labels)
    with pytest.raises(DataError, match="labels of at least 0, but got -1"):
        objective(_net(), batch.images, torch.full_like(batch.labels, -1))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"noise_std": -0.1}, "noise_std of at least 0"),
        ({"noise_std": math.nan}, "noise_std of at least 0"),
        ({"noise_std": Linear(0.1, -0.1, epochs=2)}, "noise_std of at least 0"),
        ({"noise_std": 0.1, "blur": -1.0}, "blur of at least 0"),
        ({"noise_std": 0.1, "num_copies": -1}, "num_copies of at least 0, but got -1"),
        ({"noise_std": 0.1, "num_copies": 0, "keeps_clean": False}, "num_copies=0 and keeps_clean=False"),
    ],
)
def test_noisy_cross_entropy_refuses_wrong_settings(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NoisyCrossEntropy(**settings)  # type: ignore[arg-type]


def test_noisy_cross_entropy_needs_logits(batch: Batch) -> None:
    with pytest.raises(ModelError, match="must give logits"):
        NoisyCrossEntropy(STD)(_net()[:3], *batch)
