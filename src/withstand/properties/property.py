"""Properties of networks: boxes of inputs, and what outputs must not be there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from withstand.certificates.goals import Goal
from withstand.core.norms import as_norm
from withstand.core.setting_rules import AT_LEAST_0, Whole, flag
from withstand.types import DataError


class Case(NamedTuple):
    """A box of inputs, and what is to be proven of the outputs there.

    Attributes:
        lower: Float64 tensor (inputs,): the least values.
        upper: The largest, nowhere below.
        goal: What is to hold; a counter-example has all rows of some group at most 0,
        strict: Bool tensor (rows,): and below 0 where this is true.
    """

    lower: Tensor
    upper: Tensor
    goal: Goal
    strict: Tensor

    def is_broken_by(self, inputs: Tensor, outputs: Tensor) -> bool:
        """Whether an input and what a network gives of it are a counter-example.

        Args:
            inputs: Float64 tensor (inputs,).
            outputs: Float64 tensor (outputs,).
        """
        if not bool(((inputs >= self.lower) & (inputs <= self.upper)).all()):
            return False
        rows = self.goal.rows(outputs[None])[0]
        # A row of NaN is below nothing.
        fails = ~torch.where(self.strict, rows < 0, rows <= 0)
        misses = torch.zeros(self.goal.num_groups, dtype=torch.int64).index_add(
            0, self.goal.groups, fails.long()
        )
        return bool((misses == 0).any())


@dataclass(frozen=True, eq=False)
class Property:
    """What is to be proven of a network: the goal of each of some boxes of inputs.

    Attributes:
        cases: The boxes with their goals; of none there is nothing to prove.
        num_inputs: Values of one input, flattened.
        num_outputs: Values of one output, flattened.
        input_shape: Of one input, where it is known.
        name: Such as its file's.
    """

    cases: Sequence[Case]
    num_inputs: int
    num_outputs: int
    input_shape: tuple[int, ...] | None = None
    name: str = ""

    def is_broken_by(self, inputs: Tensor, outputs: Tensor) -> bool:
        """Whether an input and what a network gives of it are a counter-example.

        Args:
            inputs: Tensor of ``num_inputs`` values, in whatever shape.
            outputs: Tensor of ``num_outputs`` values.
        """
        point, answer = inputs.detach().double().flatten(), outputs.detach().double().flatten()
        return any(case.is_broken_by(point, answer) for case in self.cases)

    @property
    def is_of_order(self) -> bool:
        """Whether only the order of the outputs counts: each row is the difference of two of them."""
        goals = [case.goal for case in self.cases]
        return all(
            not bool(goal.bias.any())
            and bool(((goal.weight != 0).sum(dim=1) == 2).all())
            and bool((goal.weight.sum(dim=1) == 0).all())
            for goal in goals
        )

    def __repr__(self) -> str:
        groups = sum(case.goal.num_groups for case in self.cases)
        boxes = "1 box" if len(self.cases) == 1 else f"{len(self.cases)} boxes"
        about = f"{self.num_inputs} inputs in {boxes}, {self.num_outputs} outputs, {groups} ways to break it"
        return f"Property({f'{self.name}: ' if self.name else ''}{about})"


def robustness(
    image: Tensor,
    label: int,
    *,
    epsilon: float,
    num_classes: int,
    norm: float | str = "linf",
    clip: bool = True,
) -> Property:
    """That an image keeps its label: within epsilon of it no other logit is as large as that of the label.

    Args:
        image: Float tensor, one example without a batch dimension.
        label: Its class.
        epsilon: At least 0, in the units of the image.
        num_classes: Logits of the network.
        norm: Of the ball: inf, since a property's inputs are boxes.
        clip: Whether only images in [0, 1] count.

    Raises:
        ValueError: the norm is another, or a number is out of its range.
        DataError: the image is not one.
    """
    if as_norm(norm) != math.inf:
        raise ValueError(
            f"A property's inputs are boxes, so the norm must be linf, but got {norm!r}. "
            "For the l2 norm use ws.certify."
        )
    reach, classes = AT_LEAST_0("epsilon", epsilon), Whole(least=2)("num_classes", num_classes)
    label = Whole(least=0, most=classes - 1)("label", label)
    if not image.is_floating_point() or not bool(image.isfinite().all()) or not image.numel():
        raise DataError(
            "Expected an image of finite floats, one example without a batch dimension; of bytes, "
            "image.float() / 255."
        )
    flat = image.detach().cpu().double().flatten()
    lower, upper = flat - reach, flat + reach
    if flag("clip", clip):
        if float(flat.min()) < 0 or float(flat.max()) > 1:
            raise DataError("The image is not in [0, 1]. Scale it, or give clip=False for other units.")
        lower, upper = lower.clamp_min(0), upper.clamp_max(1)
    others = [index for index in range(classes) if index != label]
    weight = -torch.eye(classes, dtype=torch.float64)[others]
    weight[:, label] = 1
    count = len(others)
    goal = Goal(weight, torch.zeros(count, dtype=torch.float64), torch.arange(count))
    case = Case(lower, upper, goal, torch.zeros(count, dtype=torch.bool))
    return Property([case], flat.numel(), classes, tuple(image.shape))
