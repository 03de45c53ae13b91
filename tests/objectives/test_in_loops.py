"""Every objective and penalty in loops of others: in mixed precision, with gradients in parts, behind DDP.

Run as a script, with a file and a number, this is one of the two processes that train together.
"""

from __future__ import annotations

import itertools
import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from inspect import isabstract
from pathlib import Path
from typing import get_args

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import withstand as ws
from withstand.domains import DomainName
from withstand.objectives import Objective, Sum, Weighted
from withstand.types import Batch, ModelError

o, p = ws.objectives, ws.penalties
PGD = ws.attacks.PGD(epsilon=0.1, num_steps=2, random_start=False)
L2 = replace(PGD, norm=2.0, epsilon=0.5)  # which does not turn round where a gradient changes its sign
DEFORM = ws.data.Deform(translation=1.0, displacement=0.5, smoothness=1.0)

# Means over the examples of a batch, which draw nothing at random.
MEANS: dict[str, Callable[[], Objective]] = {
    "cross-entropy": o.CrossEntropy,
    "adversarial": lambda: o.Adversarial(PGD),
    "mart": lambda: o.MART(PGD),
    "free": lambda: o.FreeAdversarial(0.1),
    "weighted": lambda: o.Adversarial(PGD, label_smoothing=0.1, class_weights=[1, 2, 3]),
    "certified": lambda: o.Certified(norm=2, epsilon=0.3, kappa=0.5, num_power_iterations=50),
    "moments": lambda: o.GaussianExpectation(noise_std=0.2),
    "loss-gradient": p.LossGradient,
    "sum": lambda: o.Adversarial(PGD) + 0.5 * o.CrossEntropy() + 0.1 * p.LossGradient(1),
}
OTHERS: dict[str, Callable[[], Objective]] = {
    "noisy": lambda: o.NoisyCrossEntropy(noise_std=0.2),
    "trades": lambda: o.TRADES(replace(L2, random_start=True)),
    "weight-perturbation": lambda: o.WeightPerturbation(o.Adversarial(L2)),
    "variational": lambda: o.Variational(num_data=60, num_samples=2),
    "input-gradient": p.InputGradient,
    "perturbation": lambda: p.AdversarialPerturbation(0.5, num_steps=2),
    "alignment": lambda: p.GradientAlignment(0.1),
    "virtual": lambda: p.VirtualAdversarial(0.5),
    "deformation": lambda: p.DeformationStability(DEFORM, num_deformations=2),
    "tangent": lambda: p.TangentGradient(DEFORM, num_tangents=3),
    "spectral": p.SpectralNorm,
    "spectral-operator": lambda: p.SpectralNorm("operator"),
    "spectral-expectation": p.SpectralExpectation,
}
ALL = MEANS | OTHERS
RANDOM = ("variational", "spectral-expectation")  # of networks with random weights
CAST = (  # all others compute in float32
    *("cross-entropy", "adversarial", "weighted", "mart", "trades", "weight-perturbation", "sum", "noisy"),
    *("free", "variational"),
)
CLASSES = 3


def net(name: str = "", *, has_batch_norm: bool = False) -> nn.Module:
    """A small network for 1×6×6 images, whose weights are the same each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        layers = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4) if has_batch_norm else nn.Identity(), nn.ReLU()]
        model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, CLASSES))
        model[-1].get_parameter("weight").data *= 3  # so that no gradient is small
        return ws.bayes.convert(model) if name in RANDOM else model


def batch(num: int = 12) -> Batch:
    images = torch.rand(num, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    return Batch(images, torch.arange(num) % CLASSES)


def gradient_of(model: nn.Module) -> Tensor:
    """All gradients in one vector."""
    return torch.cat(
        [torch.zeros_like(w).flatten() if w.grad is None else w.grad.flatten() for w in model.parameters()]
    )


def gradient(model: nn.Module, objective: Objective, dtype: torch.dtype | None = None) -> Tensor:
    """That of the whole batch; with passes in a shorter type, if one is given."""
    model.zero_grad()
    torch.manual_seed(0)
    # Where a scaler comes to after the steps that it leaves out, since their gradients are infinite.
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, enabled=dtype == torch.float16)
    with torch.autocast("cpu", dtype=dtype or torch.bfloat16, enabled=dtype is not None):
        loss = objective(model, *batch()).loss
    scaler.scale(loss).backward()
    scaler.unscale_(torch.optim.SGD(model.parameters()))
    return gradient_of(model)


def apart(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / other.norm())


def test_every_public_objective_and_penalty_is_tried_here() -> None:
    names = [*(getattr(o, name) for name in o.__all__), *(getattr(p, name) for name in p.__all__)]
    kinds = {each for each in names if isinstance(each, type) and issubclass(each, Objective)}
    tried = {type(make()) for make in ALL.values()}
    assert {each for each in kinds - tried if not isabstract(each)} <= {Sum, Weighted}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ALL)
def test_gradients_in_mixed_precision_are_near_those_of_float32(name: str, dtype: torch.dtype) -> None:
    model = net(name)
    exact, cast = gradient(model, ALL[name]()), gradient(model, ALL[name](), dtype)
    assert exact.norm() > 0
    assert cast.isfinite().all()
    digits = 0.1 if dtype == torch.bfloat16 else 0.05
    assert apart(cast, exact) < (digits if name in CAST else 1e-4 if name != "certified" else 0.02)


MOMENTS = (o.FirstActivation(), o.EveryLayer(), o.EveryLayer(o.Cubature(8)))
BOUNDS: dict[str, Callable[[], Objective]] = {
    **{
        f"{domain} {norm}": partial(o.Certified, norm, 0.05, domain=domain)
        for norm, domain in itertools.product((2.0, math.inf), get_args(DomainName))
    },
    **{
        f"moments {number}": partial(o.GaussianExpectation, 0.2, clean_weight=0.0, propagation=way)
        for number, way in enumerate(MOMENTS)
    },
}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", BOUNDS)
def test_bounds_and_moments_leave_autocast_by_themselves(name: str, dtype: torch.dtype) -> None:
    exact, cast = (gradient(net(), BOUNDS[name](), kind) for kind in (None, dtype))
    assert exact.norm() > 0
    assert apart(cast, exact) < 1e-6


@pytest.mark.parametrize("name", MEANS)
def test_gradients_of_parts_add_up_to_those_of_the_batch(name: str) -> None:
    model, objective, whole = net(), ALL[name](), batch()
    at_once = gradient(model, objective)
    model.zero_grad()
    for part in (slice(0, 8), slice(8, 12)):
        images, labels = whole.images[part], whole.labels[part]
        (objective(model, images, labels).loss * len(labels) / len(whole.labels)).backward()
    assert apart(gradient_of(model), at_once) < 1e-3


def test_processes_train_together_on_every_objective(tmp_path: Path) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, __file__, str(tmp_path / "meeting")]
    workers = [
        subprocess.Popen(
            [*command, str(rank)],
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for rank in range(2)
    ]
    said = [worker.communicate(timeout=300)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], said
    assert said[0].split() == [*ALL, "done"]


# -- one of the two processes -------------------------------------------------------------------------


def work(meeting: str, rank: int) -> None:
    """Trains with the other process on every objective."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    for name in ALL:
        train_together(name, rank)
        if rank == 0:
            print(name)  # noqa: T201
    alone_and_in_parts(rank)
    dist.destroy_process_group()
    print("done")  # noqa: T201


def own_half(rank: int) -> Batch:
    images, labels = batch()
    return Batch(images[rank::2], labels[rank::2])


def train_together(name: str, rank: int) -> None:
    model, objective = net(name), ALL[name]()
    whole = gradient(model, objective) if name in MEANS else None
    model.zero_grad()
    parallel = DistributedDataParallel(model)
    objective(parallel, *own_half(rank)).loss.backward()
    if whole is not None:
        assert apart(gradient_of(model), whole) < 1e-3, name
    stays_equal(DistributedDataParallel(net(name, has_batch_norm=name not in RANDOM)), ALL[name](), rank)


def stays_equal(parallel: nn.Module, objective: Objective, rank: int) -> None:
    """Some steps, of which the weights are the same in both processes, whatever these draw and are given."""
    torch.manual_seed(rank)
    optimizer, ball = torch.optim.SGD(parallel.parameters(), lr=0.05), ws.constraints.SpectralBall(2.0)
    before = torch.cat([weight.detach().flatten() for weight in parallel.parameters()])
    for _ in range(2):
        optimizer.zero_grad()
        loss, terms = objective(parallel, *own_half(rank))
        loss.backward()
        assert not any(term.requires_grad for term in terms.values())
        optimizer.step()
        if not any(isinstance(layer, ws.bayes.VariationalLayer) for layer in parallel.modules()):
            ball.project_(parallel)
    mine = torch.cat([weight.detach().flatten() for weight in parallel.parameters()])
    both = [torch.empty_like(mine), torch.empty_like(mine)]
    dist.all_gather(both, mine)
    assert torch.equal(*both)
    assert not torch.equal(mine, before)
    assert not any("module" in key for key in objective.state_dict())  # as without DDP


def alone_and_in_parts(rank: int) -> None:
    """What needs no other process does not wait for one; what is not averaged yet is so at the last part."""
    parallel = DistributedDataParallel(net(has_batch_norm=True))
    if rank == 0:
        ws.attacks.PGD(num_steps=2)(parallel, *batch())
        with torch.no_grad():
            ALL["sum"]()(parallel.eval(), *batch())
    model, objective = net(), o.Certified(norm=math.inf, epsilon=0.05, domain="box")
    whole = gradient(model, objective)
    model.zero_grad()
    parallel, (images, labels) = DistributedDataParallel(model), own_half(rank)
    with parallel.no_sync():
        (objective(parallel, images[:3], labels[:3]).loss / 2).backward()
    (objective(parallel, images[3:], labels[3:]).loss / 2).backward()
    assert apart(gradient_of(model), whole) < 1e-3
    with pytest.raises(ModelError, match=r"must be in it whole"):
        objective(nn.Sequential(nn.Identity(), parallel), images, labels)


if __name__ == "__main__":
    work(sys.argv[1], int(sys.argv[2]))
