"""Lines below and above smooth functions, planes of products and of coupled ones: sound, and close."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from withstand.domains import Box, Elementwise, Linear, Program, Unimodal, propagate
from withstand.domains.linear.backward import all_before, least, refined
from withstand.domains.linear.casting import nodes_in, value_in
from withstand.domains.linear.curved import Curved, image_of, lines_of
from withstand.domains.linear.linear_inputs import Interval
from withstand.domains.linear.nodes import Ends, Lines, Rows
from withstand.graph.primitives import CONVEX
from withstand.operators import GuaranteedNorms

EVERYWHERE, ABOVE_0, NOT_0 = -math.inf, 0.0, None

# Function of torch -> where it is defined, from which its rule tells the rest.
NAMED: Mapping[str, tuple[Callable[[Tensor], Tensor], float | None]] = {
    **{
        function.__name__: (function, EVERYWHERE)
        for function in (
            *(torch.tanh, torch.sigmoid, torch.atan, torch.erf, torch.asinh, torch.exp, torch.square),
            *(F.softplus, F.logsigmoid, F.elu, F.selu, F.celu, F.mish, F.silu, F.gelu, F.hardswish),
        )
    },
    "gelu by tanh": (lambda x: F.gelu(x, approximate="tanh"), EVERYWHERE),
    "steep elu": (lambda x: F.elu(x, 3.0), EVERYWHERE),
    "celu of 0.3": (lambda x: F.celu(x, 0.3), EVERYWHERE),
    "softplus that jumps": (lambda x: F.softplus(x, 2.0, 1.5), EVERYWHERE),
    "maximum": (lambda x: torch.maximum(x, x.new_tensor(0.3)), EVERYWHERE),
    "cube": (lambda x: x**3, EVERYWHERE),
    "fourth": (lambda x: x**4, EVERYWHERE),
    "log": (torch.log, ABOVE_0),
    "sqrt": (torch.sqrt, ABOVE_0),
    "rsqrt": (torch.rsqrt, ABOVE_0),
    "power 1.7": (lambda x: x**1.7, ABOVE_0),
    "power -0.3": (lambda x: x**-0.3, ABOVE_0),
    "reciprocal": (torch.reciprocal, NOT_0),
    "power -2": (lambda x: x**-2, NOT_0),
    "power -3": (lambda x: x**-3, NOT_0),
}

# Of which no more is known than slopes, as of a user's own.
UNKNOWN: Mapping[str, Elementwise | Unimodal] = {
    "tanh": Elementwise(torch.tanh),
    "stairs": Elementwise(lambda x: x + torch.sin(3 * x) / 3, 2.0),
    "exp": Elementwise(torch.exp, lambda lower, upper: upper.exp()),
    "root": Elementwise(lambda x: x.sign() * x.abs().sqrt(), math.inf),
    "gelu": Unimodal(F.gelu, 1.128904145185155, -0.7517915246935645, -0.1699712074799037),
    "constant": Elementwise(torch.zeros_like, 0.0),
}


class Function(nn.Module):
    """A function of a tensor and of layers, as a model."""

    def __init__(self, function: Callable[..., Tensor], *layers: nn.Module) -> None:
        super().__init__()
        self.function, self.layers = function, nn.ModuleList(layers)

    @override
    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *self.layers)


@cache
def _registered(name: str) -> Elementwise | Unimodal:
    """What the rule of a function tells of it."""
    function, _ = NAMED[name]
    x = torch.ones(1, 2).double()
    image = propagate(Function(function), Linear.of(Interval(x, x + 1), Box(x, x + 1)))
    assert isinstance(image, Linear)
    (node,) = (node for node in all_before(image.node) if isinstance(node, Curved))
    return node.function


_FUNCTIONS = [*NAMED, *(f"unknown {name}" for name in UNKNOWN)]


def _function(name: str) -> tuple[Elementwise | Unimodal, float | None]:
    known, unknown = name in NAMED, name.removeprefix("unknown ")
    return (_registered(name), NAMED[name][1]) if known else (UNKNOWN[unknown], EVERYWHERE)


@st.composite
def _ends(draw: st.DrawFn, start: float | None, dtype: torch.dtype) -> Ends:
    """Intervals of any place and width; of none at all the first."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(draw(st.integers(0, 2**31)))
        size = draw(st.sampled_from([0.3, 1.0, 4.0, 30.0, 1e3]))
        center, width = size * torch.randn(24), 10 ** (torch.rand(24) * 8 - draw(st.sampled_from([7, 5, 13])))
        width[0] = 0
        lower, upper = center - width, center + width
        if start is not EVERYWHERE:
            lower = lower.abs() * draw(st.sampled_from([1e-3, 1.0])) + 1e-4
            upper = lower + width
        if start is NOT_0:
            is_negative = torch.arange(24) % 2 == 0
            lower, upper = torch.where(is_negative, -upper, lower), torch.where(is_negative, -lower, upper)
    return lower.to(dtype), upper.to(dtype)


def _places(ends: Ends, count: int = 301) -> Tensor:
    """A grid between ends, in float64, both among them; (count, *shape)."""
    lower, upper = (end.double() for end in ends)
    share = torch.linspace(0, 1, count, dtype=torch.float64).reshape(-1, *[1] * lower.dim())
    return torch.minimum(lower + (upper - lower) * share, upper)


def _at(lines: Lines, place: Tensor) -> tuple[Tensor, Tensor]:
    """The lines' heights."""
    assert lines.lower_offset is not None
    return lines.lower_slope * place + lines.lower_offset, lines.upper_slope * place + lines.upper_offset


def _assert_between_lines(function: Elementwise | Unimodal, ends: Ends, lines: Lines) -> None:
    """On a grid; but for what the precision of the lines takes away from the size of what is added up."""
    places = _places(ends)
    values = function.function(places)
    known = values.isfinite().all(0)
    rounding = 4 * torch.finfo(ends[0].dtype).eps
    assert lines.lower_offset is not None
    for sign, slope, offset in (
        (1, lines.lower_slope, lines.lower_offset),
        (-1, lines.upper_slope, lines.upper_offset),
    ):
        line = slope.double() * places + offset.double()
        size = places.abs().amax(0).clamp_min(1)
        slack = (
            rounding * (values.abs().amax(0) + slope.double().abs() * size) + torch.finfo(ends[0].dtype).tiny
        )
        if isinstance(function.slope, float) and function.slope < math.inf:
            slack = slack + rounding * function.slope * size
        is_sound = (sign * line <= sign * values + slack) | ~offset.isfinite() | ~known
        assert is_sound.all(), (places[:, ~is_sound.all(0)][[0, -1]], slope, offset)


@pytest.mark.parametrize("name", _FUNCTIONS)
@given(data=st.data())
@settings(max_examples=6, deadline=None)
def test_lines_hold_and_are_no_worse_than_constants(name: str, data: st.DataObject) -> None:
    function, start = _function(name)
    dtype = data.draw(st.sampled_from([torch.float64, torch.float32]))
    ends = data.draw(_ends(start, dtype))
    lines, (least, most) = lines_of(function, ends), image_of(function, ends)
    _assert_between_lines(function, ends, lines)
    middle = (ends[0] + ends[1]) / 2
    below, above = _at(lines, middle)
    known = least.isfinite() & most.isfinite()
    assert (below.isfinite() & above.isfinite())[known].all()
    size = 4 * torch.finfo(dtype).eps * (below.abs() + (lines.lower_slope * middle).abs())
    assert (below >= least - size)[known].all()
    size = 4 * torch.finfo(dtype).eps * (above.abs() + (lines.upper_slope * middle).abs())
    assert (above <= most + size)[known].all()
    assert ((lines.lower_slope == 0) & (lines.upper_slope == 0) & (below == least) & (above == most))[0].all()


@pytest.mark.parametrize("name", _FUNCTIONS)
@given(data=st.data())
@settings(max_examples=2, deadline=None)
def test_lines_of_any_slopes_hold(name: str, data: st.DataObject) -> None:
    function, start = _function(name)
    ends = data.draw(_ends(start, torch.float64))
    torch.manual_seed(data.draw(st.integers(0, 2**31)))
    slopes = torch.randn_like(ends[0]), torch.randn_like(ends[0])
    _assert_between_lines(function, ends, lines_of(function, ends, slopes))


@pytest.mark.parametrize("name", NAMED)
def test_lines_leave_the_least_area(name: str) -> None:
    function, start = _function(name)
    torch.manual_seed(0)
    lower = 2 * torch.randn(100).double()
    lower = lower if start is EVERYWHERE else lower.abs() + 0.05
    ends = lower, lower + 3 * torch.rand(100).double()
    lines, places, middle = lines_of(function, ends), _places(ends, 201), (ends[0] + ends[1]) / 2
    values = function.function(places)
    left, right = places[:100, None], places[101:][None]
    share = (right - middle) / (right - left)
    chords = share * values[:100, None] + (1 - share) * values[101:][None]
    span = values.amax(0) - values.amin(0) + 1e-9
    jump = function.jump if isinstance(function, Elementwise) else 0.0
    best_below = torch.minimum(chords.amin((0, 1)), values[100])
    best_above = torch.maximum(chords.amax((0, 1)), values[100])
    below, above = _at(lines, middle)
    assert (below >= best_below - 0.01 * span - 2 * jump).all()
    assert (above <= best_above + 0.01 * span + 2 * jump).all()


@pytest.mark.parametrize("name", _FUNCTIONS)
def test_lines_of_extreme_intervals_hold_or_are_not_finite(name: str) -> None:
    function, start = _function(name)
    for dtype, far in ((torch.float64, 1e300), (torch.float32, 1e37)):
        sides = [0.0, 1e-30, 1.0, 30.0, 1e6, far]
        lower = torch.tensor([-side for side in sides for _ in sides], dtype=dtype)
        upper = torch.tensor([side for _ in sides for side in sides], dtype=dtype)
        if start is not EVERYWHERE:
            lower = 0 * lower
        ends = lower, upper
        lines = lines_of(function, ends)
        _assert_between_lines(function, ends, lines)
        assert not torch.stack([lines.lower_slope, lines.upper_slope]).isnan().any()


def test_interval_that_holds_a_pole_has_no_bounds() -> None:
    ends = torch.tensor([-1.0, 0.0, 0.5]).double(), torch.tensor([2.0, 1.0, 1.0]).double()
    for bound in _at(lines_of(_registered("reciprocal"), ends), ends[1]):
        assert bound.isnan().tolist() == [True, True, False]
    beyond = torch.tensor([-1.0, 0.5]).double(), torch.tensor([1.0, math.inf]).double()
    below, _ = _at(lines_of(_registered("log"), beyond), beyond[0])
    assert below.isfinite().tolist() == [False, True]


@pytest.mark.parametrize("name", ["tanh", "gelu", "elu", "exp", "square", "unknown tanh"])
def test_lines_are_differentiable_in_the_ends(name: str) -> None:
    function, _ = _function(name)
    lower = torch.tensor([-2.1, -0.7, 0.3, 0.4, 0.2]).double()
    upper = torch.tensor([-0.9, 1.3, 1.9, 0.4, 0.2 + 1e-12]).double()

    def ends_of_lines(lower: Tensor, upper: Tensor) -> Tensor:
        lines = lines_of(function, (lower, upper))
        assert lines.lower_offset is not None
        return torch.cat(
            [lines.lower_slope * 0.3 + lines.lower_offset, lines.upper_slope + lines.upper_offset]
        )

    whole = [end.clone().requires_grad_() for end in (lower, upper)]
    gradients = torch.autograd.grad(ends_of_lines(*whole).sum(), whole)
    assert all(gradient.isfinite().all() for gradient in gradients)
    step = 1e-3  # places of tangents are stationary only as far as they are known
    for index, gradient in enumerate(gradients):
        moved = [
            [end + sign * step * (place == index) for place, end in enumerate((lower, upper))]
            for sign in (1, -1)
        ]
        change = (ends_of_lines(*moved[0]) - ends_of_lines(*moved[1])) / (2 * step)
        torch.testing.assert_close(gradient[:3], change.reshape(2, 5).sum(0)[:3], rtol=2e-2, atol=2e-2)


def test_values_of_one_number_an_example_pass() -> None:
    images = torch.rand(2, 3).double()
    box, model = Box(images - 0.1, images + 0.1), Function(lambda x: (x.logsumexp(1) - x.sum(1)).tanh())
    image, looser = (propagate(model, value) for value in (Linear.of(Interval(*box.ends), box), box))
    assert isinstance(image, Linear)
    (lower, upper), outputs = (
        image.ends,
        [model(images + move) for move in 0.2 * torch.rand(50, 3).double() - 0.1],
    )
    assert all(((lower <= output) & (output <= upper)).all() for output in outputs)
    assert (upper - lower < looser.ends[1] - looser.ends[0]).all()


def test_curvature_names_its_stretches() -> None:
    gelu = _registered("gelu").curvature
    assert gelu is not None
    root = math.sqrt(2)
    assert gelu.stretches(convex=True) == [(-root, root)]
    assert gelu.stretches(convex=False) == [(-math.inf, -root), (root, math.inf)]
    assert CONVEX.stretches(convex=False) == []


# Whole networks


def _attention(x: Tensor, embed: nn.Module, norm: nn.Module, mixed: nn.Module, head: nn.Module) -> Tensor:
    tokens = embed(x.reshape(-1, 3, 4))
    query, key, value = mixed(norm(tokens)).chunk(3, -1)
    tokens = tokens + F.scaled_dot_product_attention(query, key, value)
    result: Tensor = head(norm(tokens).flatten(1))
    return result


NETS: Mapping[str, tuple[Callable[[], nn.Module], float]] = {
    "smooth": (
        lambda: nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 16), nn.SiLU(), nn.Linear(16, 4)),
        4.0,
    ),
    "gelu conv": (
        lambda: nn.Sequential(
            nn.Unflatten(1, (1, 3, 4)),
            nn.Conv2d(1, 6, 3, 1, 1),
            nn.GELU(),
            nn.Conv2d(6, 6, 3),
            nn.GELU(),
            nn.Flatten(),
            nn.Linear(12, 4),
        ),
        2.0,
    ),
    "softmax head": (
        lambda: nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 4), nn.Softmax(1), nn.Linear(4, 4)),
        3.0,
    ),
    "gated": (
        lambda: Function(
            lambda x, one, two, last: last(one(x) * torch.sigmoid(two(x))),
            nn.Linear(12, 16),
            nn.Linear(12, 16),
            nn.Linear(16, 4),
        ),
        2.0,
    ),
    "attention": (
        lambda: Function(_attention, nn.Linear(4, 6), nn.Identity(), nn.Linear(6, 18), nn.Linear(18, 4)),
        3.0,
    ),
    "attention with layer norm": (
        lambda: Function(_attention, nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 18), nn.Linear(18, 4)),
        20.0,
    ),
    "lengths": (
        lambda: Function(
            lambda x, one, last: last(F.normalize(one(x)) * torch.linalg.vector_norm(x, dim=1, keepdim=True)),
            nn.Linear(12, 8),
            nn.Linear(8, 4),
        ),
        2.0,
    ),
}


@pytest.mark.parametrize("name", NETS)
def test_bounds_of_smooth_nets_hold_and_are_much_closer_than_boxes(name: str) -> None:
    build, factor = NETS[name]
    torch.manual_seed(0)
    model, images, epsilon = build().double().eval().requires_grad_(False), torch.rand(3, 12).double(), 0.01
    box = Box(images - epsilon, images + epsilon)
    program, norms = Program(model, images), GuaranteedNorms()
    looser, value = program.run(box, norms), program.run(Linear.of(Interval(*box.ends), box), norms)
    lower, upper = refined(
        value.node, value.ends, torch.ones_like(value.center, dtype=torch.bool), value.inputs
    )
    assert (lower >= looser.ends[0] - 1e-9).all()
    assert (upper <= looser.ends[1] + 1e-9).all()
    assert factor * (upper - lower).mean() < (looser.ends[1] - looser.ends[0]).mean()
    for outputs in _reached(model, images, epsilon):
        assert (outputs >= lower - 1e-9).all()
        assert (outputs <= upper + 1e-9).all()


def _reached(model: nn.Module, images: Tensor, epsilon: float) -> list[Tensor]:
    """Outputs of inputs at random, at corners, and where ascent and descent of each output lead."""
    moves = [
        epsilon * (2 * torch.rand(100, *images.shape).double() - 1),
        epsilon * torch.randn(100, *images.shape).sign().double(),
    ]
    outputs = [model((images + move).flatten(0, 1)).reshape(-1, len(images), 4) for move in moves]
    for sign in (1, -1):
        for label in range(4):
            move = torch.zeros_like(images)
            for _ in range(6):
                point = (images + move).requires_grad_()
                (gradient,) = torch.autograd.grad(model(point)[:, label].sum(), point)
                move = (move + sign * 0.5 * epsilon * gradient.sign()).clamp(-epsilon, epsilon)
            outputs.append(model(images + move)[None])
    return outputs


def test_records_with_lines_are_cast_to_another_precision() -> None:
    torch.manual_seed(0)
    model, images = (
        NETS["attention with layer norm"][0]().double().requires_grad_(False),
        torch.rand(2, 12).double(),
    )
    box = Box(images - 0.01, images + 0.01)
    value = Program(model, images).run(Linear.of(Interval(*box.ends), box), GuaranteedNorms())
    unit, owner = torch.eye(4).double(), torch.tensor([0, 0, 1, 1])
    single = nodes_in(all_before(value.node), torch.float32)[value.node]
    bound = least(single, Rows(unit.float(), owner), value_in(value.inputs, torch.float32))
    expected = least(value.node, Rows(unit, owner), value.inputs)
    torch.testing.assert_close(bound.double(), expected, rtol=1e-3, atol=1e-3)


def test_training_goes_through_lines() -> None:
    torch.manual_seed(0)
    model = NETS["attention with layer norm"][0]().double()
    images = torch.rand(2, 12).double()
    box = Box(images - 0.0, images + torch.tensor([[0.0], [0.02]]).double())  # a point, and a set
    value = Program(model, images).run(Linear.of(Interval(*box.ends), box), GuaranteedNorms())
    bounds = value.worst_differences(torch.eye(4).double(), torch.tensor([0, 1]))
    gradients = torch.autograd.grad(bounds.sum(), [*model.parameters()])
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert any(gradient.abs().max() > 0 for gradient in gradients)
