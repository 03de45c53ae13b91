"""Evaluation: what its figures mean, example by example."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta
from torch import Tensor, nn
from typing_extensions import override

from withstand.attacks import PGD, Attack, Noise, margin
from withstand.core.run_folder import RunFolder
from withstand.core.writing import percent
from withstand.data import Dataset
from withstand.evaluation import Meter, Predictor, evaluate
from withstand.evaluation.meter import Gathered, Needs, PartResult, Summary
from withstand.evaluation.meters import Attacks, Certificate, NoiseCurve, Suite
from withstand.evaluation.plans import AttackPlan, merged_attacks, merged_certificates
from withstand.reporting.table import select
from withstand.results import read_results
from withstand.results.measurements import ATTACKED, CERTIFIED, CLEAN, NOISE_ACCURACY
from withstand.results.shares import share
from withstand.types import AttackError, Batch, ModelError

EPSILONS = [0.3, 0.05, 0.1, 0.0, 0.5]


class Thresholds(nn.Module):
    """Knows the stripes: the brightest column wins. Robust up to half the column's lead."""

    @override
    def forward(self, images: Tensor) -> Tensor:
        return 10 * images.mean(dim=(1, 2))[:, :3]


class Quantised(nn.Module):
    """The same behind a rounding of its input, which leaves no gradient: masked, not robust."""

    @override
    def forward(self, images: Tensor) -> Tensor:
        return 10 * (images * 8).round().div(8).mean(dim=(1, 2))[:, :3]


@dataclass(frozen=True)
class Cheat(Attack):
    """Leaves its ball, and [0, 1] where asked to."""

    shift: float = 0.0

    @override
    def perturb(
        self, model: nn.Module, images: Tensor, labels: Tensor, *, progress: float = math.inf
    ) -> Tensor:
        return images + self.shift

    @property
    @override
    def name(self) -> str:
        return "cheat"


def test_evaluate_rows_obey_the_order_of_difficulty(tiny_dataset: Dataset) -> None:
    attacks = [PGD(num_steps=5), PGD(norm=2, num_steps=5), Noise()]
    result = evaluate(Thresholds(), tiny_dataset, [Attacks(attacks, EPSILONS)], batch_size=7)
    rows = result.rows
    assert list(rows["index"]) == list(range(45))
    for attack in attacks:
        columns = ["clean", *(f"{attack.name}@{e:.6g}" for e in sorted(EPSILONS))]
        for easier, harder in itertools.pairwise(columns):
            assert (rows[harder] <= rows[easier]).all()
    assert (rows["pgd-5-linf@0"] == rows["clean"]).all()
    worst = rows[["pgd-5-linf@0.3", "noise-1-linf@0.3"]].min(axis=1)
    assert (rows["worst-linf@0.3"] == worst).all()  # PGD in l2 has a ball of another kind
    assert result.results.attacks[-1].name == "worst-linf"
    assert rows["clean"].mean() == 1.0
    # A column's lead is at most 220 / 255, so that 0.5 breaks all, and noise of 0.05 none.
    assert rows["pgd-5-linf@0.5"].mean() == 0.0
    assert rows["noise-1-linf@0.05"].mean() == 1.0


def test_evaluate_breaks_a_linear_model_exactly_where_its_margin_ends(tiny_dataset: Dataset) -> None:
    # The best an attack can do in linf and [0, 1]: darken the true column, brighten another.
    epsilon = 0.22
    columns = (tiny_dataset.test.images.float() / 255)[:, 0, :, :3]
    darkest = (columns - epsilon).clamp(min=0).mean(dim=1)
    brightest = (columns + epsilon).clamp(max=1).mean(dim=1)
    labels = tiny_dataset.test.labels[:, None]
    lead = darkest.gather(1, labels) - brightest.scatter(1, labels, -1.0)[:, :].amax(dim=1, keepdim=True)
    can_withstand = (lead.squeeze(1) > 0).numpy()
    attacks = Attacks([PGD(num_steps=50, num_restarts=3, loss=margin)], [epsilon])
    rows = evaluate(Thresholds(), tiny_dataset, [attacks]).rows
    robust = rows[f"pgd-50-margin-linf@{epsilon}"].to_numpy().astype(bool)
    assert 0 < can_withstand.sum() < len(can_withstand)
    assert (robust == can_withstand).all()


def test_evaluate_writes_rows_as_it_goes_and_the_rest_at_the_end(
    tiny_dataset: Dataset, tmp_path: Path
) -> None:
    out = RunFolder(tmp_path).create()
    seen: list[int] = []

    def on_batch(done: int, total: int) -> None:
        seen.append(done)
        assert not out.examples.exists()  # rows are shown when they are whole
        assert total == 20

    result = evaluate(
        Thresholds(),
        tiny_dataset,
        [Attacks([PGD()], [0.1])],
        num_examples=20,
        batch_size=8,
        out=tmp_path,
        on_batch=on_batch,
    )
    assert seen == sorted(seen)
    assert {8, 16, 20} <= set(seen)
    pd.testing.assert_frame_equal(pd.read_csv(out.examples), result.rows, check_dtype=False)
    stored = read_results(out)
    assert stored is not None
    assert stored[0] == result.results
    pd.testing.assert_frame_equal(stored[1], result.table)
    assert select(result.table, CLEAN).total.item() == result.results.num_examples == 20
    assert (result.results.attacks[0].norm, select(result.table, ATTACKED).norm.item()) == ("inf", "inf")
    gallery = np.load(out.gallery, allow_pickle=False)
    assert gallery["clean"].shape == (12, 4, 4, 1)
    difference = gallery["adversarial"].astype(int) - gallery["clean"].astype(int)
    assert 0 < abs(difference).max() <= round(0.1 * 255) + 1


def test_evaluate_repeats_its_rows_with_the_seed_whatever_the_random_state(tiny_dataset: Dataset) -> None:
    torch.manual_seed(1)
    first = evaluate(Thresholds(), tiny_dataset, [Attacks([Noise()], [0.4])]).rows
    state = torch.get_rng_state()
    second = evaluate(Thresholds(), tiny_dataset, [Attacks([Noise()], [0.4])]).rows
    pd.testing.assert_frame_equal(first, second)
    assert torch.equal(state, torch.get_rng_state())


def test_evaluate_warns_of_masked_gradients(tiny_dataset: Dataset) -> None:
    attacks = Attacks([PGD(num_steps=5, random_start=False)], EPSILONS)
    masked = evaluate(Quantised(), tiny_dataset, [attacks]).results
    assert any("Masked gradients" in warning for warning in masked.warnings)
    assert any(
        "withstand pgd-5-linf at linf 0.5, where every image" in warning for warning in masked.warnings
    )
    attacks = Attacks([PGD(num_steps=5)], EPSILONS)
    assert evaluate(Thresholds(), tiny_dataset, [attacks]).results.warnings == []


def test_evaluate_warns_of_a_constant_answer(tiny_dataset: Dataset) -> None:
    layer = nn.Linear(16, 3)
    nn.init.zeros_(layer.weight)
    constant = nn.Sequential(nn.Flatten(), layer)
    warnings = evaluate(constant, tiny_dataset, [Attacks([PGD(num_steps=2)], [0.1])]).results.warnings
    assert "Constant answer" in warnings[0]
    assert "the margin has no gradient" in warnings[1]
    assert len(warnings) == 2


@pytest.mark.parametrize("shift", [0.2, -0.05])
def test_evaluate_stops_an_attack_that_leaves_its_set(tiny_dataset: Dataset, shift: float) -> None:
    with pytest.raises(AttackError, match=r"cheat at epsilon 0.1 returned images"):
        evaluate(Thresholds(), tiny_dataset, [Attacks([Cheat(shift=shift)], [0.1])])


def test_evaluate_refuses_a_model_of_the_wrong_width(tiny_dataset: Dataset) -> None:
    with pytest.raises(ModelError):
        evaluate(nn.Sequential(nn.Flatten(), nn.Linear(16, 5)), tiny_dataset)


@pytest.mark.parametrize(
    ("epsilons", "message"),
    [([], "at least one in"), ([-0.1], "at least 0"), ([math.inf], "finite")],
)
def test_attacks_meter_refuses_epsilons_out_of_range(epsilons: Sequence[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Attacks([PGD()], epsilons)  # type: ignore[arg-type]


@pytest.mark.parametrize("sizes", [{"num_examples": 0}, {"num_examples": -3}, {"batch_size": 0}])
def test_evaluate_refuses_sizes_out_of_range(tiny_dataset: Dataset, sizes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        evaluate(Thresholds(), tiny_dataset, **sizes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("attacks", "message"),
    [
        ([], "at least one in attacks"),
        (["pgd"], r"such as PGD\(num_steps=20\), .*'pgd'"),
        ([None], "but got None"),
        ([PGD], r"the class itself: write PGD\("),
        (PGD(), "attacks as a list"),
    ],
)
def test_attacks_meter_refuses_what_is_no_attack(attacks: list[Attack], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        Attacks(attacks, [0.1])


def test_merged_attacks_of_the_same_name_get_different_names() -> None:
    attacks = [PGD(), PGD(num_restarts=2), PGD(norm=2), PGD(num_restarts=3)]
    merged = merged_attacks([AttackPlan(attack, [0.1], attack.name) for attack in attacks])
    assert [plan.name for plan in merged] == ["pgd-10-linf", "pgd-10-linf-2", "pgd-10-l2", "pgd-10-linf-3"]


def test_merged_attacks_run_an_attack_once_at_all_budgets() -> None:
    plans = [
        AttackPlan(PGD(epsilon=0.2), [0.3, 0.1], "pgd"),
        AttackPlan(Noise(), [0.2], "noise"),
        AttackPlan(PGD(epsilon=0.7), [0.2, 0.1], "pgd"),
    ]
    merged = merged_attacks(plans)
    assert [(plan.name, list(plan.epsilons)) for plan in merged] == [
        ("pgd", [0.1, 0.2, 0.3]),
        ("noise", [0.2]),
    ]
    assert merged_attacks(merged) == merged
    assert merged_attacks([]) == []


def test_merged_certificates_prove_a_certificate_once_at_all_budgets() -> None:
    certificates = [
        Certificate(2, [0.3, 0.1]),
        Certificate(2, [0.3], method="ball"),
        Certificate(math.inf, [0.1]),
        Certificate(2, [0.2, 0.3], radius=True),
    ]
    merged = merged_certificates(
        plan for certificate in certificates for plan in certificate.certificate_plans()
    )
    assert [(plan.name, list(plan.epsilons), plan.radius) for plan in merged] == [
        ("certified-l2", [0.1, 0.2, 0.3], True),
        ("certified-ball-l2", [0.3], False),
        ("certified-linf", [0.1], False),
    ]
    assert merged_certificates(merged) == merged


@given(st.integers(1, 400), st.data())
def test_share_has_the_clopper_pearson_interval(total: int, data: st.DataObject) -> None:
    correct = data.draw(st.integers(0, total))
    result = share([1] * correct + [0] * (total - correct))
    assert (result.value, result.correct, result.total) == (correct / total, correct, total)
    lower = beta.ppf(0.025, correct, total - correct + 1) if correct else 0.0
    upper = beta.ppf(0.975, correct + 1, total - correct) if correct < total else 1.0
    assert result.lower == pytest.approx(lower, abs=1e-9)
    assert result.upper == pytest.approx(upper, abs=1e-9)


def test_evaluate_table_counts_the_columns(tiny_dataset: Dataset) -> None:
    evaluation = evaluate(Thresholds(), tiny_dataset, [Attacks([PGD(), Noise()], [0.2, 0.3])])
    assert select(evaluation.table, CLEAN).correct.item() == evaluation.rows["clean"].sum()
    attacked = select(evaluation.table, ATTACKED)
    assert len(attacked) == 6
    for row in attacked.itertuples():
        assert row.correct == evaluation.rows[f"{row.by}@{row.level:g}"].sum()
    assert attacked.correct.nunique() > 2


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ([PGD()], r"got the attack pgd-\d+-linf: write meters\.Attacks"),
        (["Suite"], r"Expected meters, such as .*, but got 'Suite'"),
        ([NoiseCurve], "but got <class"),
        (NoiseCurve(), r"one meter: write \[NoiseCurve"),
    ],
)
def test_evaluate_refuses_what_is_no_list_of_meters(
    tiny_model: nn.Module, tiny_dataset: Dataset, wrong: Any, message: str
) -> None:
    with pytest.raises(TypeError, match=message):
        evaluate(tiny_model, tiny_dataset, wrong)


def test_evaluate_takes_any_iterable_of_meters(tiny_model: nn.Module, tiny_dataset: Dataset) -> None:
    listed, drawn = (
        evaluate(tiny_model, tiny_dataset, meters)
        for meters in ([Suite("fast", [0.1])], iter([Suite("fast", [0.1])]))
    )
    pd.testing.assert_frame_equal(listed.table, drawn.table)


@pytest.mark.parametrize("epsilons", [0.1, "8/255", None, ["much"], [None], [[0.1]]])
def test_attacks_meter_refuses_epsilons_that_are_no_list_of_numbers(epsilons: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"Expected .*epsilons as a (list|number)"):
        Suite("fast", epsilons)


@pytest.mark.parametrize("epsilons", [["8/255", "0.5"], iter([8 / 255, 0.5]), np.array([8 / 255, 0.5])])
def test_meters_read_epsilons_and_norms_alike(epsilons: Any) -> None:
    suite = Suite("fast", epsilons, norms=["l2", "linf"])  # type: ignore[list-item]
    assert suite.epsilons == [8 / 255, 0.5]
    assert suite.norms == [2.0, math.inf]


@pytest.mark.parametrize(("norm", "epsilon"), [(math.inf, 8.0), (2.0, 4.1)])
def test_evaluate_says_that_a_budget_is_beyond_the_range(
    tiny_model: nn.Module, tiny_dataset: Dataset, norm: float, epsilon: float
) -> None:
    with pytest.warns(UserWarning, match="lets an attack turn"):
        result = evaluate(tiny_model, tiny_dataset, [Attacks([PGD(norm, num_steps=1)], [epsilon])])
    assert any(f"did you mean {epsilon:g}/255?" in warning for warning in result.results.warnings)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"device": "gpu"}, "no device 'gpu'; did you mean 'cuda'"),
        ({"device": "cuda:99"}, "has no device 'cuda:99'"),
        ({"num_examples": 1.5}, "whole number as num_examples"),
        ({"batch_size": None}, "batch_size of an evaluation as a whole number"),
        ({"sampling": {"num_samples": 3}}, "sampling to be a Sampling"),
        ({"seed": "first"}, "seed as a whole number"),
    ],
)
def test_evaluate_refuses_arguments_of_the_wrong_kind(
    tiny_model: nn.Module, tiny_dataset: Dataset, wrong: dict[str, Any], message: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        evaluate(tiny_model, tiny_dataset, **wrong)


def test_evaluate_measures_the_last_of_two_meters_with_one_name_and_logs_it(
    tiny_model: nn.Module, tiny_dataset: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    few, more = NoiseCurve(num_levels=2), NoiseCurve(num_levels=4)
    evaluation = evaluate(tiny_model, tiny_dataset, [few, more])
    assert len(select(evaluation.table, NOISE_ACCURACY, by="clipped")) == 4
    assert "Of 2 meters named noise the last alone is measured" in caplog.text


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("clean", 0.0, r"has a column 'clean', which there is already"),
        ("mine", None, r"'mine' of shape \(3,\)"),
    ],
)
def test_evaluate_refuses_columns_of_a_meter_that_do_not_fit(
    tiny_model: nn.Module, tiny_dataset: Dataset, column: str, values: float | None, message: str
) -> None:
    @dataclass(frozen=True)
    class Mine(Meter):
        name = "mine"

        @override
        def score(self, predictor: Predictor, batch: Batch, prediction: Tensor, *, seed: int) -> PartResult:
            return PartResult({column: np.zeros(3 if values is None else len(prediction))})

        @override
        def summary(self, gathered: Gathered) -> Summary:
            return Summary()

    with pytest.raises(ValueError, match=message):
        evaluate(tiny_model, tiny_dataset, [Mine()])


def test_evaluation_is_written_as_a_line_of_its_accuracies(
    tiny_model: nn.Module, tiny_dataset: Dataset
) -> None:
    meters = [Attacks([PGD(num_steps=1)], [8 / 255]), Certificate(2, [0.1])]
    evaluation = evaluate(tiny_model, tiny_dataset, meters)
    clean, attacked, certified = (
        percent(select(evaluation.table, measure, by=by).value.iloc[0])
        for measure, by in ((CLEAN, ""), (ATTACKED, "pgd-1-linf"), (CERTIFIED, "certified-l2"))
    )
    text = repr(evaluation)
    assert text.startswith(f"<Evaluation: clean {clean}, pgd-1-linf at 8/255 {attacked}, ")
    assert f"certified-l2 at 0.1 {certified}; {len(evaluation.table)} figures in table>" in text
    assert "\n" not in text


def test_evaluate_takes_weights_of_another_type_than_the_images(tiny_dataset: Dataset) -> None:
    model = nn.Sequential(nn.Flatten(), nn.LazyLinear(3))
    model(tiny_dataset.test.images[:1].float())
    expected = evaluate(model, tiny_dataset).rows
    rows = evaluate(model.double(), tiny_dataset).rows
    pd.testing.assert_frame_equal(rows, expected, check_dtype=False, rtol=1e-5)


def test_evaluate_runs_a_meter_again_once_its_columns_fit(
    tiny_model: nn.Module, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    lengths = [3, 45]  # of 45 examples

    @dataclass(frozen=True)
    class Mine(Meter):
        name = "mine"

        @override
        def score(self, predictor: Predictor, batch: Batch, prediction: Tensor, *, seed: int) -> PartResult:
            return PartResult({"mine": np.ones(lengths.pop(0))})

        @override
        def summary(self, gathered: Gathered) -> Summary:
            return Summary()

    with pytest.raises(ValueError, match="of shape"):
        evaluate(tiny_model, tiny_dataset, [Mine()], out=tmp_path)
    evaluation = evaluate(tiny_model, tiny_dataset, [Mine()], out=tmp_path)
    assert (evaluation.rows["mine"] == 1).all()


def test_evaluate_refuses_states_of_attacked_images_of_another_length(
    tiny_model: nn.Module, tiny_dataset: Dataset
) -> None:
    @dataclass(frozen=True)
    class Mine(Meter):
        name = "mine"
        needs = Needs(attacked_images=True)

        @override
        def score_attacked(self, predictor: Predictor, images: Tensor, labels: Tensor) -> dict[str, Any]:
            return {"mine": np.ones(3)}

        @override
        def summary(self, gathered: Gathered) -> Summary:
            return Summary()

    with pytest.raises(ValueError, match=r"The meter mine has a column 'mine' of shape \(3,\)"):
        evaluate(tiny_model, tiny_dataset, [Attacks([PGD(num_steps=1)], [0.1]), Mine()])
