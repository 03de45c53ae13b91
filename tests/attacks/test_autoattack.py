"""AutoAttack in parts against the package itself."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional as F

from withstand.attacks import AutoAttack, AutoAttackPart, Cascade, SuiteLevel, suite
from withstand.core import norms
from withstand.types import AttackError, Batch

pyautoattack: Any = pytest.importorskip("pyautoattack")

EPSILONS = {1.0: 2.0, 2.0: 0.4, math.inf: 0.08}  # at each a part of the examples is robust
NAMES = {1.0: "L1", 2.0: "L2", math.inf: "Linf"}


@cache
def _trained() -> tuple[nn.Sequential, Batch]:
    """A small net, trained for some steps on digits of 8 x 8 pixels, and some images it has not seen."""
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).div(16).unsqueeze(1)
    labels = torch.tensor(digits.target, dtype=torch.int64)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(216, 10))
        optimizer = torch.optim.Adam(model.parameters(), 0.01)
        for step in range(60):
            rows = slice(20 * step, 20 * step + 20)
            noisy = (images[rows] + 0.1 * torch.randn_like(images[rows])).clamp(0, 1)
            optimizer.zero_grad()
            F.cross_entropy(model(noisy), labels[rows]).backward()
            optimizer.step()
    return model.eval(), Batch(images[1500:1516], labels[1500:1516])


def _official(model: nn.Module, norm: float, version: str) -> Any:
    return pyautoattack.AutoAttack(model, norm=NAMES[norm], eps=EPSILONS[norm], seed=0, version=version)


def _run(official: Any, batch: Batch) -> Tensor:
    """The images that the package finds, called as its users call it."""
    logger = logging.getLogger("auto-attack")
    with torch.random.fork_rng(devices=[]):
        logger.disabled = True
        try:
            result: Tensor = official.run_standard_evaluation(*batch)[0]
        finally:
            logger.disabled = False
    return result


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Lets the package's attacks only note their settings, each time one is run."""
    notes: list[dict[str, Any]] = []

    def note(self: Any, x: Tensor, y: Tensor, best_loss: bool = False) -> Tensor:
        settings = {name: value for name, value in vars(self).items() if isinstance(value, int | float | str)}
        settings.pop("device", None)  # the same, as a string or not
        notes.append({"class": type(self).__name__, "best_loss": best_loss, **settings})
        return x

    for module, kind in (
        ("autopgd_base", "APGDAttack"),
        ("autopgd_base", "APGDAttack_targeted"),
        ("fab_pt", "FABAttack_PT"),
        ("square", "SquareAttack"),
    ):
        monkeypatch.setattr(f"pyautoattack.{module}.{kind}.perturb", note)
    return notes


def _is_robust(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model(images)
    return logits.argmax(dim=1) == labels


@pytest.mark.parametrize(
    ("version", "norm"),
    [("standard", 1.0), ("standard", 2.0), ("standard", math.inf), ("plus", 2.0), ("plus", math.inf)],
)
def test_autoattack_settings_of_the_suites_are_those_of_its_versions(
    recorded: list[dict[str, Any]], version: str, norm: float
) -> None:
    model, batch = _trained()
    _run(_official(model, norm, version), batch)
    expected = recorded.copy()
    recorded.clear()
    level: SuiteLevel = "standard" if version == "standard" else "thorough"
    for member in suite(level, norm=norm, num_classes=10).at(EPSILONS[norm]).for_evaluation().members:
        if isinstance(member, AutoAttack):
            member(model, *batch)
    assert len(expected) == (4 if version == "standard" else 6)
    assert recorded == expected


@pytest.mark.parametrize("norm", EPSILONS, ids=norms.label)
def test_autoattack_is_its_parts_in_a_cascade(norm: float) -> None:
    model, batch = _trained()
    official = _official(model, norm, "standard")
    official.apgd.n_restarts = official.apgd_targeted.n_target_classes = official.fab.n_target_classes = 2
    official.fab.n_iter, official.square.n_queries = 10, 200  # for time; its own are pinned above
    expected = _run(official, batch)
    cascade = Cascade(
        [
            AutoAttack(norm, EPSILONS[norm], "apgd-ce", num_restarts=2),
            AutoAttack(norm, EPSILONS[norm], "apgd-t", num_target_classes=2),
            AutoAttack(norm, EPSILONS[norm], "fab-t", num_steps=10, num_target_classes=2),
            AutoAttack(norm, EPSILONS[norm], "square", num_queries=200),
        ]
    )
    actual = cascade.for_evaluation()(model, *batch)
    is_robust = _is_robust(model, expected, batch.labels)
    assert 0 < is_robust.sum() < len(is_robust)
    assert torch.equal(_is_robust(model, actual, batch.labels), is_robust)
    assert torch.equal(actual, expected)


@pytest.mark.parametrize("part", ["apgd-dlr", "fab", "square"])
def test_autoattack_part_alone_is_that_part_of_the_package(part: AutoAttackPart) -> None:
    model, batch = _trained()
    official = _official(model, 2.0, "plus")
    official.attacks_to_run = [part]
    official.apgd.n_restarts = official.fab.n_restarts = 2
    official.fab.n_iter, official.square.n_queries = 10, 200
    steps = 10 if part == "fab" else 100
    restarts = 1 if part == "square" else 2
    attack = AutoAttack(2.0, EPSILONS[2.0], part, steps, restarts, num_queries=200)
    result = Cascade([attack])(model, *batch)
    assert not torch.equal(result, batch.images)
    assert torch.equal(result, _run(official, batch))


def test_autoattack_leaves_the_draws_of_others_alone() -> None:
    model, batch = _trained()
    torch.manual_seed(3)
    before = torch.get_rng_state()
    attack = AutoAttack(epsilon=0.2, num_steps=5)
    first = attack(model, *batch)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    assert torch.equal(attack(model, *batch), first)
    assert not torch.equal(replace(attack, seed=1)(model, *batch), first)


def test_autoattack_is_silent(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    flat = nn.Linear(16, 4)
    nn.init.zeros_(flat.weight)  # no gradient anywhere, which the package warns of
    model = nn.Sequential(nn.Flatten(), flat)
    labels = model(torch.rand(3, 1, 4, 4)).argmax(dim=1)
    for part in ("apgd-dlr", "apgd-t", "square"):
        AutoAttack(epsilon=0.1, part=part, num_steps=3, num_queries=3)(model, torch.rand(3, 1, 4, 4), labels)
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


def test_autoattack_of_random_answers_goes_by_the_largest_loss() -> None:
    model, batch = _trained()
    attack = AutoAttack(epsilon=0.02, num_steps=10)
    losses = []
    for form in (attack.for_evaluation(), attack.for_random_answers()):
        with torch.no_grad():
            losses.append(F.cross_entropy(model(form(model, *batch)), batch.labels, reduction="none"))
    assert (losses[1] >= losses[0]).all()
    assert losses[1].sum() > losses[0].sum()  # also where nothing fooled the model
    assert "largest loss" in attack.for_random_answers().describe()


@pytest.mark.parametrize(
    ("num_classes", "part", "instead"), [(2, "apgd-dlr", "apgd-ce"), (3, "apgd-t", "dlr")]
)
def test_autoattack_parts_that_rank_more_logits_than_there_are_say_so(
    num_classes: int, part: AutoAttackPart, instead: str
) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, num_classes))
    with pytest.raises(AttackError, match=f"{part} needs at least .* the model has {num_classes}.*{instead}"):
        AutoAttack(part=part)(model, torch.rand(2, 1, 4, 4), torch.tensor([0, 1]))


@pytest.mark.parametrize("num_classes", [2, 3, 4])
def test_autoattack_suite_takes_few_classes(num_classes: int) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, num_classes))
    images = torch.rand(4, 1, 6, 6)
    members = suite("thorough", norm=math.inf, num_classes=num_classes).members
    few = [
        AutoAttack(epsilon=1.0, part=member.part, num_steps=2, num_queries=2)
        for member in members
        if isinstance(member, AutoAttack)
    ]
    with torch.no_grad():
        labels = model(images).argmax(dim=1)
    assert not _is_robust(model, Cascade(few)(model, images, labels), labels).any()


def test_autoattack_square_says_which_images_are_too_small() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 4))
    with pytest.raises(AttackError, match="at least 5 x 5 pixels in l2, but got 4 x 4"):
        AutoAttack(2.0, part="square")(model, torch.rand(2, 1, 4, 4), torch.tensor([0, 1]))


def test_autoattack_says_what_it_is() -> None:
    assert AutoAttack(part="square").kind == "black-box"
    assert AutoAttack(part="fab").kind == "white-box"
    description = AutoAttack(1.0, part="apgd-t").describe()
    assert description == "AutoAttack's apgd-t, l1, 100 steps, up to 5 target classes, seed 0"
    assert AutoAttack(1.0).describe() == "AutoAttack's apgd-ce, l1, 100 steps, 5 restarts, seed 0"
    assert AutoAttack(part="square").describe() == "AutoAttack's square, linf, 5000 queries, seed 0"


def test_autoattack_refuses_settings_out_of_range() -> None:
    with pytest.raises(ValueError, match="Expected a part of AutoAttack"):
        AutoAttack(part="pgd")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="num_steps of at least 1, but got 0"):
        AutoAttack(num_steps=0)
