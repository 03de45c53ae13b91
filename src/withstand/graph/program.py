"""Takes a domain through a network: one walk over its graph, one rule an operator."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeAlias, TypeVar

import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize

from withstand.core.batch_shares import alone
from withstand.core.wrappers import unwrapped
from withstand.graph.affine import Tail, find_tail, track
from withstand.graph.calls import Call, Constants, needed, steps_of, walk
from withstand.graph.capture import attribute, capture
from withstand.graph.capture_surroundings import unchanged
from withstand.graph.domain import Domain, LastLayer, Region
from withstand.graph.joins import Join, find_joins
from withstand.graph.layout import layout_of
from withstand.graph.point import Point
from withstand.graph.structure import structure
from withstand.graph.verification import require_same
from withstand.operators import GuaranteedNorms, OperatorNorms
from withstand.types import ModelError

_AnyDomain = TypeVar("_AnyDomain", bound=Domain)
_RUNS_PER_CHECK = 100  # of a training, whose model may change in ways that nobody foresaw


def propagate(model: nn.Module, value: _AnyDomain, *, norms: OperatorNorms | None = None) -> _AnyDomain:
    """The image of a set of inputs under a network.

    Modes stay as they are: a BatchNorm in train mode uses the statistics of the set's centers, and
    does not update its own. For many sets of one model make a ``Program``.

    Args:
        model: Any module that ``torch.export`` can capture; its operators must have rules.
        value: Members are the model's inputs (batch, …).
        norms: Where operator norms come from; guaranteed bounds where None.

    Returns:
        A set of the same domain that holds every output.

    Raises:
        UnsupportedOperationError: there is no rule for an operation.
        ModelError: the model cannot be captured, or computes something else than its graph.
    """
    return Program(model, value.center).run(value, norms or GuaranteedNorms())


def unsupported(model: nn.Module, images: Tensor) -> list[str]:
    """All that keeps sets from passing through a network, one message each; none where they can.

    Modes stay as they are: a Dropout in train mode is a fault.

    Args:
        model: Any module.
        images: Some of its inputs, (batch, …).
    """
    try:
        program = Program(model, images)
    except ModelError as error:
        return [str(error)]
    with torch.no_grad():
        return program.faults(images)


class Program:
    """A network's graph, ready to take domains through.

    It reads the model's weights, buffers and plain tensors anew at each run; only a change of the graph
    itself needs a new one (see ``fits``). The first run also takes single points through, and compares
    them with what the model makes of them.

    Args:
        model: Any module that ``torch.export`` can capture.
        images: Some of its inputs (batch, …), of which the shape of an example, device and dtype count.

    Raises:
        ModelError: the model cannot be captured.
    """

    def __init__(self, model: nn.Module, images: Tensor) -> None:
        self.model = unwrapped(model)  # of a compiled graph no steps can be seen
        self._capture = capture(self.model, images)
        self._structure = structure(self.model, self._capture.written)
        self._form = _form_of(images)
        # Of a loss beside the logits, say, nothing is asked.
        self._steps = needed(steps_of(self._capture), [*self._outputs, *self._capture.updates.values()])
        self._affinity: Affinity | None = None
        self._num_runs = 0
        self._is_tail_verified = False

    def fits(self, model: nn.Module, images: Tensor) -> bool:
        """Whether the graph is that of a model as it now is, and of such images."""
        return (
            unwrapped(model) is self.model
            and self._form == _form_of(images)
            and self._structure == structure(self.model, self._capture.written)
        )

    def run(self, value: _AnyDomain, norms: OperatorNorms) -> _AnyDomain:
        """The image of a set under the whole network.

        Raises:
            UnsupportedOperationError: there is no rule for an operation.
            ModelError: the model's output is not one tensor, or it computes something else than its graph.
        """
        self.verify_capture(value.center)
        return self._run(value, norms)

    def walk(self, value: Any, result_of: Callable[[Call], Any]) -> Any:
        """Goes through the network operation by operation, and leaves to others what each gives.

        Buffers that the network updates in training mode are updated, by what the walk has for them.

        Args:
            value: What stands for the images.
            result_of: From an operation, and what it is called with, to its result.

        Returns:
            What the network returns.
        """
        self._require_gradients()
        constants = Constants(self._capture, self.model)
        updates = self._capture.updates
        keep = [*updates.values(), *self._outputs]
        values = walk(self._steps, constants, {self._capture.images: value}, result_of, keep=keep)
        for path, node in updates.items():
            update = values[node] if node in values else constants.of(node, batch=1)
            if isinstance(update, Tensor):
                attribute(self.model, path).copy_(update.detach())
        returned = tuple(
            values[node] if node in values else constants.of(node, batch=1) for node in self._outputs
        )
        return returned[0] if self._capture.returns == "tensor" and returned else returned

    def verify_capture(self, images: Tensor, reach: Callable[[Tensor], Tensor] | None = None) -> None:
        """Makes sure that the graph computes what the model does: at first, and every so many runs again.

        The key of a graph holds all that is known to steer a forward; what else may, globals say, shows here
        within some steps. Nor can a rule be trusted unseen.

        Args:
            images: Some of its inputs, (batch, …).
            reach: Takes as many inputs through the steps; the rules of all operations where None.

        Raises:
            UnsupportedOperationError: there is no rule for an operation.
            ModelError: the model computes something else than its graph.
        """
        is_due = self._num_runs % _RUNS_PER_CHECK == 0
        self._num_runs += 1
        if not images.numel() or not is_due:
            return
        points = images.detach()
        if self._num_runs == 1:  # some far from any image, where activations differ
            noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
            points = torch.cat([points, points + noise.to(images)])
        buffers = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        with alone(), torch.no_grad(), parametrize.cached():
            reached = (reach or self._reach)(points.clone())
            with unchanged(self.model):
                expected = torch.func.functional_call(self.model, buffers, (points.clone(),))
        require_same(reached, expected)

    def require_same(self, images: Tensor) -> Tensor:
        """Makes sure that the graph computes what the model does of these very images.

        Args:
            images: Its inputs, (batch, …).

        Returns:
            What the model gives, (batch, …).

        Raises:
            UnsupportedOperationError: there is no rule for an operation.
            ModelError: the model computes something else than its graph.
        """
        expected: Tensor = self.model(images.clone())
        require_same(self._reach(images), expected)
        return expected

    def run_to_last_layer(self, value: Region, norms: OperatorNorms) -> LastLayer:
        """The image of a set before all that is affine at the network's end, and that as one layer.

        Args:
            value: A set of inputs.
            norms: Where operator norms come from.

        Raises:
            UnsupportedOperationError: there is no rule for an operation.
            ModelError: the output is not (batch, classes), or the model computes something else than its
                graph.
        """
        self.verify_capture(value.center)
        output = self._output
        layout = layout_of(output.meta["val"])
        if len(layout.sizes) != 2:
            raise ModelError(
                f"Expected logits (batch, classes), but the model gives {('batch', *layout.sizes[1:])}; "
                "flatten or pool before its last layer."
            )
        constants = Constants(self._capture, self.model)
        self._require_same_tail(value.center.detach())
        tail = self._affinity_of(value.center).tail
        return tail.folded(constants, self._reached(tail.source, value, constants, norms))

    def faults(self, images: Tensor) -> list[str]:
        """All that keeps sets from passing through, one message each."""
        messages: list[str] = []

        def note(error: ModelError, call: Call) -> Any:
            layouts = call.step.outputs
            if None in call.values.values() or any(layout.batch is None for layout in layouts):
                raise error  # nothing stands for what it gives
            messages.append(str(error))
            result = call.compute_on_centers()
            if isinstance(result, list | tuple):
                return [Point(layout.stored_of(part)) for part, layout in zip(result, layouts, strict=True)]
            return Point(layouts[0].stored_of(result))

        try:
            bounding = partial(_bounded, norms=GuaranteedNorms(), on_fault=note)
            constants = Constants(self._capture, self.model)
            walk(self._steps, constants, {self._capture.images: Point(images)}, bounding)
            if self._output and not messages:
                self.verify_capture(images)
        except ModelError as error:
            messages.append(str(error))
        return list(dict.fromkeys(messages))

    @property
    def _outputs(self) -> list[fx.Node]:
        return [node for node in self._capture.outputs if isinstance(node, fx.Node)]

    @property
    def _output(self) -> fx.Node:
        if self._capture.returns != "tensor" or not self._outputs:
            raise _not_one_output(self._capture.returns)
        output = self._outputs[0]
        layout = layout_of(output.meta["val"])
        known = {self._capture.images, *(step.node for step in self._steps)}
        if output not in known or not layout.is_plain:
            raise ModelError(
                f"Expected an output (batch, …), one row an image, but for one image the model gives "
                f"{layout.sizes}; it must depend on the input and keep the batch as its first dimension."
            )
        return output

    def _run(self, value: _AnyDomain, norms: OperatorNorms) -> _AnyDomain:
        output, constants = self._output, Constants(self._capture, self.model)
        return _require_domain(type(value), self._reached(output, value, constants, norms))

    def _reached(self, node: fx.Node, value: Domain, constants: Constants, norms: OperatorNorms) -> Any:
        """What a set becomes at a node; where paths meet that are one operator together, by that too."""
        self._require_gradients()
        images = self._capture.images
        is_region = isinstance(value, Region) and not isinstance(value, Point)
        joins = self._affinity_of(value.center).joins if is_region else {}
        wanted, held = {join.source for join in joins.values()}, {images: value}

        def bounded(call: Call) -> Any:
            result = call.apply_rule(norms)
            join = joins.get(call.node)
            if join is not None and join.source in held:
                result = join.refined(result, held[join.source], constants, norms)
            if call.node in wanted:
                held[call.node] = result
            return result

        return walk(needed(self._steps, [node]), constants, {images: value}, bounded)[node]

    def _require_gradients(self) -> None:
        """Refuses, where gradients are wanted, a network that stops some on their way."""
        wanted = torch.is_grad_enabled() and any(part.requires_grad for part in self.model.parameters())
        if wanted and self._capture.stops_gradients:
            raise ModelError(
                "The model computes a part without gradients (torch.no_grad, detach), which its graph would "
                "have. For training, freeze the weights of that part instead: requires_grad_(False)."
            )

    def _affinity_of(self, images: Tensor) -> Affinity:
        if self._affinity is None:
            # Constants of its own, since they are computed without gradients here.
            constants = Constants(self._capture, self.model)
            steps = needed(self._steps, [self._output])
            sources = track(steps, constants, self._capture.images, images[:1].detach())
            with torch.no_grad():
                joins = find_joins(steps, sources, constants)
            self._affinity = Affinity(find_tail(steps, sources, self._capture.images), joins)
        return self._affinity

    def _require_same_tail(self, images: Tensor) -> None:
        """Makes sure, once, that what is folded at the end gives the logits."""
        if self._is_tail_verified or not images.numel():
            return
        norms, constants = GuaranteedNorms(), Constants(self._capture, self.model)
        with torch.no_grad():
            tail = self._affinity_of(images).tail
            features = self._reached(tail.source, Point(images), constants, norms)
            logits = tail.folded(constants, features).logits
            # What the tail adds and takes away again costs digits, which folding may keep or lose.
            require_same(logits, self._reach(images), digits=0.25)
        self._is_tail_verified = True

    def _reach(self, points: Tensor) -> Tensor:
        return self._run(Point(points), GuaranteedNorms()).center


class Affinity(NamedTuple):
    """What of a network is affine, and in what.

    Attributes:
        tail: The steps at its end.
        joins: Node -> what meets there.
    """

    tail: Tail
    joins: dict[fx.Node, Join]


_OnFault: TypeAlias = Callable[[ModelError, Call], Any]


def _form_of(images: Tensor) -> tuple[Any, ...]:
    return images.shape[1:], images.dtype, images.device


def _bounded(call: Call, norms: OperatorNorms, on_fault: _OnFault) -> Any:
    try:
        return call.apply_rule(norms)
    except ModelError as error:
        return on_fault(error, call)


def _not_one_output(returns: str) -> ModelError:
    return ModelError(
        f"Expected one output that depends on the input, but the model returns a {returns}; wrap it in a "
        "module that returns the logits alone."
    )


def _require_domain(kind: type[_AnyDomain], result: Any) -> _AnyDomain:
    if not isinstance(result, kind):
        raise _not_one_output(type(result).__name__)
    return result
