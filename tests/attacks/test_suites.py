"""Which attacks a level is made of."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from withstand.attacks import PGD, SUITES, SuiteLevel, Transfer, require_packages, suite
from withstand.types import AttackError

OURS = ["pgd-100-linf", "pgd-100-margin-linf", "pgd-100-dlr-linf", "pgd-400-margin-linf"]


def _names(
    level: SuiteLevel, num_classes: int = 10, *, norm: float = math.inf, is_random: bool = False
) -> list[str]:
    cascade = suite(level, norm=norm, num_classes=num_classes, is_random=is_random)
    return [stage.name for stage in cascade.stages]


def test_suite_has_these_members_at_each_level() -> None:
    assert _names("fast") == ["pgd-20-linf", "pgd-20-margin-linf"]
    assert _names("standard") == ["apgd-ce-linf", "apgd-t-linf", "fab-t-linf", "square-linf", *OURS]
    plus = [f"{part}-linf" for part in ("apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t")]
    assert _names("thorough") == [*plus, *OURS, "deepfool-linf", "brendel-bethge-linf"]
    assert _names("thorough", norm=2.0)[-3:] == ["deepfool-l2", "brendel-bethge-l2", "boundary-l2"]
    assert _names("thorough", norm=1.0)[-2:] == ["pgd-400-margin-l1", "brendel-bethge-l1"]


def test_suite_of_few_classes_leaves_out_losses_that_rank_more() -> None:
    two = ["apgd-ce-linf", "fab-linf", "square-linf"]
    ours = ["pgd-100-linf", "pgd-100-margin-linf", "pgd-400-margin-linf"]
    assert _names("standard", 2) == [*two, *ours]
    assert _names("thorough", 2)[:6] == [*two, *ours]
    assert _names("standard", 3) == ["apgd-ce-linf", "apgd-dlr-linf", "fab-t-linf", "square-linf", *OURS]
    assert "apgd-t-linf" not in _names("thorough", 3)
    assert "apgd-t-linf" in _names("standard", 4)


def test_suite_of_random_answers_leaves_out_attacks_that_go_by_single_ones() -> None:
    assert _names("standard", is_random=True) == ["apgd-ce-linf", "apgd-dlr-linf", *OURS]
    assert _names("thorough", is_random=True) == ["apgd-ce-linf", "apgd-dlr-linf", *OURS]
    assert _names("standard", 2, is_random=True)[0] == "apgd-ce-linf"


@pytest.mark.parametrize("level", SUITES)
@pytest.mark.parametrize("is_random", [False, True])
@pytest.mark.parametrize("norm", [1.0, 2.0, math.inf])
def test_suite_is_of_one_norm_and_budget(level: SuiteLevel, is_random: bool, norm: float) -> None:
    net = nn.Linear(4, 10)
    result = suite(level, norm=norm, num_classes=10, is_random=is_random, surrogates={"a run": net}).at(0.2)
    assert result.name.startswith(f"{level}-l")
    assert result.norm == norm
    assert {stage.epsilon_at() for stage in result.stages} == {0.2}
    assert result.stages[-1].kind == "transfer"
    assert result.stages[-1].name.startswith("transfer-a-run-")
    assert len({stage.name for stage in result.stages}) == len(result.stages)


def test_suite_takes_four_times_as_many_steps_that_end_small_in_its_longest_attack() -> None:
    most = suite("standard", norm=2.0, num_classes=10).members[-1]
    assert isinstance(most, PGD)
    assert most.num_steps == 400
    assert most.num_restarts == 2
    assert not isinstance(most.step_decay, float | int)
    first, last = (2.5 / 400 * most.step_decay(at) for at in (0.0, 1.0))
    assert first == pytest.approx(0.05)
    assert last < 0.001


def test_suite_fast_attacks() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(9, 3))
    images = torch.rand(6, 1, 3, 3)
    with torch.no_grad():
        labels = model(images).argmax(dim=1)
    result = suite("fast", norm=math.inf, num_classes=3).at(0.9).for_evaluation()(model, images, labels)
    assert (model(result).argmax(dim=1) != labels).all()


def test_suite_refuses_what_there_is_not() -> None:
    with pytest.raises(ValueError, match="Expected a suite of fast, standard, thorough, but got 'slow'"):
        suite("slow", norm=2.0, num_classes=10)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="num_classes of at least 2, but got 1"):
        suite("fast", norm=2.0, num_classes=1)
    with pytest.raises(ValueError, match="Expected a norm of 1, 2 or inf, but got 3"):
        suite("fast", norm=3.0, num_classes=10)


@pytest.mark.parametrize(
    ("level", "hidden", "fails"),
    [
        ("fast", ["pyautoattack", "foolbox", "numba"], False),
        ("standard", ["foolbox", "numba"], False),
        ("standard", ["pyautoattack"], True),
        ("thorough", ["foolbox"], True),
        ("thorough", ["numba"], True),
    ],
)
def test_suite_names_packages_that_are_missing_before_it_starts(
    level: SuiteLevel, hidden: list[str], fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def installed(package: str) -> object:
        return None if package in hidden else package

    monkeypatch.setattr("withstand.attacks.adapters.find_spec", installed)
    around = Transfer(nn.Flatten(), suite(level, norm=2, num_classes=10), "other")
    for attack in (suite(level, norm=math.inf, num_classes=10), around):
        if fails:
            with pytest.raises(AttackError, match=f"needs the package {hidden[0]}, which is not installed"):
                require_packages([attack])
        else:
            require_packages([attack])
