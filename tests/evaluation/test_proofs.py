"""Evaluations that certify: what is proven is right, and a wrong proof is caught."""

from __future__ import annotations

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
from withstand.data import Dataset
from withstand.evaluation import Certificate, evaluate, plan_attacks, plan_certificates
from withstand.evaluation.certificate import default_attack, plan_default_attacks
from withstand.certificates.consistency import Outcome
from withstand.evaluation.proofs import Prover
from withstand.run_folder import RunFolder
from withstand.types import Batch, CertificateError, ModelError

EPSILONS = [0.1, 0.5, 0.6, 1.4]


@pytest.fixture
def linear() -> nn.Module:
    """Knows the stripes: the brightest column wins, and how far it can be moved is known exactly."""
    layer = nn.Linear(16, 3, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(4).repeat(1, 4)[:3])
    return nn.Sequential(nn.Flatten(), layer)


class Rounded(nn.Module):
    """Right in exact arithmetic; in float32 all its logits are the same, so it always says class 0."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    @override
    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.layers(images) + 1e10
        return logits - 1e10


class Boastful(Certifier):
    """Certifies everything."""

    @override
    def certify(
        self, images: Tensor, labels: Tensor, *, norm: float, epsilon: float | Tensor
    ) -> Certification:
        margin = torch.ones(len(images), dtype=torch.float64)
        return Certification(margin, margin > 0)


class Erratic(Certifier):
    """Certifies the larger epsilons only."""

    @override
    def certify(
        self, images: Tensor, labels: Tensor, *, norm: float, epsilon: float | Tensor
    ) -> Certification:
        margin = torch.full((len(images),), float(epsilon) - 0.05, dtype=torch.float64)
        return Certification(margin, margin > 0)


class Overreaching(Certifier):
    """Certified radii three times too large; all else is right."""

    @override
    def radius(self, images: Tensor, labels: Tensor, *, norm: float, tolerance: float = 1e-3) -> Tensor:
        return 3 * super().radius(images, labels, norm=norm, tolerance=tolerance)


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Callable[[type[Certifier]], None]:
    """Puts another certifier in the place of the right one."""
    return lambda certifier: monkeypatch.setattr("withstand.evaluation.proofs.Certifier", certifier)


def exact_radii(dataset: Dataset) -> NDArray[np.float64]:
    """How far each stripe may be moved in l2: its lead over the distance of two rows of the weight."""
    columns = (dataset.test.images.double() / 255)[:, 0].sum(dim=1)[:, :3]
    labels = dataset.test.labels[:, None]
    others = columns.scatter(1, labels, -math.inf).amax(dim=1)
    radii: NDArray[np.float64] = ((columns.gather(1, labels).squeeze(1) - others) / math.sqrt(8)).numpy()
    return radii


def test_a_linear_model_is_certified_exactly_where_its_margin_ends(
    linear: nn.Module, tiny_dataset: Dataset
) -> None:
    certificate = Certificate(norm=2, radius=True, clip=False)
    result = evaluate(linear, tiny_dataset, [], EPSILONS, certificates=[certificate], batch_size=7)
    exact = exact_radii(tiny_dataset)
    radii = result.rows["radius-unclipped-l2"]
    assert (radii <= exact + 1e-9).all()
    assert radii.to_numpy() == pytest.approx(exact, rel=2e-3)
    for epsilon in EPSILONS:
        certified = result.rows[f"certified-unclipped-l2@{epsilon}"].to_numpy().astype(bool)
        assert (certified == (exact > epsilon)).all()
        assert (certified == (radii >= epsilon)).all()
    (summary,) = result.metrics["certificates"]
    assert summary["norm"] == "2"
    assert [point["correct"] for point in summary["curve"]] == [
        int((exact > each).sum()) for each in EPSILONS
    ]
    assert 0 < summary["curve"][2]["correct"] < 45
    assert summary["radius"]["largest"] == radii.max()
    assert result.metrics["warnings"] == []


def test_what_is_certified_is_attacked_where_nothing_else_attacks_it(
    linear: nn.Module, tiny_dataset: Dataset
) -> None:
    certificates = [Certificate(norm=2, epsilons=[0.5, 0.6]), Certificate(norm=math.inf, epsilons=[0.1])]
    result = evaluate(linear, tiny_dataset, [PGD(norm=2)], [0.5], certificates=certificates)
    curves = {
        attack["name"]: [point["epsilon"] for point in attack["curve"]]
        for attack in result.metrics["attacks"]
    }
    assert curves == {
        "pgd-10-l2": [0.5],
        "pgd-20-margin-l2": [0.6],
        "pgd-20-margin-linf": [0.1],
    }
    rows = result.rows
    for certified, attacked in (
        ("certified-l2@0.5", "pgd-10-l2@0.5"),
        ("certified-l2@0.6", "pgd-20-margin-l2@0.6"),
        ("certified-linf@0.1", "pgd-20-margin-linf@0.1"),
    ):
        assert (rows[certified] <= rows[attacked]).all()
        assert rows[certified].sum() > 0


def test_noise_does_not_count_as_an_attack_of_what_is_certified() -> None:
    proofs = plan_certificates([Certificate(norm=2)], [0.0, 0.5])
    (plan,) = plan_default_attacks(proofs, plan_attacks([Noise(norm=2), PGD()], [0.5]))
    assert (plan.norm, list(plan.epsilons)) == (2.0, [0.5])
    alike = default_attack(2.0)
    (other,) = plan_default_attacks(proofs, plan_attacks([alike], [0.3]))
    assert other.name != alike.name


def test_attacks_are_the_same_whether_or_not_certificates_are_asked_for(
    linear: nn.Module, tiny_dataset: Dataset
) -> None:
    attacks = [PGD(norm=2, num_steps=3)]
    plain = evaluate(linear, tiny_dataset, attacks, [0.9], batch_size=45).rows
    both = evaluate(
        linear, tiny_dataset, attacks, [0.9], certificates=[Certificate(norm=math.inf)], batch_size=45
    ).rows
    pd.testing.assert_frame_equal(plain, both[list(plain)])


def test_a_false_certificate_stops_the_evaluation_after_its_rows_are_written(
    linear: nn.Module, tiny_dataset: Dataset, tmp_path: Path, use: Callable[[type[Certifier]], None]
) -> None:
    use(Boastful)
    with pytest.raises(CertificateError, match=r"certified-l2 at epsilon 1\.4: \d+ rows are") as error:
        evaluate(
            linear,
            tiny_dataset,
            [PGD(norm=2, num_steps=20)],
            [0.9, 1.4],
            certificates=[Certificate(norm=2)],
            batch_size=20,
            out=tmp_path,
        )
    rows = pd.read_csv(RunFolder(tmp_path).examples)
    assert len(rows) == 20
    fallen = rows["index"][(rows["pgd-20-l2@0.9"] == 0) & (rows["certified-l2@1.4"] == 1)]
    listed = ", ".join(str(index) for index in fallen[:10])
    assert len(fallen) > 0
    assert f"(index {listed}" in str(error.value)
    assert str(RunFolder(tmp_path).examples) in str(error.value)
    assert not RunFolder(tmp_path).metrics.exists()


def test_a_false_certificate_is_caught_by_the_attack_that_comes_with_it(
    linear: nn.Module, tiny_dataset: Dataset, use: Callable[[type[Certifier]], None]
) -> None:
    use(Boastful)
    with pytest.raises(CertificateError, match=r"fell to pgd-20-margin-linf within epsilon 0\.3, in float64"):
        evaluate(linear, tiny_dataset, [], [], certificates=[Certificate(norm=math.inf, epsilons=[0.3])])


def test_a_certificate_of_a_wrong_prediction_is_caught(
    linear: nn.Module, tiny_dataset: Dataset, use: Callable[[type[Certifier]], None]
) -> None:
    use(Boastful)
    with torch.no_grad():
        linear[1].weight.neg_()  # type: ignore[index]
    with pytest.raises(CertificateError, match="wrong without any attack"):
        evaluate(linear, tiny_dataset, [], [0.1], certificates=[Certificate(norm=2)])


def test_certificates_that_contradict_themselves_are_caught(
    linear: nn.Module, tiny_dataset: Dataset, use: Callable[[type[Certifier]], None]
) -> None:
    use(Erratic)
    with pytest.raises(CertificateError, match=r"at epsilon 0\.01: 45 rows are not certified there, but"):
        evaluate(linear, tiny_dataset, [], [0.01, 0.1], certificates=[Certificate(norm=2)])


def test_a_bound_that_may_tighten_as_epsilon_grows_proves_the_smaller_ones(
    linear: nn.Module,
    tiny_dataset: Dataset,
    use: Callable[[type[Certifier]], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use(Erratic)
    monkeypatch.setattr(Prover, "require_known_answers", lambda *_: None)  # of which it knows nothing
    certificate = Certificate(norm=math.inf, epsilons=[0.01, 0.06])
    rows = evaluate(linear, tiny_dataset, [], [], certificates=[certificate]).rows
    assert rows["certified-linf@0.06"].all()
    assert rows["certified-linf@0.01"].all()


def test_one_confirmed_attack_is_enough_whatever_others_rounding_explains(
    linear: nn.Module, tiny_dataset: Dataset
) -> None:
    batch = Batch(tiny_dataset.test.images[:2].float() / 255, tiny_dataset.test.labels[:2])
    (plan,) = plan_certificates([Certificate(epsilons=[1.4])], [])
    fallen = [Outcome(name, 2.0, 1.4, np.array([False, True])) for name in ("by rounding", "truly")]
    adversarial = default_attack(2.0).at(1.4)(linear, batch.images, batch.labels)

    def evidence(outcome: Outcome, rows: Tensor) -> Tensor:
        return (adversarial if outcome.attack == "truly" else batch.images)[rows]

    proven = Prover(plan, Boastful(linear)).prove(batch, fallen, evidence)
    (violation,) = proven.violations
    assert list(violation.rows) == [0]
    assert proven.num_withdrawn == 0
    assert proven.columns["certified-l2@1.4"].tolist() == [1, 1]  # as claimed, for all to see


def test_a_radius_that_an_attack_refutes_is_caught(
    linear: nn.Module, tiny_dataset: Dataset, use: Callable[[type[Certifier]], None]
) -> None:
    use(Overreaching)
    attacked = [PGD(norm=2, num_steps=20)]
    certificate = Certificate(norm=2, radius=True, epsilons=[0.01])
    with pytest.raises(CertificateError, match=r"certified but fell to pgd-20-l2 within epsilon 1\.2"):
        evaluate(linear, tiny_dataset, attacked, [1.2], certificates=[certificate])


def test_what_rounding_alone_refutes_counts_as_not_certified(
    linear: nn.Module, tiny_dataset: Dataset
) -> None:
    certificate = Certificate(norm=2, radius=True)
    result = evaluate(Rounded(linear), tiny_dataset, [], [0.1, 0.3], certificates=[certificate])
    rows = result.rows
    is_zero = rows["label"] == 0
    assert (rows["clean"] == is_zero).all()
    assert (rows["certified-l2@0.1"] == is_zero).all()
    assert (rows["radius-l2"] > 0).equals(is_zero)
    (warning,) = [each for each in result.metrics["warnings"] if "Rounding" in each]
    assert "30 examples" in warning


def test_what_cannot_be_bounded_is_said_before_anything_is_done(
    tiny_dataset: Dataset, tmp_path: Path
) -> None:
    class Sorted(nn.Module):
        @override
        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(1).cumsum(dim=1)[:, :3]

    RunFolder(tmp_path).metrics.write_text("{}")
    with pytest.raises(ModelError, match="cumsum"):
        evaluate(Sorted(), tiny_dataset, [], [0.1], certificates=[Certificate()], out=tmp_path)
    assert RunFolder(tmp_path).metrics.exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"norm": 1.0}, "norm 2 and inf"),
        ({"method": "cube"}, "box_ball"),
        ({"epsilons": []}, "at least one epsilon"),
        ({"epsilons": [-0.1]}, "at least 0"),
        ({"epsilons": [math.nan]}, "finite"),
    ],
)
def test_settings_are_checked(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Certificate(**settings)  # type: ignore[arg-type]


def test_plans_are_checked() -> None:
    with pytest.raises(ValueError, match="at least one epsilon"):
        plan_certificates([Certificate()], [])
    with pytest.raises(ValueError, match="both certified-l2"):
        plan_certificates([Certificate(epsilons=[0.1]), Certificate(epsilons=[0.2])], [])
    names = [plan.name for plan in plan_certificates([Certificate(), Certificate(method="box_ball")], [0.2])]
    assert names == ["certified-l2", "certified-box-ball-l2"]
