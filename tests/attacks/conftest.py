"""The table of attacks and the small nets and batches that they are tried on."""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib.util import find_spec

import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

from withstand.attacks import (
    PGD,
    AtMeans,
    Attack,
    AutoAttack,
    Cascade,
    FoolboxAttack,
    Mask,
    Noise,
    StraightThrough,
    Transfer,
    cross_entropy,
    dlr,
    fgsm,
    fgsm_rs,
    least_likely,
    margin,
    next_likely,
    random_class,
)
from withstand.certificates import Unproven
from withstand.core import norms
from withstand.core.contract import contract_of
from withstand.core.schedules import Linear, PerEpoch, Stages
from withstand.types import Batch

NORMS = (1.0, 2.0, math.inf)
EPSILON = 0.1

PGDS: dict[str, PGD] = {
    **{
        f"pgd-{loss.__name__}-{norms.label(p)}": PGD(norm=p, epsilon=EPSILON, num_steps=3, loss=loss)
        for p in NORMS
        for loss in (cross_entropy, margin, dlr)
    },
    **{f"fgsm-{norms.label(p)}": fgsm(EPSILON, p) for p in NORMS},
    **{f"fgsm-rs-{norms.label(p)}": fgsm_rs(EPSILON, p) for p in NORMS},
    "least-likely": PGD(epsilon=EPSILON, num_steps=3, target=least_likely),
    "next-likely-l2": PGD(norm=2.0, epsilon=EPSILON, num_steps=3, target=next_likely, loss=margin),
    "next-likely-stop": PGD(epsilon=EPSILON, num_steps=3, target=next_likely, mode="evaluation"),
    "next-likely-by-loss": PGD(norm=1.0, epsilon=EPSILON, num_steps=3, target=next_likely, mode="random"),
    **{f"best-{norms.label(p)}": PGD(norm=p, epsilon=EPSILON, num_steps=3, keep_best=True) for p in NORMS},
    "ten-steps": PGD(epsilon=EPSILON),
    "auto-steps": PGD(epsilon=EPSILON, step_size=0.08),
    "restarts": PGD(epsilon=EPSILON, num_steps=3, num_restarts=3),
    "restarts-l1": PGD(norm=1.0, epsilon=EPSILON, num_steps=3, num_restarts=2, keep_best=True),
    "stop": PGD(epsilon=EPSILON, num_steps=3, mode="evaluation"),
    "stop-restarts-l2": PGD(norm=2.0, epsilon=EPSILON, num_steps=3, num_restarts=3, mode="evaluation"),
    "by-loss": PGD(epsilon=EPSILON, num_steps=3, num_restarts=2, mode="random"),
    "decay": PGD(epsilon=EPSILON, num_steps=3, step_decay=Linear(1.0, 0.1, 1)),
    "iat": PGD(epsilon=PerEpoch(Linear(0.0, EPSILON, 4)), step_size=0.05),
    "extended": PGD(
        epsilon=Stages([0.05, EPSILON], [2, 1]),
        num_steps=Stages([2, 3], [2, 1]),
        step_size=Stages([0.02, 0.03], [2, 1]),
    ),
}


class EveryOther(Mask):
    """The first pixel, and every other one."""

    name = "every-other"

    @override
    def pixels(self, images: Tensor) -> Tensor:
        count = images.shape[1:].numel()
        chosen = torch.arange(count, device=images.device) % 2 == 0
        return chosen.reshape(1, *images.shape[1:])


class AnyShape(nn.Module):
    """Logits of four classes of images of whatever shape."""

    @override
    def forward(self, images: Tensor) -> Tensor:
        """The mean pixel, and its square, up and down."""
        mean = images.flatten(1).mean(dim=1)
        return torch.stack([mean, -mean, mean.square(), -mean.square()], dim=1)


TRANSFERS: dict[str, Attack] = {
    f"transfer-{norms.label(p)}": Transfer(AnyShape(), PGD(p, EPSILON, num_steps=3), "Other Net")
    for p in NORMS
}
# Few steps; those of the original length are in test_autoattack.
PYAUTOATTACK: dict[str, Attack] = {
    **{
        attack.name: attack
        for p in NORMS
        for attack in (
            AutoAttack(p, EPSILON, "apgd-ce", num_steps=4, num_restarts=2),
            AutoAttack(p, EPSILON, "fab", num_steps=3),
        )
    },
    "apgd-dlr-linf": AutoAttack(epsilon=EPSILON, part="apgd-dlr", num_steps=4),
    "fab-t-l2": AutoAttack(2.0, EPSILON, "fab-t", num_steps=3),
    "square-linf": AutoAttack(epsilon=EPSILON, part="square", num_queries=5),
}
FOOLBOX: dict[str, Attack] = {
    "deepfool-l2": FoolboxAttack(2.0, EPSILON, "deepfool", num_steps=3),
    "deepfool-linf": FoolboxAttack(math.inf, EPSILON, "deepfool", num_steps=3),
    "boundary-l2": FoolboxAttack(2.0, EPSILON, "boundary", num_steps=20),
}
CASCADES: dict[str, Attack] = {
    f"cascade-{norms.label(p)}": Cascade(
        [PGD(p, EPSILON, num_steps=2), PGD(p, EPSILON, num_steps=3, loss=margin), Noise(p, EPSILON, 2)], "two"
    )
    for p in NORMS
}
UNPROVEN: dict[str, Attack] = {
    f"unproven-{norms.label(p)}": Unproven(PGD(p, EPSILON, num_steps=3)) for p in NORMS
}
ATTACKS: dict[str, Attack] = {
    **PGDS,
    **{f"means-{norms.label(p)}": AtMeans(PGD(norm=p, epsilon=EPSILON, num_steps=3)) for p in NORMS},
    **{f"through-{norms.label(p)}": StraightThrough(PGD(p, EPSILON, num_steps=3), ["2"]) for p in NORMS},
    **{f"noise-{n}-{norms.label(p)}": Noise(p, EPSILON, n) for p in NORMS for n in (1, 3)},
    **TRANSFERS,
    **{f"masked-{norms.label(p)}": PGD(p, EPSILON, 3, mask=EveryOther()) for p in NORMS},
    "masked-stop": PGD(epsilon=EPSILON, num_steps=3, mask=EveryOther(), mode="evaluation"),
    **UNPROVEN,
    "random-class": PGD(epsilon=EPSILON, num_steps=3, target=random_class, num_restarts=2),
    **CASCADES,
    **(PYAUTOATTACK if find_spec("pyautoattack") else {}),
    **(FOOLBOX if find_spec("foolbox") else {}),
}
QUERYING = {name: attack for name, attack in ATTACKS.items() if not name.startswith("noise-1")}
# Those that may ask the device how it went, since they only evaluate.
WAITING = {
    "stop",
    "stop-restarts-l2",
    "next-likely-stop",
    "masked-stop",
    *UNPROVEN,
    *CASCADES,
    *PYAUTOATTACK,
    *FOOLBOX,
}
TRAINING = {name: attack for name, attack in ATTACKS.items() if name not in WAITING}


@pytest.fixture(params=ATTACKS.values(), ids=list(ATTACKS))
def attack(request: pytest.FixtureRequest) -> Attack:
    """Each attack of the table; its budget ends at 0.1."""
    result: Attack = request.param
    return result


@pytest.fixture(params=QUERYING.values(), ids=list(QUERYING))
def querying_attack(request: pytest.FixtureRequest) -> Attack:
    """Each that asks the model anything."""
    result: Attack = request.param
    return result


@pytest.fixture(params=TRAINING.values(), ids=list(TRAINING))
def training_attack(request: pytest.FixtureRequest) -> Attack:
    """Each that training may use."""
    result: Attack = request.param
    return result


@pytest.fixture(params=PGDS.values(), ids=list(PGDS))
def pgd(request: pytest.FixtureRequest) -> PGD:
    """Each setting of projected gradient ascent."""
    result: PGD = request.param
    return result


@pytest.fixture
def net() -> nn.Sequential:
    """A net that mode and randomness matter to, in train mode with one part in eval mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.Dropout(0.5), nn.Flatten()
        )
        model.append(nn.Sequential(nn.Linear(48, 4), nn.Dropout(0.5)))
        model(torch.rand(16, 1, 4, 4))
    model.get_submodule("5.1").eval()
    return model


@pytest.fixture
def batch() -> Batch:
    """Twelve images, half of them black and white, and labels of four classes, some of them wrong."""
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(12, 1, 4, 4, generator=generator)
    images[:6] = images[:6].round()
    return Batch(images, torch.randint(0, 4, (12,), generator=generator))


@pytest.fixture
def curved() -> tuple[nn.Module, Batch]:
    """A smooth net in float64, and 60 images of 6 pixels with the labels that it gives them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3)).double()
        images = torch.rand(60, 6, dtype=torch.float64)
    with torch.no_grad():
        return model, Batch(images, model(images).argmax(dim=1))


@pytest.fixture
def slope() -> Callable[[Tensor], nn.Linear]:
    """Makes a net of two classes: the logit of the second is ``<weight, x>``, of the first 0."""
    return _slope


@pytest.fixture
def batch_sizes() -> Callable[[nn.Linear], list[int]]:
    """Begins to note the size of every batch that a model is asked about."""
    return _batch_sizes


def _slope(weight: Tensor) -> nn.Linear:
    model = nn.Linear(len(weight), 2, bias=False)
    model.weight = nn.Parameter(torch.stack([torch.zeros_like(weight), weight]))
    return model


def _batch_sizes(model: nn.Linear) -> list[int]:
    sizes: list[int] = []
    contract_of(model, torch.rand(1, model.in_features))  # a look that is taken once, before what is counted
    model.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    return sizes
