"""What is answered of a property: the verdict, and the counter-example that shows it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, TypeAlias, get_args

from torch import Tensor
from typing_extensions import override

Result: TypeAlias = Literal["unsat", "sat", "unknown", "timeout"]
RESULTS: Final[tuple[Result, ...]] = get_args(Result)


class Counterexample(NamedTuple):
    """An input that breaks a property, and what the model gives of it.

    Attributes:
        inputs: Float64 tensor (inputs,), within its box.
        outputs: Float64 tensor (outputs,), as the model itself gives them in its own precision.
    """

    inputs: Tensor
    outputs: Tensor

    @override
    def __str__(self) -> str:
        """As the competitions write it, ``((X_0 0.5) … (Y_0 1.5))``, a value a line."""
        values = [(f"X_{index}", value) for index, value in enumerate(self.inputs.tolist())]
        values += [(f"Y_{index}", value) for index, value in enumerate(self.outputs.tolist())]
        return "(" + "\n ".join(f"({name} {value!r})" for name, value in values) + ")"


@dataclass(frozen=True, eq=False)
class Verdict:
    """The answer to whether a property holds of a model.

    Attributes:
        result: ``"unsat"``: no counter-example exists, the property is proven; ``"sat"``: there is one;
            ``"unknown"``: all ways were tried, or rounding decides; ``"timeout"``: time was up.
        counterexample: Where the result is sat.
        seconds: That it took.
        bound: A lower bound of the margin by which the property holds, the least of all boxes; above 0 where
            it is proven, minus infinity where there is none.
        num_splits: How often a box or the network over it was taken apart.
        reason: Why it is unknown, where there is more to say.
    """

    result: Result
    counterexample: Counterexample | None = None
    seconds: float = 0.0
    bound: float = -math.inf
    num_splits: int = 0
    reason: str = ""

    @property
    def text(self) -> str:
        """As the competitions write it: the result, and below it the counter-example."""
        return self.result if self.counterexample is None else f"{self.result}\n{self.counterexample}"

    @override
    def __repr__(self) -> str:
        bound = f", bound {self.bound:.4g}" if math.isfinite(self.bound) else ""
        splits = f", {self.num_splits} splits" if self.num_splits else ""
        reason = f": {self.reason}" if self.reason else ""
        return f"Verdict({self.result} after {self.seconds:.2f} s{bound}{splits}{reason})"
