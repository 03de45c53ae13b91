"""Accuracy under noise against training time."""

from __future__ import annotations

from dataclasses import replace

from withstand.reporting.differences import labels
from withstand.reporting.noise_cost import noise_cost_figure
from withstand.reporting.seeds import Group, Mean, NoiseOfGroup


def _group(label: str, seconds: float | None, accuracy: float, **values: object) -> Group:
    share = Mean(accuracy, accuracy, accuracy, [accuracy])
    noise = NoiseOfGroup(scale="to 0.5", mean=[accuracy], area=[accuracy], accuracy={0.0: share})
    return Group(
        label=label,
        values=values,
        num_seeds=1,
        clean=share,
        attacked={},
        certified={},
        train_seconds=seconds,
        noise=noise,
    )


def test_each_group_is_a_dot_and_families_are_lines() -> None:
    groups = [
        _group("plain", 10.0, 0.9),
        _group("copies-5", 60.0, 0.95, **{"objective.num_copies": 5}),
        _group("copies-20", 210.0, 0.96, **{"objective.num_copies": 20}),
    ]
    figure = noise_cost_figure(groups)
    assert figure is not None
    found = {(x, y) for trace in figure.plot["data"] for x, y in zip(trace["x"], trace["y"], strict=True)}
    assert found == {(10.0, 0.9), (60.0, 0.95), (210.0, 0.96)}
    assert any(len(trace["x"]) == 2 for trace in figure.plot["data"])
    assert "A line joins" in figure.caption


def test_there_is_none_where_nothing_can_be_compared() -> None:
    one, other = _group("one", 10.0, 0.9), _group("other", 20.0, 0.8)
    assert noise_cost_figure([one]) is None
    assert noise_cost_figure([one, replace(other, train_seconds=None)]) is None
    assert noise_cost_figure([one, replace(other, noise=None)]) is None
    assert other.noise is not None
    elsewhere = replace(other, noise=replace(other.noise, scale="to 1"))
    assert noise_cost_figure([one, elsewhere]) is None


def test_labels_leave_out_what_a_class_implies() -> None:
    plain = {"objective": "CrossEntropy"}
    first = {"objective": "GaussianExpectation", "objective.weight": 1.0, "objective.propagation": "First"}
    every = {**first, "objective.propagation": "Every"}
    assert labels([None, None, None], [plain, first, every]) == [
        "objective=CrossEntropy",
        "objective=GaussianExpectation, propagation=First",
        "objective=GaussianExpectation, propagation=Every",
    ]
