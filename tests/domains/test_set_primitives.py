"""What sets make of products, couplings, maxima of two and steep functions: no member escapes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import accumulate, pairwise, product
from typing import NamedTuple, TypeAlias

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from withstand.core import norms
from withstand.domains import Ball, Box, BoxBall, Elementwise, Linear, Region, Unimodal
from withstand.domains.linear.linear_inputs import Interval
from withstand.graph.bilinear import MatrixProduct, Multiplication
from withstand.graph.coupled import Largest, LogSoftmax, LogSumExp, Normalization, Softmax
from withstand.graph.point import Point
from withstand.graph.powers import EXP, LOG, power
from withstand.graph.primitives import Coupled, Rearrange, moved
from withstand.operators import Dense, LinearOperator, Shape

BATCH = 3
BOXES = ("box", "linear")  # linear sets are tried on boxes
Values: TypeAlias = Sequence[Tensor]


class Operation(NamedTuple):
    """Of regions and of tensors, the shapes of what it takes, and how far from 0 that must stay."""

    of_regions: Callable[..., Region]
    of_tensors: Callable[..., Tensor]
    shapes: Sequence[Shape]
    least: float = -math.inf


def _elementwise(
    function: Elementwise | Unimodal, reference: Callable[[Tensor], Tensor], least: float
) -> Operation:
    def of_regions(x: Region) -> Region:
        return x.unimodal(function) if isinstance(function, Unimodal) else x.monotone(function)

    return Operation(of_regions, reference, [(2, 3)], least)


def _coupled(function: Coupled, reference: Callable[[Tensor], Tensor], shape: Shape = (3, 4)) -> Operation:
    return Operation(lambda x: x.coupled(function), reference, [shape])


def _multiplied(*shapes: Shape) -> Operation:
    return Operation(lambda x, y: x.product(y, Multiplication()), torch.mul, shapes)


def _matrix_product(*shapes: Shape) -> Operation:
    return Operation(lambda x, y: x.product(y, MatrixProduct()), torch.matmul, shapes)


def _rms(x: Tensor) -> Tensor:
    return x / (x.square().mean((1, 2), keepdim=True) + 0.01).sqrt()


OPERATIONS: Mapping[str, Operation] = {
    "exp": _elementwise(EXP, torch.exp, -math.inf),
    "log": _elementwise(LOG, torch.log, 0.0),
    **{
        f"power {p}": _elementwise(power(p), lambda x, p=p: x**p, -math.inf if p in (2, 3, 4) else 0.0)  # type: ignore[misc]
        for p in (2, 3, 4, 0.5, 1.7, -0.5, -1, -2, -3, -1.3)
    },
    "negative reciprocal": Operation(lambda x: x.unimodal(power(-1)), lambda x: 1 / x, [(2, 3)], least=-0.0),
    "softmax": _coupled(Softmax(2), lambda x: torch.softmax(x, 2)),
    "softmax first": _coupled(Softmax(1), lambda x: torch.softmax(x, 1)),
    "log-softmax": _coupled(LogSoftmax(1), lambda x: torch.log_softmax(x, 1)),
    "log-sum-exp": _coupled(LogSumExp(2), lambda x: torch.logsumexp(x, 2)),
    "log-sum-exp kept": _coupled(LogSumExp(1, keepdim=True), lambda x: torch.logsumexp(x, 1, keepdim=True)),
    "largest": _coupled(Largest((1, 2)), lambda x: x.amax((1, 2))),
    "largest kept": _coupled(Largest((2,), keepdim=True), lambda x: x.amax(2, keepdim=True)),
    "layer norm": _coupled(Normalization((2,), 1e-5), lambda x: F.layer_norm(x, (4,))),
    "layer norm of two": _coupled(Normalization((1, 2), 0.1), lambda x: F.layer_norm(x, (3, 4), eps=0.1)),
    "layer norm of pairs": _coupled(
        Normalization((2,), 1e-3), lambda x: F.layer_norm(x, (2,), eps=1e-3), (3, 2)
    ),
    "layer norm of one": _coupled(Normalization((2,), 0.1), lambda x: 0 * x, (3, 1)),
    "rms norm": _coupled(Normalization((1, 2), 0.01, centered=False), _rms),
    "multiplied": _multiplied((2, 3), (2, 3)),
    "multiplied, spread": _multiplied((3, 1), (3, 4)),
    "multiplied, spread both ways": _multiplied((2, 1, 3), (1, 4, 3)),
    "squared": Operation(lambda x: x.product(x, Multiplication()), torch.square, [(2, 3)]),
    "matrix product": _matrix_product((2, 3), (3, 4)),
    "matrix product by heads": _matrix_product((2, 4, 3), (2, 3, 2)),
    "matrix product, shared": _matrix_product((2, 4, 3), (1, 3, 2)),
    "matrix product by itself": Operation(lambda x: x.product(x, MatrixProduct()), lambda x: x @ x, [(3, 3)]),
    "larger": Operation(lambda x, y: x.larger(y), torch.maximum, [(2, 3), (2, 3)]),
}


class Around(NamedTuple):
    """All within a distance of a center, between two ends."""

    center: Tensor
    radius: Tensor
    lower: Tensor
    upper: Tensor

    def region(self, domain: str) -> Region:
        if domain == "box":
            return Box(self.lower, self.upper)
        ball = Ball(self.center, self.radius)
        return ball if domain == "ball" else BoxBall(ball, Box(self.lower, self.upper))

    def inside(self, points: Tensor, domain: str) -> Tensor:
        """The points, brought into the set."""
        moved = points - self.center
        if domain not in BOXES:
            moved = norms.project(moved, 2.0, self.radius)
        moved = self.center + moved
        return moved if domain == "ball" else torch.clamp(moved, self.lower, self.upper)


def _regions(sets: Sequence[Around], domain: str) -> list[Region]:
    """One of each set; linear ones are parts of one set of inputs, as in a network."""
    if domain != "linear":
        return [part.region(domain) for part in sets]
    lower, upper = (
        torch.cat([end.flatten(1) for end in ends], 1)
        for ends in ([part.lower for part in sets], [part.upper for part in sets])
    )
    whole = Linear.of(Interval(lower, upper), Box(lower, upper))
    ends = list(accumulate(part.center[0].numel() for part in sets))
    return [
        whole.monotone(moved(partial(_part, end, part.center.shape[1:])))
        for part, end in zip(sets, ends, strict=True)
    ]


def _part(end: int, shape: Shape, x: Tensor) -> Tensor:
    return x[:, end - math.prod(shape) : end].reshape(-1, *shape)


def _around(shape: Shape, size: float, operation: Operation, is_negative: bool) -> Around:
    """Of radii of every size, zero among them; the box is not in the middle."""
    double = torch.float64
    center = 1.5 * torch.randn(BATCH, *shape, dtype=double)
    below, above = (size * torch.rand(BATCH, *shape, dtype=double) for _ in range(2))
    radius = size * torch.tensor([0.0, 0.5, 1.0], dtype=double)[:BATCH]
    below[0], above[0] = 0, 0
    if operation.least == 0:
        center = center.abs() + 1.1 * size + 0.05
    if is_negative:
        center = -center
    return Around(center, radius, center - below, center + above)


def _members(sets: Sequence[Around], domain: str, of_tensors: Callable[..., Tensor]) -> list[Values]:
    """All over, on the surface, at corners, and where ascent of the outputs gets to."""
    members: list[Values] = [[part.center for part in sets]]
    for scale in (0.3, 1.0, 100.0):
        for _ in range(4):
            far = [scale * torch.randn_like(part.center) for part in sets]
            members.append(_inside(sets, far, domain))
            members.append(_inside(sets, [100 * step.sign() for step in far], domain))
    direction = torch.randn_like(of_tensors(*members[0]))
    for sign in (1, -1, 0):
        points = _inside(sets, [0.1 * torch.randn_like(part.center) for part in sets], domain)
        for share in (1.0, 0.5, 0.2, 0.1):
            leaves = [point.detach().requires_grad_() for point in points]
            values = of_tensors(*leaves)
            away = (values - of_tensors(*members[0])).square()
            aim = (sign * direction * values).sum() if sign else away.sum()
            gradients = torch.autograd.grad(aim, leaves)
            steps = [
                gradient.sign() if domain in BOXES else norms.steepest(gradient, 2.0)
                for gradient in gradients
            ]
            points = [
                part.inside(leaf.detach() + 2 * share * (part.upper - part.lower).amax() * step, domain)
                for part, leaf, step in zip(sets, leaves, steps, strict=True)
            ]
            members.append(points)
    return members


def _inside(sets: Sequence[Around], steps: Values, domain: str) -> Values:
    return [part.inside(part.center + step, domain) for part, step in zip(sets, steps, strict=True)]


def _assert_inside(points: Tensor, region: Region, rounding: float = 1e-9) -> None:
    """Points are (points, batch, …)."""
    lower, upper = region.ends
    slack = rounding * (1 + points.abs())
    assert (points >= lower - slack).all()
    assert (points <= upper + slack).all()
    ball = region.ball if isinstance(region, BoxBall) else region
    size = 1 + _flat(points).norm(dim=2)
    if isinstance(ball, Ball):
        away = _flat(points - ball.midpoint).norm(dim=2)
        assert (away <= ball.radius + rounding * size).all()
    weight, gains = _gains(region)
    along = _flat(points - region.center) @ weight.T
    assert (along <= gains + rounding * size[..., None] * (1 + weight.norm(dim=1))).all()


def _flat(points: Tensor) -> Tensor:
    return points[..., None].flatten(2)


def _gains(region: Region) -> tuple[Tensor, Tensor]:
    """Directions (directions, values), the first one 0, and how far from the center members get."""
    flat = region.monotone(moved(norms.flat))
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(9, flat.shape[1], generator=generator).to(region.center)
    weight[0], weight[5:] = 0, weight[5:].sign()
    labels = torch.zeros(len(flat.center), dtype=torch.int64)
    return weight, flat.worst_differences(weight, labels)


@pytest.fixture(params=OPERATIONS)
def name(request: pytest.FixtureRequest) -> str:
    result: str = request.param
    return result


@pytest.fixture(params=["box", "ball", "box_ball", "linear"])
def domain(request: pytest.FixtureRequest) -> str:
    result: str = request.param
    return result


def _sets(name: str, size: float, seed: int) -> list[Around]:
    operation = OPERATIONS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        is_negative = name == "negative reciprocal"
        return [_around(shape, size, operation, is_negative) for shape in operation.shapes]


@settings(max_examples=12, deadline=None)
@given(size=st.sampled_from([1e-6, 0.01, 0.2, 1.0, 3.0]), seed=st.integers(0, 2**31))
def _check_members(name: str, domain: str, size: float, seed: int) -> None:
    operation, sets = OPERATIONS[name], _sets(name, size, seed)
    image = operation.of_regions(*_regions(sets, domain))
    members = _members(sets, domain, operation.of_tensors)
    _assert_inside(torch.stack([operation.of_tensors(*part) for part in members]), image)


def test_sets_let_no_member_escape(name: str, domain: str) -> None:
    with torch.random.fork_rng(devices=[]):
        _check_members(name, domain)


def test_sets_of_one_member_are_its_image(name: str, domain: str) -> None:
    operation = OPERATIONS[name]
    sets = [Around(part.center, 0 * part.radius, part.center, part.center) for part in _sets(name, 0.5, 3)]
    centers = [part.center for part in sets]
    expected = operation.of_tensors(*centers)
    image = operation.of_regions(*_regions(sets, domain))
    point = operation.of_regions(*(Point(center) for center in centers))
    for actual in (*image.ends, image.center, point.center):
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
    _, gains = _gains(image)
    torch.testing.assert_close(gains, torch.zeros_like(gains), rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    "name", ["softmax", "log-softmax", "rms norm", "multiplied, spread", "squared", "larger"]
)
def test_boxes_are_exact_where_they_say_so(name: str) -> None:
    """Each bound is attained where every coordinate is at an end of its own, or at 0."""
    operation = OPERATIONS[name]._replace(shapes=[(2, 2)] * len(OPERATIONS[name].shapes))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        sets = [_around(shape, 1.0, operation, is_negative=False) for shape in operation.shapes]
    lower, upper = operation.of_regions(*(part.region("box") for part in sets)).ends
    places = torch.cartesian_prod(*[torch.arange(3)] * 4).reshape(-1, 1, 2, 2)
    corners = []
    for part in sets:
        nearest = torch.zeros_like(part.lower).clamp(part.lower, part.upper)
        candidates = torch.stack([part.lower, part.upper, nearest])
        corners.append([candidates.gather(0, place.expand(1, BATCH, 2, 2))[0] for place in places])
    values = torch.stack([operation.of_tensors(*members) for members in product(*corners)])
    torch.testing.assert_close(values.amin(0), lower, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(values.amax(0), upper, rtol=1e-12, atol=1e-12)


def test_balls_of_one_radius_are_those_of_as_many(name: str) -> None:
    operation, sets = OPERATIONS[name], _sets(name, 0.3, 6)
    radius = torch.tensor([0.2], dtype=torch.float64)
    shared, own = (
        operation.of_regions(*(Ball(part.center, length) for part in sets))
        for length in (radius, radius.expand(BATCH))
    )
    for actual, expected in zip(shared.ends, own.ends, strict=True):
        torch.testing.assert_close(actual, expected, rtol=0, atol=0)


class _Attention(NamedTuple):
    """A layer of a transformer, in primitives: normalisation, attention, and what is added to."""

    weights: Sequence[Tensor]

    def __call__(self, x: Region) -> Region:
        query, key, value = (
            x.coupled(Normalization((2,), 0.1)).affine(Dense(weight), None, _norm) for weight in self.weights
        )
        scores = query.product(key.monotone(moved(lambda y: y.mT)), MatrixProduct())
        return x.add(scores.coupled(Softmax(2)).product(value, MatrixProduct()))


def _norm(operator: LinearOperator, shape: Shape) -> Tensor:
    norm: Tensor = torch.linalg.matrix_norm(operator.entries, ord=2)
    return norm


def test_sets_let_no_member_escape_from_attention(domain: str) -> None:
    (around,) = _sets("softmax", 0.05, 7)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer = _Attention([torch.randn(4, 4, dtype=torch.float64) / 2 for _ in range(3)])
        image = layer(*_regions([around], domain))

        def of_tensors(x: Tensor) -> Tensor:
            return layer(Point(x)).center

        members = _members([around], domain, of_tensors)
        _assert_inside(torch.stack([of_tensors(*part) for part in members]), image)
    assert (image.ends[1] - image.ends[0] <= 2).all()


def test_sets_grow_with_what_they_come_from(name: str, domain: str) -> None:
    operation, widths = OPERATIONS[name], []
    for size in (0.1, 0.2, 0.4):
        sets = [
            part._replace(
                radius=torch.full_like(part.radius, size),
                lower=part.center - size * (part.center - part.lower),
                upper=part.center + size * (part.upper - part.center),
            )
            for part in _sets(name, 0.8, 5)
        ]
        image = operation.of_regions(*_regions(sets, domain))
        widths.append((image, *image.ends))
    for (small, *inner), (large, *outer) in pairwise(widths):
        assert (outer[0] <= inner[0] + 1e-12).all()
        assert (outer[1] >= inner[1] - 1e-12).all()
        if domain == "ball":
            assert isinstance(small, Ball)
            assert isinstance(large, Ball)
            assert (small.radius <= large.radius + 1e-12).all()


@pytest.mark.parametrize("size", [0.0, 0.3])
def test_sets_have_finite_gradients(name: str, domain: str, size: float) -> None:
    operation = OPERATIONS[name]
    leaves: list[Tensor] = []
    sets: list[Around] = []
    for part in _sets(name, 0.3, 8):
        center, spread = part.center.float().requires_grad_(), torch.tensor(size).requires_grad_()
        leaves += [center, spread]
        radius = spread.expand(BATCH)
        sets.append(Around(center, radius, center - spread / 2, center + spread / 3))
    image = operation.of_regions(*_regions(sets, domain))
    ball = image.ball if isinstance(image, BoxBall) else image
    total = sum(bound.square().sum() for bound in image.ends)
    total = total + ball.radius.square().sum() if isinstance(ball, Ball) else total
    assert isinstance(total, Tensor)
    assert total.isfinite()
    for gradient in torch.autograd.grad(total, leaves):
        assert gradient.isfinite().all()


@pytest.mark.parametrize("function", [Softmax(2), LogSumExp(2, keepdim=True)])
def test_sets_leave_out_what_is_masked(function: Coupled, domain: str) -> None:
    (around,) = _sets("softmax", 0.5, 2)
    mask = torch.tensor([False, True, False, False])
    (region,) = _regions([around], domain)
    masked = region.monotone(Rearrange(lambda x: x.masked_fill(mask, -math.inf))).coupled(function)
    alone = region.monotone(Rearrange(lambda x: x[..., ~mask])).coupled(function)
    for actual, expected in zip(masked.ends, alone.ends, strict=True):
        kept = actual[..., ~mask] if actual.shape[2] > 1 else actual
        torch.testing.assert_close(kept, expected)


# What is not defined


@pytest.mark.parametrize(
    ("function", "lower", "upper"),
    [
        (LOG, 0.0, 1.0),
        (LOG, -0.0, 1.0),
        (LOG, -1.0, 1.0),
        (LOG, -2.0, -1.0),
        *[(power(p), *ends) for p in (-1, -2, -3) for ends in ((-1.0, 2.0), (-1.0, 0.0), (-1.0, -0.0))],
        *[(power(p), *ends) for p in (-1, -2, -0.5, -1.3) for ends in ((0.0, 2.0), (-0.0, 1.0), (0.0, 0.0))],
        *[(power(p), *ends) for p in (0.5, 1.7, -0.5) for ends in ((-1.0, 2.0), (-2.0, -1.0))],
    ],
)
def test_sets_have_no_finite_bounds_where_a_function_is_not_defined(
    function: Elementwise | Unimodal, lower: float, upper: float, domain: str
) -> None:
    ends = torch.tensor([[lower, 0.5]]).double(), torch.tensor([[upper, 0.7]]).double()
    center, half = (ends[0] + ends[1]) / 2, (ends[1] - ends[0]) / 2
    around = Around(center, half.amax(1), *ends)
    (region,) = _regions([around], domain)
    image = region.unimodal(function) if isinstance(function, Unimodal) else region.monotone(function)
    assert not (image.ends[1] - image.ends[0])[0, 0].isfinite()
    ball = image.ball if isinstance(image, BoxBall) else image
    assert not isinstance(ball, Ball) or not ball.radius.isfinite().any()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_sets_without_bounds_never_have_any_again(name: str, domain: str, bad: float) -> None:
    operation, sets = OPERATIONS[name], _sets(name, 0.1, 4)
    spoilt = [
        part._replace(radius=part.radius + bad, lower=part.lower - bad, upper=part.upper + bad)
        for part in sets
    ]
    image = operation.of_regions(*_regions(spoilt, domain))
    lower, upper = image.ends
    assert not (upper - lower).isfinite().any()
    ball = image.ball if isinstance(image, BoxBall) else image
    assert not isinstance(ball, Ball) or not ball.radius.isfinite().any()
