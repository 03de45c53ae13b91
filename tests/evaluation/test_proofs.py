"""Evaluations that certify: what is proven is true, and a wrong proof is caught."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from typing_extensions import override

from withstand.attacks import PGD, Noise
from withstand.certificates import Certification, Certifier
from withstand.certificates.consistency import Outcome
from withstand.core.run_folder import RunFolder
from withstand.data import Dataset
from withstand.evaluation import evaluate
from withstand.evaluation.meters import Attacks, Certificate
from withstand.evaluation.plans import AttackPlan, default_attack, default_plans
from withstand.evaluation.proofs import WITHDRAWN, Prover
from withstand.evaluation.store import BatchStore
from withstand.reporting.table import select
from withstand.results.measurements import ATTACKED, CERTIFIED, LARGEST_RADIUS, ROUNDING
from withstand.results.results import CertificateInfo
from withstand.results.results_file import read_results
from withstand.types import Batch, CertificateError, ModelError

EPSILONS = [0.1, 0.5, 0.6, 1.4]


class Rounded(nn.Module):
    """Correct in exact arithmetic; in float32 nothing is left of the layers, so it always answers class 0."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    @override
    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.layers(images) + 1e10
        return logits - 1e10 + torch.tensor([1e-3, 0.0, 0.0])


class Overflowing(nn.Module):
    """Where a logit is above a limit it overflows in float32, not in float64."""

    def __init__(self, layers: nn.Module, limit: float) -> None:
        super().__init__()
        self.layers, self.limit = layers, limit

    @override
    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.layers(images)
        return logits + (logits - self.limit).relu() * 1e38 * 1e4 * 1e-42


class Boastful(Certifier):
    """Certifies everything."""

    @override
    def certify(
        self, images: Tensor, labels: Tensor, *, norm: float, epsilon: float | Tensor
    ) -> Certification:
        margin = torch.ones(len(images), dtype=torch.float64)
        return Certification(margin, margin > 0, torch.zeros_like(margin), "float32")


class Erratic(Certifier):
    """Certifies the larger epsilons only."""

    @override
    def certify(
        self, images: Tensor, labels: Tensor, *, norm: float, epsilon: float | Tensor
    ) -> Certification:
        margin = torch.full((len(images),), float(epsilon) - 0.05, dtype=torch.float64)
        return Certification(margin, margin > 0, torch.zeros_like(margin), "float32")


class Overreaching(Certifier):
    """Certified radii three times too large; all else is correct."""

    @override
    def radius(self, images: Tensor, labels: Tensor, *, norm: float, tolerance: float = 1e-3) -> Tensor:
        return 3 * super().radius(images, labels, norm=norm, tolerance=tolerance)


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Callable[[type[Certifier]], None]:
    """Puts another certifier in the place of the correct one."""
    return lambda certifier: monkeypatch.setattr("withstand.evaluation.proofs.Certifier", certifier)


def true_radii(dataset: Dataset) -> NDArray[np.float64]:
    """How far each stripe may be moved in l2: its lead over the distance of two rows of the weight."""
    columns = (dataset.test.images.double() / 255)[:, 0].sum(dim=1)[:, :3]
    labels = dataset.test.labels[:, None]
    others = columns.scatter(1, labels, -math.inf).amax(dim=1)
    radii: NDArray[np.float64] = ((columns.gather(1, labels).squeeze(1) - others) / math.sqrt(8)).numpy()
    return radii


def test_evaluate_certifies_a_linear_model_exactly_where_its_margin_ends(
    linear: nn.Module, tiny_dataset: Dataset
) -> None:
    certificate = Certificate(2, EPSILONS, radius=True, clip=False)
    result = evaluate(linear, tiny_dataset, [certificate], batch_size=7)
    true = true_radii(tiny_dataset)
    radii = result.rows["radius-unclipped-l2"]
    assert (radii <= true + 1e-9).all()
    assert radii.to_numpy() == pytest.approx(true, rel=2e-3)
    for epsilon in EPSILONS:
        certified = result.rows[f"certified-unclipped-l2@{epsilon}"].to_numpy().astype(bool)
        assert (certified == (true > epsilon)).all()
        assert (certified == (radii >= epsilon)).all()
    (proven,) = result.results.certificates
    curve = select(result.table, CERTIFIED, by=proven.name, norm="2")
    assert (proven.norm, proven.method, proven.description) == ("2", "best", certificate.describe())
    assert list(curve.level) == EPSILONS
    assert list(curve.correct) == [int((true > epsilon).sum()) for epsilon in EPSILONS]
    assert 0 < curve.correct.iloc[2] < 45
    assert select(result.table, LARGEST_RADIUS, by=proven.name).value.item() == radii.max()
    assert result.results.warnings == []


def test_default_plans_attack_what_is_certified_and_not_attacked(
    linear: nn.Module, tiny_dataset: Dataset
) -> None:
    certificates = [Certificate(norm=2, epsilons=[0.5, 0.6]), Certificate(norm=math.inf, epsilons=[0.1])]
    result = evaluate(linear, tiny_dataset, [Attacks([PGD(norm=2)], [0.5]), *certificates])
    attacked = select(result.table, ATTACKED)
    assert list(zip(attacked.by, attacked.level, strict=True)) == [
        ("pgd-10-l2", 0.5),
        ("pgd-20-margin-l2", 0.6),
        ("pgd-20-margin-linf", 0.1),
    ]
    for certified, by_attack in (
        ("certified-l2@0.5", "pgd-10-l2@0.5"),
        ("certified-l2@0.6", "pgd-20-margin-l2@0.6"),
        ("certified-linf@0.1", "pgd-20-margin-linf@0.1"),
    ):
        assert (result.rows[certified] <= result.rows[by_attack]).all()
        assert result.rows[certified].sum() > 0


def test_default_plans_do_not_count_noise_as_an_attack() -> None:
    proofs = Certificate(2, [0.0, 0.5]).certificate_plans()
    taken = [AttackPlan(attack, [0.5], attack.name) for attack in (Noise(norm=2), PGD())]
    (plan,) = default_plans(proofs, taken)
    assert (plan.norm, list(plan.epsilons)) == (2.0, [0.5])
    alike = default_attack(2.0)
    (other,) = default_plans(proofs, [AttackPlan(alike, [0.3], alike.name)])
    assert other.name != alike.name


def test_certificates_do_not_change_attacks(linear: nn.Module, tiny_dataset: Dataset) -> None:
    attacks = Attacks([PGD(norm=2, num_steps=3)], [0.9])
    plain = evaluate(linear, tiny_dataset, [attacks], batch_size=45).rows
    both = evaluate(linear, tiny_dataset, [attacks, Certificate(math.inf, [0.9])], batch_size=45).rows
    pd.testing.assert_frame_equal(plain, both[list(plain)])


def test_false_certificate_stops_the_evaluation_after_its_rows_are_written(
    linear: nn.Module, tiny_dataset: Dataset, tmp_path: Path, use: Callable[[type[Certifier]], None]
) -> None:
    use(Boastful)
    meters = [Attacks([PGD(norm=2, num_steps=20)], [0.9, 1.4]), Certificate(2, [0.9, 1.4])]
    with pytest.raises(CertificateError, match=r"certified-l2 at epsilon 1\.4: \d+ rows are") as error:
        evaluate(linear, tiny_dataset, meters, batch_size=20, out=tmp_path)
    rows = pd.read_csv(RunFolder(tmp_path).examples)
    assert len(rows) == 20
    broken = rows["index"][(rows["pgd-20-l2@0.9"] == 0) & (rows["certified-l2@1.4"] == 1)]
    listed = ", ".join(str(index) for index in broken[:10])
    assert len(broken) > 0
    assert f"(index {listed}" in str(error.value)
    assert str(RunFolder(tmp_path).examples) in str(error.value)
    assert not RunFolder(tmp_path).metrics.exists()


def test_false_certificate_is_caught_by_the_default_attack(
    linear: nn.Module, tiny_dataset: Dataset, use: Callable[[type[Certifier]], None]
) -> None:
    use(Boastful)
    with pytest.raises(CertificateError, match=r"broken by pgd-20-margin-linf within epsilon 0\.3, in fl"):
        evaluate(linear, tiny_dataset, [Certificate(math.inf, [0.3])])


def test_certificate_of_a_wrong_prediction_is_caught(
    linear: nn.Module, tiny_dataset: Dataset, use: Callable[[type[Certifier]], None]
) -> None:
    use(Boastful)
    with torch.no_grad():
        linear[1].weight.neg_()  # type: ignore[index]
    with pytest.raises(CertificateError, match="wrong without any attack"):
        evaluate(linear, tiny_dataset, [Certificate(2, [0.1])])


def test_certificates_that_contradict_themselves_are_caught(
    linear: nn.Module, tiny_dataset: Dataset, use: Callable[[type[Certifier]], None]
) -> None:
    use(Erratic)
    with pytest.raises(CertificateError, match=r"at epsilon 0\.01: 45 rows are not certified there, but"):
        evaluate(linear, tiny_dataset, [Certificate(2, [0.01, 0.1], method="box_ball")])


def test_certificate_that_may_tighten_as_epsilon_grows_proves_smaller_ones(
    linear: nn.Module,
    tiny_dataset: Dataset,
    use: Callable[[type[Certifier]], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use(Erratic)
    monkeypatch.setattr(Prover, "require_known_answers", lambda *_: None)  # of which it knows nothing
    rows = evaluate(linear, tiny_dataset, [Certificate(math.inf, [0.01, 0.06])]).rows
    assert rows["certified-linf@0.06"].all()
    assert rows["certified-linf@0.01"].all()


def test_prover_needs_one_confirmed_attack_for_a_violation(linear: nn.Module, tiny_dataset: Dataset) -> None:
    batch = Batch(tiny_dataset.test.images[:2].float() / 255, tiny_dataset.test.labels[:2])
    (plan,) = Certificate(2, [1.4]).certificate_plans()
    broken = [Outcome(name, 2.0, 1.4, np.array([False, True])) for name in ("by rounding", "truly")]
    adversarial = default_attack(2.0).at(1.4)(linear, batch.images, batch.labels)

    def evidence(outcome: Outcome, rows: Tensor) -> Tensor:
        return (adversarial if outcome.attack == "truly" else batch.images)[rows]

    store = BatchStore(None)
    result, (violation,) = Prover(plan, Boastful(linear)).prove(batch, broken, evidence, (), store)
    assert list(violation.rows) == [0]
    assert result.counts[WITHDRAWN].tolist() == [0]
    assert result.columns["certified-l2@1.4"].tolist() == [1, 1]  # as certified, for all to see


def test_radius_that_an_attack_refutes_is_caught(
    linear: nn.Module, tiny_dataset: Dataset, use: Callable[[type[Certifier]], None]
) -> None:
    use(Overreaching)
    meters = [Attacks([PGD(norm=2, num_steps=20)], [1.2]), Certificate(2, [0.01], radius=True)]
    with pytest.raises(CertificateError, match=r"certified but broken by pgd-20-l2 within epsilon 1\.2"):
        evaluate(linear, tiny_dataset, meters)


def test_example_that_rounding_alone_refutes_counts_as_not_certified(
    linear: nn.Module, tiny_dataset: Dataset
) -> None:
    result = evaluate(Rounded(linear), tiny_dataset, [Certificate(2, [0.1, 0.3], radius=True)])
    rows = result.rows
    is_zero = rows["label"] == 0
    assert (rows["clean"] == is_zero).all()
    assert (rows["certified-l2@0.1"] == is_zero).all()
    assert (rows["radius-l2"] > 0).equals(is_zero)
    (warning,) = [warning for warning in result.results.warnings if "Rounding" in warning]
    assert "30 examples" in warning


def test_evaluate_states_in_which_arithmetic_certificates_hold(
    linear: nn.Module, tiny_dataset: Dataset
) -> None:
    result = evaluate(linear, tiny_dataset, [Certificate(2, [0.1, 0.5])])
    (info,) = result.results.certificates
    assert info.precision == "float32"
    assert info.rounding is not None
    assert info.rounding < 1e-5
    assert info.rounding == result.rows["rounding-l2"].max()
    assert info.rounding == select(result.table, ROUNDING, by="certified-l2", norm="2").value.item()
    number = int(result.rows[["certified-l2@0.1", "certified-l2@0.5"]].to_numpy().sum())
    assert "in exact arithmetic, by bounds in float64; the model runs in float32. There" in info.arithmetic
    assert f"by at most {info.rounding:.2g} from those in float64" in info.arithmetic
    assert f"Of {number} certified margins, counted at each epsilon, none is below" in info.arithmetic


def test_evaluate_counts_margins_that_rounding_may_exceed(linear: nn.Module, tiny_dataset: Dataset) -> None:
    result = evaluate(Rounded(linear), tiny_dataset, [Certificate(2, [0.1])])
    number = int(result.rows["certified-l2@0.1"].sum())
    (info,) = result.results.certificates
    assert number > 0
    assert (
        f"Of {number} certified margins, counted at each epsilon, {number} may not hold in" in info.arithmetic
    )


def test_evaluate_of_overflowing_logits_says_of_how_many_images(
    linear: nn.Module, tiny_dataset: Dataset
) -> None:
    largest = linear(tiny_dataset.test.images / 255).detach().amax(dim=1)
    model = Overflowing(linear, float(largest.median()))
    result = evaluate(model, tiny_dataset, [Certificate(2, [0.1])])
    (info,) = result.results.certificates
    number = int(np.isinf(result.rows["rounding-l2"]).sum())
    assert 0 < number < 45
    assert f"Of {number} of 45 images a logit is NaN, or infinite in float32 alone" in info.arithmetic
    assert info.rounding is not None
    assert math.isfinite(info.rounding)


def test_evaluate_extends_a_folder_that_states_no_arithmetic(
    linear: nn.Module, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    first = evaluate(linear, tiny_dataset, [Certificate(2, [0.1])], out=tmp_path)
    run = RunFolder(tmp_path)
    for file in run.evaluation.glob("*.npz"):
        with np.load(file) as held:
            arrays = {name: values for name, values in held.items() if " rounding " not in name}
            assert len(arrays) < len(held)
        np.savez(file, **arrays)
    metrics = json.loads(run.metrics.read_text())
    for key in ("precision", "rounding", "arithmetic"):
        del metrics["certificates"][0][key]
    run.metrics.write_text(json.dumps(metrics))
    stored = read_results(run)
    assert stored is not None
    (info,) = first.results.certificates
    assert stored[0].certificates == [CertificateInfo(info.name, info.norm, info.method, info.description)]
    second = evaluate(linear, tiny_dataset, [Certificate(2, [0.1, 0.5])], out=tmp_path)
    fresh = evaluate(linear, tiny_dataset, [Certificate(2, [0.1, 0.5])])
    assert second.results == fresh.results
    pd.testing.assert_frame_equal(second.rows, fresh.rows)
    pd.testing.assert_frame_equal(second.table, fresh.table)
    again = evaluate(linear, tiny_dataset, [Certificate(2, [0.1])], out=tmp_path)
    assert again.results == first.results


def test_evaluate_refuses_what_cannot_be_bounded_before_anything_is_done(
    tiny_dataset: Dataset, tmp_path: Path
) -> None:
    class Sorted(nn.Module):
        @override
        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(1).cumsum(dim=1)[:, :3]

    RunFolder(tmp_path).metrics.write_text("{}")
    with pytest.raises(ModelError, match="cumsum"):
        evaluate(Sorted(), tiny_dataset, [Certificate(2, [0.1])], out=tmp_path)
    assert RunFolder(tmp_path).metrics.exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"norm": 3.0}, "norms l1, l2 and linf, but got norm 3"),
        ({"method": "cube"}, "box_ball"),
        ({"epsilons": []}, "at least one in epsilons"),
        ({"epsilons": [-0.1]}, "at least 0"),
        ({"epsilons": [math.nan]}, "finite"),
    ],
)
def test_certificate_refuses_settings_out_of_range(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Certificate(**{"norm": 2.0, "epsilons": [0.1], **settings})  # type: ignore[arg-type]


def test_certificates_are_named_by_what_they_are() -> None:
    certificates = [
        Certificate(2, [0.2]),
        Certificate(2, [0.2], method="box_ball"),
        Certificate(2, [0.2], method="box", clip=False),
    ]
    names = [certificate.certificate_name for certificate in certificates]
    assert names == ["certified-l2", "certified-box-ball-l2", "certified-box-unclipped-l2"]
