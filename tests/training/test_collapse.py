"""Collapse: distinguished from a bad start, and mended by halving the step of epsilon."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from withstand.core.schedules import Constant, Linear, Schedule, Slowed, Stages, value_at
from withstand.data import Dataset
from withstand.loss.terms import Objective
from withstand.objectives import Certified
from withstand.objectives.adversarial import ACCURACY_TERM, LOSS_TERM
from withstand.training import Rollback, TrainingSettings, fit, has_collapsed, loop
from withstand.training.checkpoint import write_checkpoint
from withstand.types import LossTerms


@pytest.fixture
def tiny_model(tiny_model: nn.Module) -> nn.Module:
    """Answers the first class whatever it sees, as a collapsed net; what it shows is up to ``Brittle``."""
    head = list(tiny_model)[-1] if isinstance(tiny_model, nn.Sequential) else None
    assert isinstance(head, nn.Linear)
    nn.init.zeros_(head.weight).requires_grad_(False)
    head.bias.data.copy_(torch.tensor([2.0, 0.0, 0.0])).requires_grad_(False)
    return tiny_model


class Brittle(Objective):
    """Pretends to collapse whenever its difficulty rises by more than ``reach`` at once."""

    def __init__(self, difficulty: Schedule, reach: float) -> None:
        super().__init__()
        self.difficulty = difficulty
        self.reach = reach
        self.register_buffer("mastered", torch.zeros(()))

    @override
    def forward(
        self, model: nn.Module, images: Tensor, labels: Tensor, *, progress: float = math.inf
    ) -> LossTerms:
        now = value_at(self.difficulty, progress)
        mastered = self.get_buffer("mastered")
        too_hard = now > float(mastered) + self.reach + 1e-6
        if not too_hard:
            mastered.fill_(now)
        loss = F.cross_entropy(model(images), labels)
        shown = math.log(3) if too_hard else 0.1
        accuracy = 1 / 3 if too_hard else 0.9
        terms = {
            LOSS_TERM: torch.tensor(shown),
            ACCURACY_TERM: torch.tensor(accuracy),
            "difficulty": torch.tensor(now),
        }
        return LossTerms(loss, terms)

    @override
    def slow_down(self, at: float) -> bool:
        before = self.difficulty(at + 0.5)
        self.difficulty = Slowed(self.difficulty, at)
        return self.difficulty(at + 0.5) < before


def settings(max_rollbacks: int | None, epochs: int = 4) -> TrainingSettings:
    return TrainingSettings(
        epochs=epochs,
        batch_size=48,
        optimizer=partial(torch.optim.SGD, lr=0.01),
        rollback=None if max_rollbacks is None else Rollback(max_halvings=max_rollbacks),
        accelerator="cpu",
    )


@pytest.mark.parametrize(
    ("loss", "accuracy", "expected"),
    [
        (math.log(10), 0.11, True),
        (math.log(10) - 0.002, 0.3, True),  # stuck at ln(classes)
        (1.9, 0.10, True),  # at chance
        (2.1, 0.16, False),  # weak, but learning
        (0.4, 0.85, False),
        (4.0, 0.2, False),  # bad, but not constant
    ],
)
def test_has_collapsed_recognises_a_constant_answer(loss: float, accuracy: float, expected: bool) -> None:
    assert has_collapsed(loss, accuracy, 10) is expected


def test_rollback_returns_to_the_good_checkpoint_and_halves_the_step(
    tiny_model: nn.Module, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    # 0.3 at once is too much at the start, and 0.1 more is too much later: reach is 0.08.
    objective = Brittle(Stages(values=[0.08, 0.2], epochs=[2, 2]), reach=0.08)
    result = fit(tiny_model, tiny_dataset, objective, settings(5), out=tmp_path)
    log = pd.read_csv(tmp_path / "train.csv", keep_default_na=False)
    good = log[log["collapsed"] == 0]
    assert list(good["difficulty"]) == pytest.approx([0.08, 0.08, 0.14, 0.2, 0.2])
    bad = log[log["collapsed"] == 1]
    assert list(bad["difficulty"]) == pytest.approx([0.2])
    assert "back to the end of epoch 2" in bad["note"].iloc[0]
    assert not result.has_collapsed
    assert result.steps == 2 * 6  # the rolled back epoch counts as work done


def test_rollback_is_remembered_by_a_resumed_run(
    tiny_model: nn.Module, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    def train(out: Path) -> pd.DataFrame:
        objective = Brittle(Stages(values=[0.08, 0.2], epochs=[2, 2]), reach=0.08)
        fit(copy.deepcopy(tiny_model), tiny_dataset, objective, settings(5), out=out)
        return pd.read_csv(out / "train.csv")

    once = train(tmp_path)
    again = train(tmp_path)  # nothing is left to do, and nothing changes
    pd.testing.assert_frame_equal(once, again)


@pytest.mark.parametrize("num_writes", range(1, 12))
def test_rollback_after_a_kill_at_any_checkpoint_file_slows_down_at_the_same_places(
    tiny_model: nn.Module,
    tiny_dataset: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    num_writes: int,
) -> None:
    """Two files make a checkpoint; a kill may fall between them, before or after a rollback."""

    def train(out: Path) -> tuple[dict[str, Tensor], pd.DataFrame]:
        model = copy.deepcopy(tiny_model)
        objective = Brittle(Stages(values=[0.08, 0.2], epochs=[2, 2]), reach=0.08)
        fit(model, tiny_dataset, objective, settings(5), out=out)
        return model.state_dict(), pd.read_csv(out / "train.csv").drop(columns="seconds")

    def write_then_die(path: Path, content: Mapping[str, Any]) -> None:
        write_checkpoint(path, content)
        written.append(path.name)
        if len(written) == num_writes:
            raise KeyboardInterrupt

    weights, log = train(tmp_path / "whole")
    written: list[str] = []
    monkeypatch.setattr(loop, "write_checkpoint", write_then_die)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut")
    monkeypatch.undo()
    resumed_weights, resumed_log = train(tmp_path / "cut")
    pd.testing.assert_frame_equal(log, resumed_log)
    assert all(torch.equal(weights[name], resumed_weights[name]) for name in weights)


def test_collapse_that_outlasts_the_halvings_is_reported_and_training_goes_on(
    tiny_model: nn.Module, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    objective = Brittle(Stages(values=[0.05, 9.0], epochs=[1, 3]), reach=0.08)
    result = fit(tiny_model, tiny_dataset, objective, settings(2), out=tmp_path)
    assert result.has_collapsed
    log = pd.read_csv(tmp_path / "train.csv", keep_default_na=False)
    # Two rollbacks make two epochs more; one epoch is good, and the two that were rolled back count too.
    assert list(log["collapsed"]) == [0, 1, 1, *[1] * 5]
    assert list(log["difficulty"][1:]) == pytest.approx([9.0, 4.525, 2.2875, 4.525, 9.0, 9.0, 9.0])
    assert "did not help" in log["note"].iloc[-1]


def test_rollback_slows_a_ramp_and_does_not_only_delay_it() -> None:
    slowed = Slowed(Linear(start=0.0, end=1.0, epochs=10), 4)
    assert [slowed(e) for e in (3, 4, 5, 6, 7, 11)] == pytest.approx([0.3, 0.4, 0.45, 0.5, 0.6, 1.0])


def test_rollback_needs_something_to_slow_down(
    tiny_model: nn.Module, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    """A collapse that no step of difficulty caused would only be repeated by a rollback."""
    objective = Brittle(Constant(0.0), reach=-1.0)  # collapses always
    result = fit(tiny_model, tiny_dataset, objective, settings(5), out=tmp_path)
    log = pd.read_csv(tmp_path / "train.csv", keep_default_na=False)
    assert list(log["note"]) == ["collapsed; no step of epsilon to halve"] * 4
    assert result.steps == 4 * 2


def test_collapse_without_rollback_is_only_reported(
    tiny_model: nn.Module, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    objective = Brittle(Stages(values=[0.05, 9.0], epochs=[1, 3]), reach=0.08)
    fit(tiny_model, tiny_dataset, objective, settings(None), out=tmp_path)
    log = pd.read_csv(tmp_path / "train.csv", keep_default_na=False)
    assert list(log["collapsed"]) == [0, 1, 1, 1]
    assert list(log["note"]) == ["", *["collapsed"] * 3]


def test_rollback_slows_certified_training_too(tiny_dataset: Dataset, tmp_path: Path) -> None:
    """At a hopeless epsilon it ends in a constant answer, on clean images as well."""
    objective = Certified(2, Stages(values=[0.01, 50.0], epochs=[1, 3]), domain="ball")
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    often = replace(settings(1), batch_size=4, optimizer=partial(torch.optim.Adam, lr=0.03))
    result = fit(model, tiny_dataset, objective, often, out=tmp_path)
    log = pd.read_csv(tmp_path / "train.csv", keep_default_na=False)
    assert result.has_collapsed
    assert log["collapsed"].iloc[-1] == 1
    assert log["epsilon"].nunique() == 3  # one between the two


def test_rollback_needs_a_positive_number() -> None:
    with pytest.raises(ValueError, match="max_rollbacks of at least 1"):
        Rollback(max_rollbacks=0)
    with pytest.raises(ValueError, match="max_halvings of at least 1"):
        Rollback(max_halvings=0)


def test_rollbacks_are_counted_by_step_and_in_all() -> None:
    rollback = Rollback(max_halvings=2, max_rollbacks=3)
    assert rollback.allows(4, [4])
    assert not rollback.allows(4, [4, 4])
    assert rollback.allows(6, [4, 4])
    assert not rollback.allows(6, [4, 4, 5])
