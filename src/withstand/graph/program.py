"""Takes a domain through a network: one walk over its traced graph, one rule an operation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize

from withstand.core.modes import uncompiled
from withstand.graph.calls import Call
from withstand.graph.domain import Domain, LastLayer, Region
from withstand.graph.point import Point
from withstand.graph.tracing import last_linear, structure, trace
from withstand.operators import GuaranteedNorms, OperatorNorms
from withstand.types import ModelError

_AnyDomain = TypeVar("_AnyDomain", bound=Domain)


def propagate(model: nn.Module, value: _AnyDomain, *, norms: OperatorNorms | None = None) -> _AnyDomain:
    """The image of a set of inputs under a network.

    Modes stay as they are: a BatchNorm in train mode uses the statistics of the set's centers, and
    does not update its own. For many sets of one model make a ``Program``.

    Args:
        model: Any module that ``torch.fx`` can trace; its layers must have rules.
        value: Members are the model's inputs (batch, …).
        norms: Where operator norms come from; guaranteed bounds where None.

    Returns:
        A set of the same domain that holds every output.

    Raises:
        UnsupportedOperationError: there is no rule for an operation.
        ModelError: the model cannot be traced, or computes something else than its trace.
    """
    return Program(model).run(value, norms or GuaranteedNorms())


def unsupported(model: nn.Module, images: Tensor) -> list[str]:
    """All that keeps sets from passing through a network, one message each; none where they can.

    Modes stay as they are: a Dropout in train mode is a fault.

    Args:
        model: Any module.
        images: Some of its inputs, (batch, …).
    """
    try:
        program = Program(model)
    except ModelError as error:
        return [str(error)]
    with torch.no_grad():
        return program.faults(images)


class Program:
    """A network's traced graph, ready to take domains through.

    It reads the model's layers and weights anew at each run; only a change of the graph itself
    needs a new one (see ``fits``). The first run also takes single points through, and compares
    them with what the model makes of them.

    Args:
        model: Any module that ``torch.fx`` can trace.

    Raises:
        ModelError: the model cannot be traced.
    """

    def __init__(self, model: nn.Module) -> None:
        self._structure = structure(model)
        self._trace = trace(model)
        self._spent = self._trace.spent()
        self._is_verified = False

    def fits(self, model: nn.Module) -> bool:
        """Whether the graph is still that of a model: this one, with the same layers, modes and flags."""
        return model is self._trace.root.model and self._structure == structure(model)

    def run(self, value: _AnyDomain, norms: OperatorNorms) -> _AnyDomain:
        """The image of a set under the whole network.

        Raises:
            UnsupportedOperationError: there is no rule for an operation.
            ModelError: the model's output is not one tensor, or it computes something else than its
                trace.
        """
        self.verify_capture(value.center)
        return self._run(value, norms)

    def walk(self, value: Any, result_of: Callable[[Call], Any]) -> Any:
        """Goes through the network operation by operation, and leaves to others what each gives.

        Args:
            value: What stands for the images.
            result_of: From an operation, and what it is called with, to its result.

        Returns:
            What the network returns.
        """
        arguments, _ = self._arguments_of(self._trace.output, value, result_of)
        return arguments[0]

    def verify_capture(self, images: Tensor, reach: Callable[[Tensor], Tensor] | None = None) -> None:
        """Makes sure, once, that the traced steps compute what the model does: single points are compared.

        A graph is what was traced, not the Python that was written: ``x += y`` is traced as a sum,
        and what else reads the changed x is then wrong. Nor can a rule be trusted unseen.

        Args:
            images: Some of its inputs, (batch, …).
            reach: Takes as many inputs through the steps; the rules of all operations where None.

        Raises:
            UnsupportedOperationError: there is no rule for an operation.
            ModelError: the model computes something else than its trace.
        """
        if self._is_verified or not images.numel():
            return
        root = self._trace.root
        noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
        points = images.detach() + noise.to(images)  # some far from any image, where activations differ
        buffers = {name: buffer.clone() for name, buffer in root.named_buffers()}
        with torch.no_grad(), parametrize.cached():
            reached = (reach or self._reach)(points.clone())
            expected = torch.func.functional_call(root, buffers, (points.clone(),))
        _require_same(reached, expected)
        self._is_verified = True

    def require_same(self, images: Tensor) -> Tensor:
        """Makes sure that the traced steps compute what the model does of these very images.

        Args:
            images: Its inputs, (batch, …).

        Returns:
            What the model gives, (batch, …).

        Raises:
            UnsupportedOperationError: there is no rule for an operation.
            ModelError: the model computes something else than its trace.
        """
        expected: Tensor = self._trace.root.model(images.clone())
        _require_same(self._reach(images), expected)
        return expected

    def run_to_last_layer(self, value: Region, norms: OperatorNorms) -> LastLayer:
        """The image of a set before the last linear layer, and that layer.

        A network that ends in something else is given the identity for its last layer.

        Raises:
            UnsupportedOperationError: there is no rule for an operation.
            ModelError: the output is not (batch, classes), or the model computes something else than
                its trace.
        """
        self.verify_capture(value.center)
        node = last_linear(self._trace)
        if node is not None:
            last = self._last_layer(node, value, norms)
            if last is not None:
                return last
        logits = self._run(value, norms)
        if len(logits.shape) != 2:
            raise ModelError(
                f"Expected logits (batch, classes), but the model gives {tuple(logits.shape)}; "
                "flatten or pool before its last layer."
            )
        return LastLayer(logits, torch.eye(logits.shape[1]).to(logits.center), None)

    def faults(self, images: Tensor) -> list[str]:
        """All that keeps sets from passing through, one message each."""
        messages: list[str] = []

        def note(error: ModelError, compute: Callable[[], Any]) -> Any:
            messages.append(str(error))
            return fx.node.map_aggregate(compute(), _point)

        try:
            value = Point(images)
            bounding = partial(_bounded, norms=GuaranteedNorms(), on_fault=note)
            arguments, _ = self._arguments_of(self._trace.output, value, bounding)
            _require_domain(Point, *arguments)
            if not messages:
                self.verify_capture(images)
        except ModelError as error:
            messages.append(str(error))
        return list(dict.fromkeys(messages))

    def _run(self, value: _AnyDomain, norms: OperatorNorms) -> _AnyDomain:
        bounding = partial(_bounded, norms=norms, on_fault=_refuse)
        arguments, _ = self._arguments_of(self._trace.output, value, bounding)
        return _require_domain(type(value), *arguments)

    def _last_layer(self, node: fx.Node, value: Region, norms: OperatorNorms) -> LastLayer | None:
        bounding = partial(_bounded, norms=norms, on_fault=_refuse)
        arguments, options = self._arguments_of(node, value, bounding)
        if node.op == "call_module":
            layer = self._trace.root.get_submodule(str(node.target))
            options = {**options, "weight": layer.weight, "bias": layer.bias}
        return _last_layer_of(*arguments, **options)

    def _reach(self, points: Tensor) -> Tensor:
        return self._run(Point(points), GuaranteedNorms()).center

    def _arguments_of(
        self, stop: fx.Node, value: Any, result_of: Callable[[Call], Any]
    ) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
        """Walks the graph until a node, and gives what that node is called with."""
        values: dict[fx.Node, Any] = {}
        for node in self._trace.graph.nodes:
            arguments = fx.node.map_arg(node.args, values.__getitem__)
            options = fx.node.map_arg(node.kwargs, values.__getitem__)
            if node is stop:
                break
            if node.op == "placeholder":
                values[node] = value
            else:
                values[node] = result_of(Call(self._trace, node, arguments, options))
            for spent in self._spent[node]:
                del values[spent]
        return arguments, options


class ProgramCache:
    """Gives the program of a model; a new one only where the model has changed."""

    def __init__(self) -> None:
        self._program: Program | None = None

    def of(self, model: nn.Module) -> Program:
        """The program of a model, or of what was compiled: of a compiled graph no steps can be seen.

        Raises:
            ModelError: it cannot be traced.
        """
        original = uncompiled(model)
        if self._program is None or not self._program.fits(original):
            self._program = Program(original)
        return self._program

    def __reduce__(self) -> tuple[type[ProgramCache], tuple[()]]:
        # A copy begins anew: the program holds the model, which is not to be copied with an objective.
        return ProgramCache, ()


_OnFault: TypeAlias = Callable[[ModelError, Callable[[], Any]], Any]


def _bounded(call: Call, norms: OperatorNorms, on_fault: _OnFault) -> Any:
    if not call.takes_domain:
        return call.compute()
    try:
        return call.apply_rule(norms)
    except ModelError as error:
        return on_fault(error, call.compute_on_centers)


def _refuse(error: ModelError, compute: Callable[[], Any]) -> Any:
    raise error


def _require_domain(kind: type[_AnyDomain], result: Any) -> _AnyDomain:
    if not isinstance(result, kind):
        raise ModelError(
            "Expected one output that depends on the input, but the model returns a "
            f"{type(result).__name__.removeprefix('immutable_')}; wrap it in a module that returns the "
            "logits alone."
        )
    return result


def _require_same(reached: Tensor, expected: Tensor) -> None:
    """Compares what is finite, each output by its own size; what is not finite is never certified."""
    tolerance = torch.finfo(expected.dtype).eps ** 0.4  # 2e-3 in float32, 5e-7 in float64
    is_same = reached.shape == expected.shape
    if is_same and expected.numel():
        is_finite = reached.isfinite() & expected.isfinite()
        error = torch.where(is_finite, reached - expected, 0).abs().flatten(1)
        largest = torch.where(is_finite, expected, 0).abs().flatten(1).amax(dim=0)
        # A masked class with a logit of -1e9 must not excuse what the others are off by, beyond its rounding.
        rounding = 64 * torch.finfo(expected.dtype).eps * largest.max()
        is_same = bool((error <= tolerance * torch.maximum(largest, largest.median()) + rounding).all())
    if not is_same:
        raise ModelError(
            "The model computes something else than the steps that were traced from it and bounded, so "
            "bounds and moments would be wrong. Likely causes: an operation in place (x += y, x.relu_(), "
            "inplace=True) on a value that is read again, which should be written without; randomness; or "
            "a rule of your own for another function than the layer's."
        )


def _last_layer_of(input: Any, weight: Any, bias: Tensor | None = None) -> LastLayer | None:  # noqa: A002
    """The last layer, where one example is one vector of features and the weight is a constant."""
    if isinstance(input, Region) and len(input.shape) == 2 and isinstance(weight, Tensor):
        return LastLayer(input, weight, bias)
    return None


def _point(value: Any) -> Any:
    return Point(value) if isinstance(value, Tensor) else value
