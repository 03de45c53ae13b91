"""Adversarial weight perturbation against a textbook version, and what stays as it was around it."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from withstand.attacks import PGD
from withstand.constraints.parametrize import orthogonal_
from withstand.core.batch_shares import Share, taking
from withstand.core.schedules import Stages
from withstand.objectives import (
    TRADES,
    Adversarial,
    Certified,
    CrossEntropy,
    NoisyCrossEntropy,
    Objective,
    Variational,
    WeightPerturbation,
)
from withstand.types import Batch, LossTerms, ModelError

ATTACK = PGD(epsilon=0.2, num_steps=2)
GAMMA = 0.05


def net(*extra: nn.Module) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(9, 12), *extra, nn.ReLU(), nn.Linear(12, 4))


@pytest.fixture
def batch() -> Batch:
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(20, 1, 3, 3, generator=generator)
    return Batch(images, torch.randint(0, 4, (20,), generator=generator))


def gradient(loss: Tensor, model: nn.Module) -> Tensor:
    parts = torch.autograd.grad(loss, [*model.parameters()], allow_unused=True, materialize_grads=True)
    return torch.cat([part.flatten() for part in parts])


def perturbed(model: nn.Module, loss: Tensor, gamma: float = GAMMA) -> nn.Module:
    """A copy of a model one step uphill, layer by layer, as the published code does it."""
    proxy = copy.deepcopy(model)
    slopes = torch.autograd.grad(loss, [*model.parameters()])
    with torch.no_grad():
        for weight, slope in zip(proxy.parameters(), slopes, strict=True):
            if weight.dim() > 1:
                weight.add_(gamma * weight.norm() * slope / slope.norm())
    return proxy


def test_adversarial_weight_perturbation_is_that_of_the_textbook(batch: Batch) -> None:
    model, twin = net(nn.BatchNorm1d(12)), net(nn.BatchNorm1d(12))
    torch.manual_seed(3)
    loss, terms = WeightPerturbation(Adversarial(ATTACK), GAMMA)(model, *batch)
    torch.manual_seed(3)
    moved = ATTACK(twin, *batch)  # at the weights as they are
    helper = copy.deepcopy(twin)
    proxy = perturbed(helper, F.cross_entropy(helper(moved), batch.labels))
    proxy.load_state_dict(dict(twin.named_buffers()), strict=False)  # the first pass moves no statistics
    expected = F.cross_entropy(proxy(moved), batch.labels)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient(loss, model), gradient(expected, proxy))
    torch.testing.assert_close(terms["adversarial"], expected.detach())
    for name, buffer in model.named_buffers():
        torch.testing.assert_close(buffer, proxy.get_buffer(name))
    for weight, before in zip(model.parameters(), twin.parameters(), strict=True):
        assert isinstance(weight, nn.Parameter)
        assert torch.equal(weight, before)


OBJECTIVES: dict[str, Callable[[], Objective]] = {
    "cross-entropy": CrossEntropy,
    "noisy": lambda: NoisyCrossEntropy(0.2),
    "adversarial": lambda: Adversarial(ATTACK),
    "trades": lambda: TRADES(ATTACK),
    "sum": lambda: NoisyCrossEntropy(0.2) + 0.5 * Adversarial(ATTACK),
    "several draws": lambda: Variational(20, num_samples=2, kl_weight=0.0, likelihood=Adversarial(ATTACK)),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_both_passes_draw_the_same_and_search_once(
    name: str, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At a perturbation of next to nothing the loss is that of the objective, with Dropout and noise."""
    searches: list[int] = []
    perturb = PGD.perturb

    def counted(attack: PGD, model: nn.Module, *batch: Tensor, progress: float) -> Tensor:
        searches.append(1)
        return perturb(attack, model, *batch, progress=progress)

    monkeypatch.setattr(PGD, "perturb", counted)
    losses, states, buffers = [], [], []
    for objective in (OBJECTIVES[name](), WeightPerturbation(OBJECTIVES[name](), 1e-9)):
        model = net(nn.Dropout(0.5), nn.BatchNorm1d(12))
        torch.manual_seed(0)
        losses.append(objective(model, *batch).loss)
        states.append(torch.get_rng_state())
        buffers.append(torch.cat([buffer.flatten().float() for buffer in model.buffers()]))
    torch.testing.assert_close(losses[0], losses[1])
    torch.testing.assert_close(*buffers)
    assert torch.equal(*states)
    if name in ("adversarial", "trades", "sum"):
        assert len(searches) == 2


def test_without_a_perturbation_it_is_the_objective_bit_for_bit(batch: Batch) -> None:
    late = WeightPerturbation(CrossEntropy(), Stages(values=[0.0, 0.1], epochs=[5, 5]))
    plain = CrossEntropy()(net(), *batch).loss
    assert torch.equal(late(net(), *batch, progress=4.9).loss, plain)
    assert late(net(), *batch, progress=5.0).loss > plain + 1e-3


@pytest.mark.parametrize("domain", ["box", "ball", "linear"])
def test_bounds_are_those_of_the_perturbed_weights(domain: str, batch: Batch) -> None:
    norm = 2.0 if domain == "ball" else math.inf

    def objective() -> Certified:
        made = Certified(norm, 0.05, domain=domain, kappa=0.5, num_power_iterations=50)  # type: ignore[arg-type]
        made(net(), *batch)
        return made

    model = net()
    both = WeightPerturbation(objective(), GAMMA)
    for _ in range(2):  # with a graph that is captured, and with one that is known
        loss = both(model, *batch).loss
    helper = net()
    proxy = perturbed(helper, objective()(helper, *batch).loss)
    expected = objective()(proxy, *batch).loss
    torch.testing.assert_close(loss, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(gradient(loss, model), gradient(expected, proxy), atol=1e-4, rtol=1e-3)


def test_terms_beside_it_keep_their_graph_and_logits(batch: Batch) -> None:
    model, twin = net(nn.BatchNorm1d(12)), net(nn.BatchNorm1d(12))
    beside = CrossEntropy() + WeightPerturbation(CrossEntropy(), GAMMA) + 0.5 * CrossEntropy()
    parts = (1.5 * CrossEntropy(), WeightPerturbation(CrossEntropy(), GAMMA))
    expected = torch.stack([part(twin, *batch).loss for part in parts]).sum()
    loss = beside(model, *batch).loss
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient(loss, model), gradient(expected, twin))


class Tied(nn.Module):
    """Two layers of one weight, and a recurrent one, which holds its weights in a list as well."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.recurrent = nn.GRU(3, 4, batch_first=True)

    @override
    def forward(self, images: Tensor) -> Tensor:
        rows = self.second(self.first(images.flatten(1, 2)).tanh())
        last: Tensor = self.recurrent(rows)[0][:, -1]
        return last


def test_weights_of_several_layers_and_of_recurrent_ones_move_everywhere(batch: Batch) -> None:
    torch.manual_seed(0)
    model = Tied()
    loss = WeightPerturbation(CrossEntropy(), GAMMA)(model, *batch).loss
    helper = copy.deepcopy(model)
    proxy = perturbed(helper, F.cross_entropy(helper(batch.images), batch.labels))
    expected = F.cross_entropy(proxy(batch.images), batch.labels)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient(loss, model), gradient(expected, proxy))
    held = zip(model.recurrent._flat_weights, model.recurrent.parameters(), strict=True)
    assert all(weight is own for weight, own in held)


def test_parameters_of_no_entries_stay_where_they_are(batch: Batch) -> None:
    model = nn.Sequential(nn.Conv2d(1, 1, 3, stride=2), nn.Flatten(), nn.Linear(1, 4))
    orthogonal_(model)
    assert not all(parameter.numel() for parameter in model.parameters())
    WeightPerturbation(CrossEntropy(), GAMMA)(model, *batch).loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters() if parameter.numel())


def test_a_model_has_its_weights_back_after_an_error(batch: Batch) -> None:
    class Failing(CrossEntropy):
        calls = 0

        @override
        def of_pass(self, *arguments: object, **options: object) -> LossTerms:
            self.calls += 1
            if self.calls == 2:
                raise RuntimeError("no more")
            return super().of_pass(*arguments, **options)  # type: ignore[arg-type]

    model = net(nn.BatchNorm1d(12))
    before = [*model.parameters(), *model.buffers()]
    with pytest.raises(RuntimeError, match="no more"):
        WeightPerturbation(Failing(), GAMMA)(model, *batch)
    assert all(
        one is other for one, other in zip(before, [*model.parameters(), *model.buffers()], strict=True)
    )


def test_what_it_cannot_do_is_said(batch: Batch, caplog: pytest.LogCaptureFixture) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(9, 4).requires_grad_(False), nn.BatchNorm1d(4))
    with pytest.raises(ModelError, match="trains no weight of two or more dimensions"):
        WeightPerturbation(CrossEntropy())(model, *batch)
    with pytest.raises(TypeError, match="what is perturbed to be an objective"):
        WeightPerturbation(CrossEntropy)  # type: ignore[arg-type]
    objective = WeightPerturbation(CrossEntropy())
    with caplog.at_level(logging.WARNING):
        for share in (None, Share(0, 20, 40), Share(20, 40, 40)):
            with taking(share):
                objective(net(), *batch)
    assert caplog.text.count("each of which moves the weights by its own gradient") == 1
