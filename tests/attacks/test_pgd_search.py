from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

from withstand.attacks import PGD, AttackMode, cross_entropy
from withstand.core.contract import contract_of
from withstand.types import Batch

Curved = tuple[nn.Module, Batch]
BatchSizes = Callable[[nn.Linear], list[int]]
Slope = Callable[[Tensor], nn.Linear]
NORMS = (1.0, 2.0, math.inf)


def _logits(model: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model(images)
    return logits


def _fooled(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    return _logits(model, images).argmax(dim=1) != labels


def _run(attack: PGD, model: nn.Module, images: Tensor, labels: Tensor, *, seed: int = 0) -> Tensor:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return attack(model, images, labels)


def _no_better(model: nn.Module, worse: Tensor, better: Tensor, labels: Tensor) -> Tensor:
    """Where ``worse`` fools when ``better`` does, and between equals has at least its loss."""
    fooled, was_fooled = _fooled(model, worse, labels), _fooled(model, better, labels)
    loss = cross_entropy(_logits(model, worse), labels)
    return (fooled & ~was_fooled) | (
        (fooled == was_fooled) & (loss >= cross_entropy(_logits(model, better), labels))
    )


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("epsilon", [0.05, 0.3])
def test_pgd_best_iterate_is_never_better_than_the_last_or_the_image(
    p: float, epsilon: float, curved: Curved
) -> None:
    model, (images, labels) = curved
    labels[:10] = (labels[:10] + 1) % 3  # some are wrong from the start
    attack = PGD(norm=p, epsilon=epsilon, num_steps=4, step_size=epsilon)
    last = _run(attack, model, images, labels)
    best = _run(replace(attack, keep_best=True), model, images, labels)
    assert _no_better(model, best, last, labels).all()
    assert _no_better(model, best, images, labels).all()


def test_pgd_returns_the_best_iterate_where_the_last_overshoots() -> None:
    class Peak(nn.Module):
        @override
        def forward(self, images: Tensor) -> Tensor:
            score = 0.5 - (images[:, 0] - 0.6).abs()
            return torch.stack([torch.ones_like(score), score], dim=1)

    images, labels = torch.tensor([[0.5]]), torch.tensor([0])
    attack = PGD(epsilon=0.4, num_steps=1, step_size=0.3, random_start=False)
    assert attack(Peak(), images, labels).item() == pytest.approx(0.8)
    assert replace(attack, keep_best=True)(Peak(), images, labels).item() == 0.5
    finer = replace(attack, num_steps=2, step_size=0.12, keep_best=True)  # 0.5, 0.62, 0.5
    assert finer(Peak(), images, labels).item() == pytest.approx(0.62)


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("mode", ["training", "evaluation"])
def test_pgd_is_never_hurt_by_more_restarts(p: float, mode: AttackMode, curved: Curved) -> None:
    model, (images, labels) = curved
    attack = PGD(norm=p, epsilon=0.1 if math.isinf(p) else 0.3, num_steps=2, keep_best=True)
    attack = replace(attack, mode=mode)
    fooled = [
        _fooled(model, _run(replace(attack, num_restarts=n), model, images, labels), labels)
        for n in (1, 2, 5)
    ]
    assert (fooled[1] | ~fooled[0]).all()
    assert (fooled[2] | ~fooled[1]).all()
    assert not fooled[0].all()


def test_pgd_with_restarts_returns_the_worst_by_default(curved: Curved) -> None:
    model, (images, labels) = curved
    attack = PGD(epsilon=0.1, num_steps=2, num_restarts=3)
    several = _run(attack, model, images, labels)
    assert torch.equal(several, _run(replace(attack, keep_best=True), model, images, labels))
    one = _run(replace(attack, num_restarts=1, keep_best=True), model, images, labels)
    assert _no_better(model, several, one, labels).all()
    assert not torch.equal(several, one)


@pytest.mark.parametrize("p", NORMS)
def test_pgd_that_stops_when_fooled_fools_the_same(p: float, curved: Curved) -> None:
    model, (images, labels) = curved
    attack = PGD(norm=p, epsilon=0.15 if math.isinf(p) else 0.4, num_steps=8, keep_best=True)
    for random_start in (False, True):
        attack = replace(attack, random_start=random_start)
        fooled = _fooled(model, _run(attack, model, images, labels), labels)
        stopping = replace(attack, mode="evaluation")
        stopped = _fooled(model, _run(stopping, model, images, labels), labels)
        last = _fooled(model, _run(replace(attack, keep_best=False), model, images, labels), labels)
        assert torch.equal(stopped, fooled)
        assert (stopped | ~last).all()
        assert 0 < int(stopped.sum()) < len(labels)


# What it costs


@pytest.mark.parametrize("num_steps", [1, 4])
@pytest.mark.parametrize("random_start", [False, True])
def test_pgd_makes_this_number_of_forward_passes(
    num_steps: int, random_start: bool, slope: Slope, batch_sizes: BatchSizes
) -> None:
    images, labels = torch.full((3, 2), 0.5), torch.zeros(3, dtype=torch.int64)
    attack = PGD(epsilon=0.01, num_steps=num_steps, random_start=random_start)
    for setting, expected in (
        (attack, num_steps),
        (replace(attack, keep_best=True), num_steps + 2),
        (replace(attack, num_restarts=3), 1 + 3 * (num_steps + 1)),
        (attack.at(0.0), 0),
    ):
        model = slope(-torch.ones(2))  # far from fooled
        sizes = batch_sizes(model)
        setting(model, images, labels)
        assert sizes == [3] * expected


def _threshold(slope: Slope) -> nn.Linear:
    """Fooled by what is brighter than a half."""
    model = slope(torch.ones(1))
    model.bias = nn.Parameter(torch.tensor([0.5, 0.0]))
    return model


def test_pgd_takes_out_of_the_batch_what_is_fooled(slope: Slope, batch_sizes: BatchSizes) -> None:
    model = _threshold(slope)
    sizes = batch_sizes(model)
    # Each is a step further away than the former; the first is wrong already.
    images = torch.tensor([[0.55], [0.45], [0.35], [0.25]])
    attack = PGD(epsilon=0.4, num_steps=6, step_size=0.1, random_start=False, num_restarts=2)
    result = attack.for_evaluation()(model, images, torch.zeros(4, dtype=torch.int64))
    assert sizes == [4, 3, 3, 2, 1]
    torch.testing.assert_close(result, torch.full((4, 1), 0.55))


def test_pgd_restarts_only_what_is_robust(slope: Slope, batch_sizes: BatchSizes) -> None:
    model = _threshold(slope)
    sizes = batch_sizes(model)
    images = torch.tensor([[0.45], [0.1], [0.6]])  # broken at once, never, wrong already
    attack = PGD(epsilon=0.2, num_steps=2, random_start=False, num_restarts=2).for_evaluation()
    attack(model, images, torch.zeros(3, dtype=torch.int64))
    assert sizes == [3, 2, 2, 1, 1, 1, 1]


@pytest.mark.parametrize("p", NORMS)
def test_pgd_start_does_not_depend_on_which_others_were_broken(p: float, curved: Curved) -> None:
    """So from the same seed, stopping fools at least those that the last iterate does."""
    model, (images, _) = curved
    labels = _logits(model, images).argmax(dim=1)
    labels[::3] = (labels[::3] + 1) % 2  # a third is wrong already and leaves the batch at once
    seen: list[Tensor] = []
    contract_of(model, images)
    hook = model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach().clone()))
    attack = PGD(norm=p, epsilon=0.2, num_steps=1)
    _run(attack, model, images, labels)
    start = seen[0]
    seen.clear()
    _run(replace(attack, mode="evaluation"), model, images, labels)
    hook.remove()
    robust = torch.ones(len(labels), dtype=torch.bool)
    robust[::3] = False
    assert torch.equal(seen[0], images)
    assert torch.equal(seen[1], start[robust])
