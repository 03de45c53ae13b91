"""Verifies a property of a network: proven by bounds, or refuted by a counter-example that was run."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from typing_extensions import override

from withstand.certificates.goals import Goal, Proof
from withstand.certificates.many_boxes import bounds_of_many
from withstand.certificates.proving import prove
from withstand.core.contract import outside_inference_mode
from withstand.core.float64_copy import float64_copy, require_independence
from withstand.core.made import made_of
from withstand.core.modes import eval_mode
from withstand.core.numerics import numerics, without_autocast
from withstand.core.outputs import taken_out
from withstand.graph.program_cache import sharing_programs
from withstand.properties.originals import Original, original_module, representable
from withstand.properties.property import Case, Property
from withstand.properties.verdicts import Counterexample, Result, Verdict
from withstand.properties.vnnlib_text import parse_vnnlib, read_vnnlib
from withstand.types import ModelError

_MANY = 4  # boxes
_LEAST_SHARE = 0.05  # seconds that a box is worth another try


def as_property(given: Property | Path | str) -> Property:
    """A property, or the one that a text in VNN-LIB or a file of it states.

    Raises:
        DataError: it cannot be read.
    """
    if isinstance(given, Property):
        return given
    is_text = isinstance(given, str) and "(" in given and "declare" in given
    return parse_vnnlib(str(given)) if is_text else read_vnnlib(given)


@outside_inference_mode()
def verify_module(
    model: nn.Module,
    stated: Property,
    *,
    deadline: float,
    original: Original | None = None,
    input_shape: Sequence[int] | None = None,
) -> Verdict:
    """Whether a property holds of a network; ``ws.verify`` is this of whatever names one.

    Args:
        model: The network; it stays as it was.
        stated: The property.
        deadline: When to stop, in seconds of ``time.monotonic``.
        original: What counter-examples are held against; the network itself where None.
        input_shape: Of one input; known by itself of most networks.

    Raises:
        ModelError: the numbers of inputs or outputs are others than the property's, the network is no
            function of one input, or it computes something else than its graph.
        UnsupportedOperationError: there is no rule for an operation of it.
    """
    begun = time.monotonic()
    with without_autocast(), numerics("fp32"), sharing_programs():
        shape = _shape_of(model, stated, input_shape)
        exact = _Flat(float64_copy(model))
        checked = _Checked(exact, original or original_module(model), shape)
        checked.require_fit(stated)
        proofs = _prove_all(exact, stated.cases, checked, deadline)
    bound = min((proof.bound for proof in proofs), default=math.inf)
    splits = sum(proof.num_splits for proof in proofs)
    result = _result(proofs)
    if result == "timeout" and checked.doubt:  # which more time seldom settles
        result = "unknown"
    reason = checked.doubt if result == "unknown" else ""
    counterexample = checked.counterexample if result == "sat" else None
    return Verdict(result, counterexample, time.monotonic() - begun, bound, splits, reason)


def _result(proofs: Sequence[Proof]) -> Result:
    verdicts = {proof.verdict for proof in proofs}
    if "refuted" in verdicts:
        return "sat"
    if "timeout" in verdicts:
        return "timeout"
    return "unknown" if "unknown" in verdicts else "unsat"


def _prove_all(model: nn.Module, cases: Sequence[Case], checked: _Checked, deadline: float) -> list[Proof]:
    """A proof of each case, until one is refuted.

    Each has its share of the time that is left; those that need more have it when all have had theirs.
    """
    proofs = {
        index: Proof("proven" if bound > 0 else "timeout", bound)
        for index, bound in enumerate(_bounded(model, cases, checked, deadline))
    }
    waiting = [index for index, proof in proofs.items() if proof.verdict == "timeout"]
    while waiting:
        for rank, index in enumerate(list(waiting)):
            case, now = cases[index], time.monotonic()
            share = now + max(0.0, deadline - now) / (len(waiting) - rank)
            proof = prove(
                model,
                checked.shaped(case.lower),
                checked.shaped(case.upper),
                checked.goal_of(case),
                deadline=share,
                confirm=checked.confirm_in(case),
            )
            proofs[index] = proof._replace(bound=max(proof.bound, proofs[index].bound))
            if proof.verdict == "refuted":
                return list(proofs.values())
        waiting = [index for index in waiting if proofs[index].verdict == "timeout"]
        if (deadline - time.monotonic()) / max(1, len(waiting)) < _LEAST_SHARE:
            break
    return list(proofs.values())


def _bounded(model: nn.Module, cases: Sequence[Case], checked: _Checked, deadline: float) -> list[float]:
    """Bounds of all cases at once, where there are many; none where there are few."""
    if len(cases) < _MANY:
        return [-math.inf] * len(cases)
    lower = torch.stack([checked.shaped(case.lower) for case in cases])
    upper = torch.stack([checked.shaped(case.upper) for case in cases])
    return bounds_of_many(model, lower, upper, list(map(checked.goal_of, cases)), deadline=deadline)


class _Flat(nn.Module):
    """A network whose outputs are flattened, (batch, outputs)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    @override
    def forward(self, inputs: Tensor) -> Tensor:
        """The outputs of inputs (batch, *shape)."""
        outputs = taken_out(self.network(inputs))
        if outputs.dim() == 2:
            return outputs
        return outputs[:, None] if outputs.dim() == 1 else outputs.flatten(1)


@dataclass(eq=False)
class _Checked:
    """Holds what an attack finds against the model as it was given, and against its float64 copy.

    Attributes:
        exact: The float64 copy.
        original: The model as it was given.
        shape: Of one input.
        counterexample: The counter-example that both agree on.
        doubt: What to say where they did not agree on one.
    """

    exact: nn.Module
    original: Original
    shape: tuple[int, ...]
    counterexample: Counterexample | None = field(default=None, init=False)
    doubt: str = field(default="", init=False)

    def shaped(self, values: Tensor) -> Tensor:
        """Values (inputs,) as an input (*shape) where the float64 copy is."""
        return self.placed(values.reshape(self.shape))

    def goal_of(self, case: Case) -> Goal:
        """The goal of a case where the float64 copy is."""
        return Goal(*(self.placed(part) for part in case.goal))

    def placed(self, values: Tensor) -> Tensor:
        """The same where the float64 copy is."""
        return values.to(next((part.device for part in self.exact.parameters()), values.device))

    def exact_answer(self, values: Tensor) -> Tensor:
        """What the float64 copy gives of values (inputs,): float64 (outputs,)."""
        with torch.no_grad():
            outputs: Tensor = self.exact(self.shaped(values)[None])
        return outputs[0].cpu()

    def require_fit(self, stated: Property) -> None:
        """Accepts a network that is a function of one input, with the property's number of outputs."""
        for case in stated.cases[:1]:
            middle = case.lower / 2 + case.upper / 2
            with torch.no_grad():
                require_independence(self.exact, self.shaped(middle)[None])
            count = len(self.exact_answer(middle))
            if count != stated.num_outputs:
                last = stated.num_outputs - 1
                raise ModelError(
                    f"The property speaks of outputs Y_0 … Y_{last}, but the model gives {count}."
                )

    def confirm_in(self, case: Case) -> Callable[[Tensor], Tensor | None]:
        """What ``certificates.proving`` asks of each point of a case that it takes for a counter-example."""

        def confirm(point: Tensor) -> Tensor | None:
            values = representable(point.cpu().flatten(), case.lower, case.upper, self.original.dtype)
            own, exact = self.original.answer(values.reshape(self.shape)), self.exact_answer(values)
            agreed = [case.is_broken_by(values, outputs) for outputs in (own, exact)]
            if all(agreed):
                self.counterexample = Counterexample(values, own)
                return self.shaped(values)
            if any(agreed):
                precision = str(self.original.dtype).removeprefix("torch.")
                self.doubt = (
                    f"an input is a counter-example in {precision if agreed[0] else 'float64'} and none in "
                    f"{'float64' if agreed[0] else precision}, so rounding decides"
                )
            return None

        return confirm


def _shape_of(model: nn.Module, stated: Property, given: Sequence[int] | None) -> tuple[int, ...]:
    """The shape of one input, as it is given, or else as the model or the property has it.

    Raises:
        ModelError: it is not known, or has another number of values than the property.
    """
    made = made_of(model)
    of_model: tuple[int, ...] | None = made.input_shape if made else getattr(model, "input_shape", None)
    known = next((shape for shape in (given, of_model, stated.input_shape) if shape is not None), None)
    shape = (stated.num_inputs,) if known is None else tuple(known)
    if math.prod(shape) != stated.num_inputs:
        raise ModelError(
            f"The property speaks of {stated.num_inputs} inputs, but the model takes {math.prod(shape)}, of "
            f"shape {shape}."
        )
    if known is None:
        like = next((part for part in model.parameters() if part.is_floating_point()), torch.zeros(1))
        try:
            with torch.no_grad(), eval_mode(model):
                model(torch.zeros(2, *shape).to(like))
        except Exception as error:
            raise ModelError(
                f"The shape of an input is not known, and the model does not take {stated.num_inputs} values "
                "in a row. Say it: input_shape=(1, 28, 28)."
            ) from error
    return shape
