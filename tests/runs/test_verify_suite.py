"""Answers of verification held against known ones: least values by integer programs, and attacks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

import withstand as ws
from onnx_suite.suite import instances, made, run
from withstand.properties import parse_vnnlib


def _verified(name: str, tmp_path: Path) -> Sequence[tuple[str, str | None, str]]:
    """Property, the right answer where it is known, and what is answered; counter-examples are run again."""
    net, file = made(name), tmp_path / "net.onnx"
    file.write_bytes(net.proto.SerializeToString())
    found = []
    for instance in instances(net, (0.03, 0.12)):
        verdict = ws.verify(file, instance.text, timeout=60)
        if verdict.counterexample is not None:
            inputs = verdict.counterexample.inputs
            outputs = run(net.proto, inputs.float().view(1, *net.shape))
            assert torch.allclose(outputs.double()[0], verdict.counterexample.outputs)
            assert parse_vnnlib(instance.text).is_broken_by(inputs, outputs)
        found.append((instance.name, instance.answer, verdict.result))
    return found


def test_both_answers_of_a_network_whose_least_values_are_known(tmp_path: Path) -> None:
    found = _verified("tiny-21", tmp_path)
    assert {answer for _, answer, _ in found} == {"sat", "unsat"}
    assert [result for _, _, result in found] == [answer for _, answer, _ in found]


@pytest.mark.parametrize(
    ("name", "of_two"),
    [
        ("gemm-9", "unsat"),
        ("channels-last-13", "unsat"),
        ("branches-9", "unsat"),
        ("batch-norm-21", "unsat"),
        ("softmax-13", "sat"),
    ],
)
def test_robustness_of_trained_networks_in_files_of_several_styles(
    name: str, of_two: str, tmp_path: Path
) -> None:
    # Each is far from where it would be hard, and takes less than two seconds.
    assert {name: result for name, _, result in _verified(name, tmp_path)} == {
        "robust-0.03": "unsat",
        "robust-0.12": "sat",
        "two-boxes-0.01": of_two,
    }
