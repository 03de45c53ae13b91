"""Certificates that join an evaluation: its rows stay, and the laws hold between old and new."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from withstand.attacks import PGD, Attack
from withstand.certificates import Certification, Certifier
from withstand.data import Dataset
from withstand.evaluation import (
    Certificate,
    Evaluation,
    FormerEvaluation,
    evaluate,
    extend_evaluation,
    plan_attacks,
)
from withstand.run_folder import RunFolder
from withstand.types import CertificateError, RunFolderError

ATTACKS = [PGD(norm=2, num_steps=20)]


@pytest.fixture
def linear() -> nn.Module:
    layer = nn.Linear(16, 3)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(4).repeat(1, 4)[:3])
        layer.bias.zero_()
    return nn.Sequential(nn.Flatten(), layer)


def before(
    model: nn.Module,
    dataset: Dataset,
    out: Path,
    attacks: Sequence[Attack] = ATTACKS,
    epsilons: Sequence[float] = (0.6,),
    **options: Any,
) -> Evaluation:
    return evaluate(model, dataset, attacks, epsilons, out=out, **options)


def extend(
    model: nn.Module,
    dataset: Dataset,
    out: Path,
    certificates: Sequence[Certificate],
    attacks: Sequence[Attack] = ATTACKS,
    epsilons: Sequence[float] = (0.6,),
    **options: Any,
) -> Evaluation:
    run = RunFolder(out)
    former = FormerEvaluation(
        pd.read_csv(run.examples), run.read_json(run.metrics), plan_attacks(attacks, epsilons)
    )
    return extend_evaluation(model, dataset, former, certificates, run, **options)


def curves(metrics: dict[str, Any], key: str) -> dict[str, list[float]]:
    return {each["name"]: [point["epsilon"] for point in each["curve"]] for each in metrics[key]}


def test_the_former_rows_stay_and_the_new_ones_are_those_of_one_evaluation(
    linear: nn.Module, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    former = before(linear, tiny_dataset, tmp_path, num_examples=30)
    certificate = Certificate(norm=2, epsilons=[0.5, 0.6], radius=True)
    result = extend(linear, tiny_dataset, tmp_path, [certificate], batch_size=8)
    whole = evaluate(linear, tiny_dataset, ATTACKS, [0.6], certificates=[certificate], num_examples=30)
    pd.testing.assert_frame_equal(result.rows[list(former.rows)], former.rows, check_dtype=False)
    for name in ("certified-l2@0.5", "certified-l2@0.6", "radius-l2"):
        assert result.rows[name].astype(float).to_numpy() == pytest.approx(whole.rows[name].to_numpy())
    assert 0 < result.rows["certified-l2@0.6"].sum() < 30
    assert result.metrics["certificates"] == whole.metrics["certificates"]
    assert curves(result.metrics, "attacks") == {"pgd-20-l2": [0.6], "pgd-20-margin-l2": [0.5]}
    run = RunFolder(tmp_path)
    assert run.read_json(run.metrics) == result.metrics
    pd.testing.assert_frame_equal(pd.read_csv(run.examples), result.rows, check_dtype=False)


def test_another_epsilon_of_the_same_certificate_joins_its_curve(
    linear: nn.Module, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    before(linear, tiny_dataset, tmp_path)
    extend(linear, tiny_dataset, tmp_path, [Certificate(norm=2, epsilons=[0.7], radius=True)])
    extend(linear, tiny_dataset, tmp_path, [Certificate(norm=2, epsilons=[0.3], method="ball")])
    result = extend(linear, tiny_dataset, tmp_path, [Certificate(norm=2, epsilons=[0.5])])
    assert curves(result.metrics, "certificates") == {
        "certified-l2": [0.5, 0.7],
        "certified-ball-l2": [0.3],
    }
    assert curves(result.metrics, "attacks") == {"pgd-20-l2": [0.6], "pgd-20-margin-l2": [0.3, 0.5, 0.7]}
    assert "radius" in result.metrics["certificates"][0]
    rows = result.rows
    assert (rows["pgd-20-margin-l2@0.7"] <= rows["pgd-20-margin-l2@0.5"]).all()
    for epsilon in (0.5, 0.7):
        assert (rows[f"certified-l2@{epsilon}"] == (rows["radius-l2"] >= epsilon)).all()


@pytest.mark.parametrize("batch_size", [20, 45])
def test_a_former_attack_that_felled_an_example_is_run_again_to_refute_its_certificate(
    linear: nn.Module, tiny_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch_size: int
) -> None:
    class Boastful(Certifier):
        def certify(
            self, images: Tensor, labels: Tensor, *, norm: float, epsilon: float | Tensor
        ) -> Certification:
            margin = torch.ones(len(images), dtype=torch.float64)
            return Certification(margin, margin > 0)

    former = before(linear, tiny_dataset, tmp_path)
    monkeypatch.setattr("withstand.evaluation.proofs.Certifier", Boastful)
    with pytest.raises(CertificateError, match=r"fell to pgd-20-l2 within epsilon 0\.6, in float64"):
        extend(linear, tiny_dataset, tmp_path, [Certificate(norm=2, epsilons=[0.6])], batch_size=batch_size)
    rows = pd.read_csv(RunFolder(tmp_path).examples)
    assert rows["certified-l2@0.6"].notna().sum() == batch_size
    pd.testing.assert_frame_equal(rows[list(former.rows)], former.rows, check_dtype=False)
    assert RunFolder(tmp_path).read_json(RunFolder(tmp_path).metrics) == former.metrics
    monkeypatch.undo()  # what was left unfinished is done anew
    again = extend(linear, tiny_dataset, tmp_path, [Certificate(norm=2, epsilons=[0.5])])
    assert curves(again.metrics, "certificates") == {"certified-l2": [0.5]}
    assert "certified-l2@0.6" not in again.rows  # nothing of a claim that was refuted stays


def test_what_fell_at_a_smaller_epsilon_before_falls_now_though_nothing_confirms_it(
    linear: nn.Module, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    before(linear, tiny_dataset, tmp_path)
    run = RunFolder(tmp_path)
    first = extend(linear, tiny_dataset, tmp_path, [Certificate(norm=2, epsilons=[0.3])])
    assert first.rows["certified-l2@0.3"].all()
    rows = pd.read_csv(run.examples)
    rows.loc[3, "pgd-20-margin-l2@0.3"] = 0  # as another machine's rounding might have it
    rows.to_csv(run.examples, index=False)
    result = extend(linear, tiny_dataset, tmp_path, [Certificate(norm=2, epsilons=[0.2, 0.4])])
    assert result.rows.loc[3, "pgd-20-margin-l2@0.4"] == 0
    assert result.rows.loc[3, "pgd-20-margin-l2@0.2"] == 1
    assert list(result.rows.loc[3, ["certified-l2@0.2", "certified-l2@0.3", "certified-l2@0.4"]]) == [1, 0, 0]
    assert any("1 example proven" in warning for warning in result.metrics["warnings"])


def test_former_radii_must_agree_with_what_is_certified_now(
    linear: nn.Module, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    before(linear, tiny_dataset, tmp_path)
    run = RunFolder(tmp_path)
    extend(linear, tiny_dataset, tmp_path, [Certificate(norm=2, epsilons=[0.1], radius=True)])
    rows = pd.read_csv(run.examples)
    rows.loc[7, "radius-l2"] = 0.15
    rows.to_csv(run.examples, index=False)
    with pytest.raises(CertificateError, match=r"smaller certified radius \(index 7\)"):
        extend(linear, tiny_dataset, tmp_path, [Certificate(norm=2, epsilons=[0.3])])


def test_an_interruption_loses_nothing(linear: nn.Module, tiny_dataset: Dataset, tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        assert total == 45
        if done == 20:
            raise KeyboardInterrupt

    before(linear, tiny_dataset, tmp_path)
    first = extend(linear, tiny_dataset, tmp_path, [Certificate(norm=2, epsilons=[0.6])])
    certificates = [Certificate(norm=2, epsilons=[0.3, 0.6])]
    with pytest.raises(KeyboardInterrupt):
        extend(linear, tiny_dataset, tmp_path, certificates, batch_size=10, on_batch=stop)
    rows = pd.read_csv(RunFolder(tmp_path).examples)
    pd.testing.assert_frame_equal(rows[list(first.rows)], first.rows, check_dtype=False)
    assert rows["certified-l2@0.3"].notna().sum() == 20
    assert (rows["certified-l2@0.3"].dropna().isin([0, 1])).all()
    result = extend(linear, tiny_dataset, tmp_path, certificates)
    assert not result.rows.isna().any().any()


def test_rows_of_other_examples_or_of_another_model_are_refused(
    linear: nn.Module, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    before(linear, tiny_dataset, tmp_path)
    run = RunFolder(tmp_path)
    certificates = [Certificate(norm=2, epsilons=[0.6])]
    other = Dataset(
        tiny_dataset.info,
        tiny_dataset.train,
        tiny_dataset.validation,
        tiny_dataset.test.subset(list(range(44, -1, -1))),
    )
    with pytest.raises(RunFolderError, match=r"other examples.*withstand evaluate"):
        extend(linear, other, tmp_path, certificates)
    with torch.no_grad():
        linear[1].weight.neg_()  # type: ignore[index]
    text = run.examples.read_text()
    with pytest.raises(RunFolderError, match=r"another model.*withstand evaluate"):
        extend(linear, tiny_dataset, tmp_path, certificates)
    assert run.examples.read_text() == text
