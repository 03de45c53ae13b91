"""More meters on a folder that holds an evaluation: rows stay, and old and new must be consistent."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

import withstand.evaluation.measuring
from withstand.attacks import PGD
from withstand.certificates import Certification, Certifier
from withstand.core.run_folder import RunFolder
from withstand.data import Dataset
from withstand.evaluation import evaluate
from withstand.evaluation.meters import Attacks, Certificate
from withstand.reporting.table import select
from withstand.results import read_results
from withstand.results.measurements import ATTACKED, CERTIFIED, MEDIAN_RADIUS
from withstand.types import CertificateError


@dataclass(frozen=True)
class Counted(PGD):
    """Notes how many images it is run on."""

    asked: ClassVar[deque[int]] = deque()  # a list would count as one of its settings

    @override
    def perturb(
        self, model: nn.Module, images: Tensor, labels: Tensor, *, progress: float = float("inf")
    ) -> Tensor:
        self.asked.append(len(images))
        return super().perturb(model, images, labels, progress=progress)


ATTACKS = Attacks([Counted(norm=2, num_steps=20)], [0.6])


@pytest.fixture(autouse=True)
def asked() -> deque[int]:
    """The images of each call of the attack."""
    Counted.asked.clear()
    return Counted.asked


@pytest.fixture
def boast(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Has every example certified."""

    class Boastful(Certifier):
        @override
        def certify(
            self, images: Tensor, labels: Tensor, *, norm: float, epsilon: float | Tensor
        ) -> Certification:
            margin = torch.ones(len(images), dtype=torch.float64)
            return Certification(margin, margin > 0, torch.zeros_like(margin), "float32")

    return lambda: monkeypatch.setattr("withstand.evaluation.proofs.Certifier", Boastful)


def curves(table: pd.DataFrame, measure: str) -> dict[str, list[float]]:
    return {str(by): list(rows.level) for by, rows in select(table, measure).groupby("by", sort=False)}


def change(folder: Path, row: int, **values: float) -> None:
    """Has the store hold another value of one example, as another machine's rounding might have it.

    Args:
        folder: Of the run.
        row: Index of the example, of a single batch.
        **values: What the name of one array ends with -> the value.
    """
    (file,) = RunFolder(folder).evaluation.glob("*.npz")
    with np.load(file) as held:
        arrays = dict(held)
    for end, value in values.items():
        (name,) = (key for key in arrays if key.endswith(end))
        arrays[name][row] = value
    np.savez(file, **arrays)


def test_joined_rows_are_those_of_one_evaluation(
    linear: nn.Module, tiny_dataset: Dataset, tmp_path: Path, asked: deque[int]
) -> None:
    former = evaluate(linear, tiny_dataset, [ATTACKS], num_examples=30, out=tmp_path)
    certificate = Certificate(norm=2, epsilons=[0.5, 0.6], radius=True)
    asked.clear()
    result = evaluate(linear, tiny_dataset, [ATTACKS, certificate], num_examples=30, out=tmp_path)
    assert list(asked) == [12]  # for the gallery alone
    whole = evaluate(linear, tiny_dataset, [ATTACKS, certificate], num_examples=30)
    pd.testing.assert_frame_equal(result.rows[list(former.rows)], former.rows)
    pd.testing.assert_frame_equal(result.rows, whole.rows)
    pd.testing.assert_frame_equal(result.table, whole.table)
    assert result.results == whole.results
    assert 0 < result.rows["certified-l2@0.6"].sum() < 30
    assert curves(result.table, ATTACKED) == {"pgd-20-l2": [0.6], "pgd-20-margin-l2": [0.5]}
    run = RunFolder(tmp_path)
    stored = read_results(run)
    assert stored is not None
    assert stored[0] == result.results
    pd.testing.assert_frame_equal(pd.read_csv(run.examples), result.rows, check_dtype=False)


def test_joined_certificate_adds_an_epsilon_to_its_curve(
    linear: nn.Module, tiny_dataset: Dataset, tmp_path: Path, asked: deque[int]
) -> None:
    certificates = [Certificate(2, [0.7], radius=True), Certificate(2, [0.3], method="ball")]
    evaluate(linear, tiny_dataset, [ATTACKS, *certificates], out=tmp_path)
    asked.clear()
    result = evaluate(linear, tiny_dataset, [ATTACKS, *certificates, Certificate(2, [0.5])], out=tmp_path)
    assert list(asked) == [12]
    assert curves(result.table, CERTIFIED) == {"certified-l2": [0.5, 0.7], "certified-ball-l2": [0.3]}
    assert curves(result.table, ATTACKED) == {"pgd-20-l2": [0.6], "pgd-20-margin-l2": [0.3, 0.5, 0.7]}
    assert select(result.table, MEDIAN_RADIUS).by.item() == "certified-l2"
    rows = result.rows
    assert (rows["pgd-20-margin-l2@0.7"] <= rows["pgd-20-margin-l2@0.5"]).all()
    for epsilon in (0.5, 0.7):
        assert (rows[f"certified-l2@{epsilon}"] == (rows["radius-l2"] >= epsilon)).all()


@pytest.mark.parametrize("batch_size", [20, 45])
def test_joined_certificate_is_refuted_by_a_former_attack_run_again(
    linear: nn.Module,
    tiny_dataset: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    boast: Callable[[], None],
    asked: deque[int],
    batch_size: int,
) -> None:
    former = evaluate(linear, tiny_dataset, [ATTACKS], out=tmp_path, batch_size=batch_size)
    boast()
    asked.clear()
    with pytest.raises(CertificateError, match=r"broken by pgd-20-l2 within epsilon 0\.6, in float64"):
        evaluate(linear, tiny_dataset, [ATTACKS, Certificate(2, [0.6])], out=tmp_path, batch_size=batch_size)
    assert list(asked) == [batch_size]
    run = RunFolder(tmp_path)
    rows = pd.read_csv(run.examples)
    assert rows["certified-l2@0.6"].notna().sum() == len(rows) == batch_size
    pd.testing.assert_frame_equal(rows[list(former.rows)], former.rows.iloc[:batch_size], check_dtype=False)
    assert not run.metrics.exists()  # nor are the former figures to be trusted
    assert not run.measurements.exists()
    monkeypatch.undo()  # what was left unfinished is done anew
    asked.clear()
    again = evaluate(
        linear, tiny_dataset, [ATTACKS, Certificate(2, [0.5])], out=tmp_path, batch_size=batch_size
    )
    assert list(asked) == [12]
    assert curves(again.table, CERTIFIED) == {"certified-l2": [0.5]}
    assert "certified-l2@0.6" not in again.rows  # nothing of a certificate that was refuted stays
    pd.testing.assert_frame_equal(again.rows[list(former.rows)], former.rows)


def test_joined_attack_breaks_what_a_smaller_epsilon_broke(
    linear: nn.Module, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    first = evaluate(linear, tiny_dataset, [Certificate(2, [0.3])], out=tmp_path)
    assert first.rows["certified-l2@0.3"].all()
    broken = dict.fromkeys(["\tcolumns\tpgd-20-margin-l2@0.3", "\tstate\tchoosing", "\tstate\treported"], 0)
    change(tmp_path, 3, **broken)
    result = evaluate(linear, tiny_dataset, [Certificate(2, [0.2, 0.3, 0.4])], out=tmp_path)
    rows, epsilons = result.rows, ("0.2", "0.3", "0.4")
    assert list(rows.loc[3, [f"pgd-20-margin-l2@{epsilon}" for epsilon in epsilons]]) == [1, 0, 0]
    assert list(rows.loc[3, [f"certified-l2@{epsilon}" for epsilon in epsilons]]) == [1, 0, 0]
    again = evaluate(linear, tiny_dataset, [Certificate(2, [0.2, 0.3, 0.4])], out=tmp_path)
    for evaluation in (result, again):
        assert any("1 example proven by certified-l2" in warning for warning in evaluation.results.warnings)
    pd.testing.assert_frame_equal(again.rows, rows)


def test_joined_certificate_must_agree_with_former_radii(
    linear: nn.Module, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    certificate = Certificate(2, [0.1], method="box_ball", radius=True)
    evaluate(linear, tiny_dataset, [certificate], out=tmp_path)
    change(tmp_path, 7, **{"\tcolumns\tradius-box-ball-l2": 0.15})
    larger = replace(certificate, epsilons=[0.3], radius=False)
    with pytest.raises(CertificateError, match=r"smaller certified radius \(index 7\)"):
        evaluate(linear, tiny_dataset, [certificate, larger], out=tmp_path)


def test_interruption_loses_nothing(
    linear: nn.Module, tiny_dataset: Dataset, tmp_path: Path, asked: deque[int]
) -> None:
    def stop(done: int, total: int) -> None:
        assert total == 45
        if done == 20:
            raise KeyboardInterrupt

    run, meters = RunFolder(tmp_path), [ATTACKS, Certificate(2, [0.6])]
    evaluate(linear, tiny_dataset, meters, batch_size=10, out=tmp_path)
    before = {file: file.read_bytes() for file in (run.examples, run.measurements, run.metrics)}
    asked.clear()
    more = [ATTACKS, Certificate(2, [0.3, 0.6])]
    with pytest.raises(KeyboardInterrupt):
        evaluate(linear, tiny_dataset, more, batch_size=10, out=tmp_path, on_batch=stop)
    assert {file: file.read_bytes() for file in before} == before
    result = evaluate(linear, tiny_dataset, more, batch_size=10, out=tmp_path)
    assert list(asked) == [12]
    assert curves(result.table, CERTIFIED) == {"certified-l2": [0.3, 0.6]}
    assert not result.rows.isna().any().any()


@pytest.mark.parametrize("what", ["examples", "model"])
def test_joined_rows_take_nothing_of_other_examples_or_another_model(
    linear: nn.Module, tiny_dataset: Dataset, tmp_path: Path, what: str, asked: deque[int]
) -> None:
    meters = [ATTACKS, Certificate(2, [0.5])]
    evaluate(linear, tiny_dataset, [ATTACKS], out=tmp_path)
    if what == "model":
        with torch.no_grad():
            linear[1].weight.mul_(0.9)  # type: ignore[index]
    else:
        test = tiny_dataset.test.subset(list(range(44, -1, -1)))
        tiny_dataset = replace(tiny_dataset, test=test)
    asked.clear()
    result = evaluate(linear, tiny_dataset, meters, out=tmp_path)
    assert len(asked) == 2  # run anew, and for the gallery
    fresh = evaluate(linear, tiny_dataset, meters)
    pd.testing.assert_frame_equal(result.rows, fresh.rows)
    pd.testing.assert_frame_equal(result.table, fresh.table)


def test_interruption_while_images_are_saved_leaves_all_files_as_they_were(
    tiny_model: nn.Module, tiny_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    attack = PGD(num_steps=2)
    evaluate(tiny_model, tiny_dataset, [Attacks([attack], [0.1])], out=tmp_path)
    run = RunFolder(tmp_path)
    files = (run.examples, run.measurements, run.metrics, run.gallery)
    before = [file.read_bytes() for file in files]
    monkeypatch.setattr(withstand.evaluation.measuring, "save_gallery", stop)
    with pytest.raises(KeyboardInterrupt):
        evaluate(tiny_model, tiny_dataset, [Attacks([attack], [0.1, 0.2])], out=tmp_path)
    assert [file.read_bytes() for file in files] == before
