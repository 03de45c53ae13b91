"""Steps of training on a device: every objective, penalty, random layer and constraint."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from itertools import product
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from tests.bayes.test_bayes_layers import ESTIMATORS, LINEAR, NORMS
from tests.bayes.test_bayes_whole_layers import LAYERS, Runs
from tests.devices.pretended import Device
from tests.objectives import test_in_loops as loops
from tests.objectives.test_certified import EVERY
from tests.objectives.test_gaussian_expectation import WAYS
from tests.penalties import test_penalty_contract as contract
from withstand import bayes, constraints
from withstand.constraints import SpectralBall
from withstand.core.schedules import Linear
from withstand.objectives import Certified, GaussianExpectation, Objective, Variational
from withstand.penalties import SpectralExpectation
from withstand.types import Batch


class Case(NamedTuple):
    """What is trained, on what; made anew each time."""

    objective: Callable[[], Objective]
    model: Callable[[], nn.Module]
    batch: Callable[[], Batch] = loops.batch


def _of_loops(name: str) -> Case:
    has_batch_norm = name not in loops.RANDOM
    return Case(loops.ALL[name], lambda: loops.net(name, has_batch_norm=has_batch_norm))


def _of_penalty(name: str) -> Case:
    make = contract.PENALTIES[name]
    return Case(make, lambda: contract.fitting(make(), contract.net(nn.ReLU())), lambda: contract.pictures(4))


def _of_set(norm: float, domain: Any, has_batch_norm: bool) -> Case:
    return Case(
        lambda: Certified(norm, 0.1, domain=domain, kappa=0.5, clip=True, batch_statistics=True),
        lambda: loops.net(has_batch_norm=has_batch_norm),
    )


def _of_moments(way: str, std: Any) -> Case:
    return Case(
        lambda: GaussianExpectation(std, propagation=WAYS[way]),
        lambda: contract.net(nn.ReLU(), channels=2),
        lambda: contract.pictures(4, channels=2),
    )


def _of_weights(estimator: bayes.posterior.Estimator) -> Case:
    posterior = bayes.Posterior(estimator=estimator)
    return Case(
        lambda: Variational(60, 3, prior=bayes.MixturePrior()) + SpectralExpectation(),
        lambda: bayes.convert(loops.net(has_batch_norm=True), posterior),
    )


STDS = {"constant": 0.2, "alternating": [0.1, 0.2], "scheduled": Linear(0.0, 0.2, epochs=3)}
CASES: dict[str, Case] = {
    **{name: _of_loops(name) for name in loops.ALL},
    **{f"penalty {name}": _of_penalty(name) for name in contract.PENALTIES},
    **{
        f"certified {norm} {domain} {'with' if has else 'without'} batch norm": _of_set(norm, domain, has)
        for (norm, domain), has in product(EVERY, (False, True))
    },
    **{f"moments {way} {name}": _of_moments(way, std) for way, (name, std) in product(WAYS, STDS.items())},
    **{f"weights {estimator}": _of_weights(estimator) for estimator in ("local", "flipout", "shared")},
}


# Takes exact singular vectors, and torch asks whether their decomposition succeeded.
WAITING = ("penalty spectral-norm-exact",)


def trained(
    case: Case, device: Device | None = None, *, waits: bool = False
) -> tuple[list[Tensor], list[Tensor]]:
    """Losses of three steps, and the weights after them; on a device none but the first may wait."""
    put: Callable[[Any], Any] = (lambda held: held) if device is None else device.put
    objective, model, (images, labels) = put(case.objective()), put(case.model()).train(), put(case.batch())
    objective.prepare(60)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    losses = []
    for step in range(3):
        torch.manual_seed(step)
        with nullcontext() if device is None or waits or not step else device.step():
            optimizer.zero_grad()
            loss, terms = objective(model, images, labels, progress=float(step))
            loss.backward()
            optimizer.step()
        losses += [loss.detach().cpu(), *(value.cpu() for value in terms.values())]
    return losses, [weight.detach().cpu() for weight in model.parameters()]


@pytest.mark.parametrize("name", CASES)
def test_objective_trains_on_a_device_as_on_the_cpu_and_never_waits(name: str, device: Device) -> None:
    losses, weights = trained(CASES[name])
    losses_there, weights_there = trained(CASES[name], device, waits=name in WAITING)
    torch.testing.assert_close(losses_there, losses, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(weights_there, weights, rtol=1e-3, atol=1e-4)


# -- layers with random weights ----------------------------------------------------------------------

ASKING = (
    "batch norm 1 of signals"  # without momentum, for which torch itself reads how many batches there were
)
FUSED = ("LSTM", "GRU", "LSTMCell", "GRUCell")  # cells that the CPU has no kernel for
SHAPED: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    name: layer for name, layer in (LINEAR | NORMS).items() if name != ASKING
}
WHOLE = {name: make for name, make in LAYERS.items() if name not in FUSED}


def _random(name: str, estimator: bayes.posterior.Estimator) -> tuple[nn.Module, Tensor]:
    """A network of one random layer, and its images."""
    torch.manual_seed(0)
    make, shape = SHAPED[name] if name in SHAPED else (lambda: Runs(WHOLE[name]()), (3, 4, 4))
    plain = nn.Sequential(make(), nn.Flatten())
    return bayes.convert(plain, bayes.Posterior(initial_std=0.3, estimator=estimator)), torch.rand(shape)


def _sampled(model: nn.Module, images: Tensor) -> list[Tensor]:
    """Logits of three draws, and gradients."""
    model.zero_grad()
    torch.manual_seed(1)
    logits = bayes.sample_logits(model, images, 3)
    (logits.square().mean() + bayes.kl(model)).backward()
    return [logits.detach(), *(part.grad for part in model.parameters() if part.grad is not None)]


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("name", [*SHAPED, *WHOLE])
def test_random_layer_draws_on_a_device_as_on_the_cpu_and_never_waits(
    name: str, estimator: bayes.posterior.Estimator, device: Device
) -> None:
    model, images = _random(name, estimator)
    model_there, images_there = device.put((model, images))
    _sampled(model_there, images_there)  # the first step may look around
    with device.step():
        there = _sampled(model_there, images_there)
    torch.testing.assert_close([part.cpu() for part in there], _sampled(model, images), rtol=1e-4, atol=1e-5)


# -- constraints -------------------------------------------------------------------------------------

IMAGE = (1, 6, 6)
BALLS: dict[str, Callable[[], SpectralBall]] = {
    "kernel": lambda: SpectralBall(0.7),
    "every": lambda: SpectralBall(0.7, every=3),
    "subspace": lambda: SpectralBall(0.7, every=3, subspace=2),
    "operator": lambda: SpectralBall(0.7, form="operator", every=2),
}


@pytest.mark.parametrize("name", BALLS)
def test_constraint_projects_on_a_device_as_on_the_cpu_and_waits_only_where_it_projects(
    name: str, device: Device
) -> None:
    models = loops.net(has_batch_norm=True), device.put(loops.net(has_batch_norm=True))
    balls = BALLS[name](), device.put(BALLS[name]())
    for step in range(1, 5):
        for model, ball in zip(models, balls, strict=True):
            ball.prepare(IMAGE)
            with torch.no_grad():
                for weight in model.parameters():
                    weight.mul_(1.5)
            rests = step % ball.every and not ball.subspace
            with device.step() if rests else nullcontext():
                ball.after_step_(model, step=step, progress=0.0)
    weights, there = ([weight.detach().cpu() for weight in model.parameters()] for model in models)
    torch.testing.assert_close(there, weights)


@pytest.mark.parametrize("parametrize", [constraints.spectral_norm_, constraints.orthogonal_])
def test_parametrised_weights_train_on_a_device_as_on_the_cpu_and_never_wait(
    parametrize: Callable[[nn.Module], None], device: Device
) -> None:
    torch.manual_seed(0)
    model, (images, _) = loops.net(), loops.batch()
    parametrize(model)
    model_there, images_there = device.put((model, images))
    model(images).square().mean().backward()
    with device.step():
        model_there(images_there).square().mean().backward()
    there = loops.gradient_of(model_there).cpu()
    torch.testing.assert_close(there, loops.gradient_of(model), rtol=1e-4, atol=1e-5)
    assert math.isfinite(float(there.norm()))
