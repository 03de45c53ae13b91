"""``ws.verify``: answers, counter-examples that were re-run, and what cannot be verified."""

from __future__ import annotations

import math
import time
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import withstand as ws
from withstand.certificates.many_boxes import bounds_of_many
from withstand.properties import Property, parse_vnnlib, robustness, to_vnnlib
from withstand.properties.originals import representable
from withstand.types import DataError, ModelError


class Affine(nn.Module):
    """Scaled, moved away and back: by which float32 loses digits."""

    def __init__(self, away: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.eye(2))
        self.away = away

    def forward(self, inputs: Tensor) -> Tensor:
        return nn.functional.linear(inputs, self.weight) + self.away - self.away


class Mixed(nn.Module):
    """Gives an input other outputs where others are beside it."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs - inputs.mean(dim=0)


def stated(*asserted: str, box: str = "0.1 0.3 0.1 0.3") -> Property:
    ends = box.split()
    bounds = [f"(>= X_0 {ends[0]})", f"(<= X_0 {ends[1]})", f"(>= X_1 {ends[2]})", f"(<= X_1 {ends[3]})"]
    names = "".join(f"(declare-const {name} Real)" for name in ("X_0", "X_1", "Y_0", "Y_1"))
    return parse_vnnlib(names + "".join(f"(assert {formula})" for formula in (*bounds, *asserted)))


@pytest.mark.parametrize(
    ("asserted", "result"),
    [
        ("(<= Y_0 0.09)", "unsat"),
        ("(<= Y_0 0.11)", "sat"),
        ("(and (<= Y_0 0.2) (>= Y_1 0.25))", "sat"),
        ("(and (<= Y_0 0.2) (>= Y_0 0.25))", "unknown"),  # no row of the two is above 0 everywhere
        ("(or (and (<= X_0 0.2) (>= Y_0 0.21)) (and (>= X_0 0.2) (<= Y_0 0.19)))", "unsat"),
        ("(or (and (<= X_0 0.2) (>= Y_0 0.21)) (and (>= X_0 0.2) (<= Y_0 0.21)))", "sat"),
        ("(<= X_0 0.0)", "unsat"),  # of no input
    ],
)
def test_answer_is_that_of_arithmetic(asserted: str, result: str) -> None:
    verdict = ws.verify(Affine(), stated(asserted), timeout=30)
    assert verdict.result == result or (result, verdict.result) == ("unknown", "unsat")
    if result == "sat":
        assert verdict.counterexample is not None
        x, y = verdict.counterexample
        assert stated(asserted).is_broken_by(x, y)
        assert torch.equal(Affine()(x.float()[None])[0].double(), y)
        lines = verdict.text.splitlines()
        assert lines[0] == "sat"
        assert lines[1].startswith("((X_0 0.")
        assert lines[-1].endswith("))")
        assert len(lines) == 5
    else:
        assert verdict.text == verdict.result


def test_single_point_that_is_not_proven_is_unknown() -> None:
    point = stated("(< Y_0 0.25)", box="0.25 0.25 0.5 0.5")
    assert ws.verify(Affine(), point, timeout=300).result == "unknown"


def test_counterexample_that_only_float64_sees_is_unknown_with_its_reason() -> None:
    verdict = ws.verify(Affine(away=1e8), stated("(>= Y_0 0.2)"), timeout=3)
    assert verdict.result == "unknown"
    assert "float64 and none in float32" in verdict.reason
    assert ws.verify(Affine(away=1e8).double(), stated("(>= Y_0 0.2)"), timeout=30).result == "sat"


def test_model_stays_as_it_was_and_is_verified_in_eval_mode() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.9)).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    state = torch.get_rng_state()
    assert ws.verify(net, stated("(<= Y_0 -9)"), timeout=30).result == "unsat"
    assert all(part.training for part in net.modules())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)


def test_shape_of_inputs_is_known_said_or_asked_for() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3))
    image = torch.rand(1, 3, 3)
    own = robustness(image, int(net(image[None]).argmax()), epsilon=1e-4, num_classes=3)
    text = to_vnnlib(own)
    assert ws.verify(net, own, timeout=30).result == "unsat"
    assert ws.verify(net, text, timeout=30, input_shape=(1, 3, 3)).result == "unsat"
    with pytest.raises(ModelError, match=r"input_shape=\(1, 28, 28\)"):
        ws.verify(net, text, timeout=30)
    with pytest.raises(ModelError, match="speaks of 9 inputs, but the model takes 8"):
        ws.verify(net, text, timeout=30, input_shape=(1, 2, 4))


def test_time_that_is_up_is_a_timeout_and_kept() -> None:
    begun = time.monotonic()
    verdict = ws.verify(Affine(), stated("(<= Y_0 0.09)"), timeout=1e-6)
    assert (verdict.result, verdict.bound) == ("timeout", -math.inf)
    assert time.monotonic() - begun < 2


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"timeout": 0}, ValueError, "timeout above 0"),
        ({"timeout": "soon"}, ValueError, "timeout"),
        ({"model": nn.Linear(2, 3)}, ModelError, "outputs Y_0 … Y_1, but the model gives 3"),
        ({"model": "no/such/run"}, ModelError, "no/such/run"),
        ({"property": "no/such.vnnlib"}, DataError, "no/such.vnnlib"),
        ({"model": Mixed()}, ModelError, "depend on what else is in the batch"),
    ],
)
def test_what_cannot_be_verified_is_refused(
    changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    given: dict[str, Any] = {"model": Affine(), "property": stated("(<= Y_0 0)"), "timeout": 9} | changes
    with pytest.raises(error, match=message):
        ws.verify(given.pop("model"), given.pop("property"), **given)


def test_point_is_brought_to_a_number_of_the_precision_within_the_box() -> None:
    lower = torch.tensor([0.1, 0.1, 0.3], dtype=torch.float64)
    upper = torch.tensor([0.1, 0.2, 0.4], dtype=torch.float64)
    for point in (lower, upper):
        values = representable(point, lower, upper, torch.float32)
        assert ((values >= lower) & (values <= upper)).all()
        assert values[0] == 0.1  # a side that holds no float32
        assert torch.equal(values[1:].float().double(), values[1:])
    assert torch.equal(representable(lower, lower, upper, torch.float64), lower)


@torch.no_grad()
def test_many_boxes_are_answered_as_each_by_itself() -> None:
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(2, 6), nn.ReLU(), nn.Linear(6, 2)).double()
    ends = [place / 8 for place in range(9)]
    values = net(torch.tensor([[end, 0.5] for end in ends]).double())[:, 0].tolist()
    parts = [
        f"(and (>= X_0 {low}) (<= X_0 {high}) (<= Y_0 {value - gap}))"
        for (low, high), value in zip(pairwise(ends), values[:8], strict=True)
        for gap in (0.1, 1.0)
    ]
    whole = stated(f"(or {' '.join(parts)})", box="0 1 0.45 0.55")
    assert len(whole.cases) == 8
    many = bounds_of_many(
        net,
        torch.stack([case.lower for case in whole.cases]),
        torch.stack([case.upper for case in whole.cases]),
        [case.goal for case in whole.cases],
        deadline=math.inf,
    )
    for case, bound in zip(whole.cases, many, strict=True):
        points = case.lower + torch.rand(500, 2).double() * (case.upper - case.lower)
        assert bound <= float(case.goal.margins(case.goal.rows(net(points))).min())
    results = [ws.verify(net, Property([case], 2, 2), timeout=30).result for case in whole.cases]
    assert ws.verify(net, whole, timeout=30).result == ("sat" if "sat" in results else "unsat")
    safe = [case for case, result in zip(whole.cases, results, strict=True) if result == "unsat"]
    assert len(safe) >= 4
    verdict = ws.verify(net, Property(safe, 2, 2), timeout=30)
    assert (verdict.result, verdict.bound > 0) == ("unsat", True)
    late = bounds_of_many(net, *(torch.rand(1, 2).double(),) * 2, [whole.cases[0].goal], deadline=-1.0)
    assert late == [-math.inf]
