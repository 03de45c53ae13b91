"""Defences that take the gradient away are reported, and break nothing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

from withstand.attacks.adapters import connected
from withstand.data import Dataset
from withstand.evaluation import evaluate
from withstand.evaluation.meters import Suite
from withstand.results.measurements import ATTACKED


class Cut(nn.Module):
    """The brightest column wins; no gradient leads to the image."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.weight = nn.Parameter(torch.tensor(10.0))

    @override
    def forward(self, images: Tensor) -> Tensor:
        if self.how == "none":
            return self.weight * images.mean(dim=(1, 2))[:, :3]
        with torch.set_grad_enabled(self.how == "detach" and torch.is_grad_enabled()):
            return self.weight * images.detach().mean(dim=(1, 2))[:, :3]


@pytest.mark.parametrize("how", ["detach", "no_grad"])
def test_connected_model_without_a_gradient_fails_its_checks(how: str, tiny_dataset: Dataset) -> None:
    result = evaluate(Cut(how), tiny_dataset, [Suite("fast", [0.1])], num_examples=20)
    failed = {check.name for check in result.results.checks if check.passed is False}
    assert {"vanishing-gradients", "large-epsilon"} <= failed
    assert result.table.loc[result.table.measure == ATTACKED, "value"].item() > 0.9


def test_connected_leaves_answers_and_a_gradient_alone() -> None:
    images = torch.rand(2, 1, 4, 4)
    for how in ("detach", "no_grad"):
        model = Cut(how).eval()
        flat = connected(model, images)
        assert torch.equal(flat(images), model(images))
        assert not flat.training
        leaf = images.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(flat(leaf).sum(), leaf)
        assert not gradient.any()
    whole = Cut("none")
    assert connected(whole, images) is whole
