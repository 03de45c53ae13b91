"""What every domain keeps to on every net of the table in conftest: a new net adds a line, no more."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from withstand.core import norms
from withstand.domains import Ball, BoxBall, DomainName, LastLayer, Region, input_set
from withstand.domains.linear import curved
from withstand.operators import OperatorNorms

if TYPE_CHECKING:
    from tests.domains.conftest import Net

NAMES: tuple[DomainName, ...] = ("box_ball", "box", "ball", "linear")
NEVER_LOOSER: list[tuple[DomainName, DomainName]] = [
    ("box_ball", "box"),
    ("box_ball", "ball"),
    ("linear", "box"),
    ("linear", "box_ball"),
]
BATCH, FEW = 64, 12
ROUNDING = 1e-9


class Around(NamedTuple):
    """The inputs that an attacker may choose from."""

    norm: float
    clip: bool

    @property
    def label(self) -> str:
        return f"{norms.label(self.norm)}-{'clipped' if self.clip else 'whole'}"

    def inside(self, points: Tensor, images: Tensor, epsilons: Tensor) -> Tensor:
        """The points, brought into the set."""
        moved = images + norms.project(points - images, self.norm, epsilons)
        return moved.clamp(0, 1) if self.clip else moved

    def input_set(self, images: Tensor, epsilon: float | Tensor, domain: DomainName) -> Region:
        return input_set(images, self.norm, epsilon, domain, clip=self.clip)

    def samples(self, images: Tensor, epsilons: Tensor) -> Tensor:
        """Points all over the set, on its surface, and at its corners: (points, batch, …)."""
        far = 100 * torch.randn_like(images)
        surface = [images, images + far, images + 100 * far.sign()]
        solid = [images + norms.random_in_ball(images, self.norm, epsilons) for _ in range(3)]
        return torch.stack([self.inside(points, images, epsilons) for points in surface + solid])

    def climbed(self, model: nn.Module, images: Tensor, epsilons: Tensor, along: Tensor) -> Tensor:
        """Where gradient ascent of the outputs gets to, along directions (points, batch, classes)."""
        count = len(along)
        start = images.repeat(count, *[1] * (images.dim() - 1))
        budgets, current = epsilons.repeat(count), start
        for share in (1.0, 0.5, 0.25, 0.1):
            leaf = current.detach().requires_grad_()
            (gradient,) = torch.autograd.grad((model(leaf) * along.flatten(0, 1)).sum(), leaf)
            step = norms.steepest(gradient, self.norm) * norms.per_example(budgets, start) * share
            current = self.inside(current + step, start, budgets)
        return current.reshape(count, *images.shape)


SETS = [Around(p, clip) for p in (1.0, 2.0, math.inf) for clip in (False, True)]
# Of l1, all but the linear domain make the ball or box of another norm.
CASES = [(around, domain) for around in SETS for domain in NAMES if around.norm != 1 or domain == "linear"]


@pytest.fixture(params=SETS, ids=lambda around: around.label)
def around(request: pytest.FixtureRequest) -> Around:
    result: Around = request.param
    return result


@pytest.fixture(params=NAMES)
def domain(request: pytest.FixtureRequest) -> DomainName:
    result: DomainName = request.param
    return result


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def _budgets(count: int) -> Tensor:
    """Epsilons of every size, zero among them."""
    budgets = torch.logspace(-3, 0.3, count, dtype=torch.float64)
    budgets[0] = 0
    return budgets[torch.randperm(count)]


def _labels(count: int, classes: int) -> Tensor:
    return torch.arange(count) % classes


def _directions(labels: Tensor, classes: int) -> Tensor:
    """(directions, batch, classes): up and down each logit, and from the true logit to each other."""
    units = torch.eye(classes, dtype=torch.float64)
    ways = [*units, *-units]
    return torch.stack(
        [way.expand(len(labels), classes) for way in ways] + [u - units[labels] for u in units]
    )


def _assert_within(points: Tensor, value: Region) -> None:
    """Points are (…, batch, shape of an example)."""
    lower, upper = value.ends
    assert (points >= lower - ROUNDING).all()
    assert (points <= upper + ROUNDING).all()
    ball = value.ball if isinstance(value, BoxBall) else value
    if isinstance(ball, Ball):
        away = (points - ball.midpoint).flatten(-len(ball.example_shape))
        assert (torch.linalg.vector_norm(away, dim=-1) <= ball.radius + ROUNDING).all()


def _skip_if_not_monotone(net: Net) -> None:
    if net.name == "softplus-jump":
        pytest.skip("its activation is not monotone, so a smaller box may have a larger image")


def _bounds(net: Net, value: Region, exact: OperatorNorms, labels: Tensor) -> tuple[Region, Tensor]:
    """Of the outputs, and of each logit minus the true one."""
    program = net.program
    with torch.no_grad():
        differences = program.run_to_last_layer(value, exact).differences(labels)
        return program.run(value, exact), differences


# Soundness


@pytest.mark.parametrize(("around", "domain"), CASES, ids=lambda part: getattr(part, "label", part))
def test_domain_lets_no_point_escape(
    net: Net, around: Around, domain: DomainName, exact: OperatorNorms
) -> None:
    images, epsilons, labels = net.images(BATCH), _budgets(BATCH), _labels(BATCH, 3)
    value = around.input_set(images, epsilons, domain)
    outputs, differences = _bounds(net, value, exact, labels)
    directions = _directions(labels, outputs.shape[1])
    climbed = around.climbed(net.model, images, epsilons, directions)
    points = torch.cat([around.samples(images, epsilons), climbed])
    with torch.no_grad():
        logits = net.model(points.flatten(0, 1)).reshape(len(points), BATCH, -1)
    _assert_within(points, value)
    _assert_within(logits, outputs)
    gaps = logits - logits.gather(2, labels.expand(len(points), BATCH)[..., None])
    assert (gaps <= differences + ROUNDING).all()
    assert (differences[torch.arange(BATCH), labels] == 0).all()


def test_domain_contract_has_enough_cases(net_names: list[str]) -> None:
    assert len(net_names) * 4 * BATCH >= 10_000  # in each domain


# Tightness


def test_domains_are_never_looser_than_what_goes_along(
    net: Net, around: Around, exact: OperatorNorms
) -> None:
    _skip_if_not_monotone(net)
    images, epsilons, labels = net.images(FEW), _budgets(FEW), _labels(FEW, 3)
    result = {name: _bounds(net, around.input_set(images, epsilons, name), exact, labels) for name in NAMES}
    for tight, loose in NEVER_LOOSER:
        (outputs, differences), (looser, bound) = result[tight], result[loose]
        assert (_slackened(looser.ends[0], -1) <= outputs.ends[0]).all(), (tight, loose)
        assert (_slackened(looser.ends[1], 1) >= outputs.ends[1]).all(), (tight, loose)
        assert (_slackened(bound, 1) >= differences).all(), (tight, loose)


def _slackened(values: Tensor, sign: int) -> Tensor:
    return values + sign * ROUNDING * (1 + values.abs())


def test_domain_bounds_widen_with_epsilon(net: Net, domain: DomainName, exact: OperatorNorms) -> None:
    _skip_if_not_monotone(net)
    if domain == "linear":
        pytest.skip("slopes change from one epsilon to the next, and with them what lines leave between")
    images, labels = net.images(8), _labels(8, 3)
    for around in SETS:
        if domain != "box" and around == Around(math.inf, clip=True):
            continue  # the ball around a cut box moves with epsilon
        former = torch.tensor(-math.inf)
        for epsilon in (0.0, 0.01, 0.2, 3.0):
            value = around.input_set(images, epsilon, domain)
            with torch.no_grad():
                bound = net.program.run_to_last_layer(value, exact).differences(labels)
            assert (_slackened(bound, 1) >= former).all()
            former = bound


# One example, no set, and the model itself


def test_domain_bounds_of_a_batch_are_those_of_its_examples(
    net: Net, domain: DomainName, exact: OperatorNorms
) -> None:
    images, labels, epsilons = net.images(5), _labels(5, 3), _budgets(5)
    program = net.program

    def bound(rows: slice) -> Tensor:
        value = input_set(images[rows], 2.0, epsilons[rows], domain, clip=True)
        return program.run_to_last_layer(value, exact).differences(labels[rows])

    with torch.no_grad():
        alone = [bound(slice(i, i + 1)) for i in range(5)]
        torch.testing.assert_close(bound(slice(0, 5)), torch.cat(alone), rtol=1e-9, atol=1e-12)


def test_domain_bounds_of_an_empty_batch_are_empty(
    nets: Callable[[str], Net], domain: DomainName, around: Around, exact: OperatorNorms
) -> None:
    net = nets("conv")
    value = around.input_set(net.images(0), 0.1, domain)
    assert net.program.run_to_last_layer(value, exact).differences(_labels(0, 3)).shape == (0, 3)


@torch.no_grad()
def test_domain_takes_one_epsilon_for_all_as_one_for_each(
    net: Net, domain: DomainName, exact: OperatorNorms
) -> None:
    images, labels = net.images(4), _labels(4, 3)
    for around in SETS:
        both = [
            net.program.run_to_last_layer(around.input_set(images, epsilon, domain), exact)
            for epsilon in (0.2, torch.full((4,), 0.2, dtype=torch.float64))
        ]
        torch.testing.assert_close(*[last.differences(labels) for last in both], rtol=1e-9, atol=1e-12)


@torch.no_grad()
def test_domain_bounds_at_epsilon_zero_are_the_model(
    net: Net, domain: DomainName, exact: OperatorNorms
) -> None:
    images = net.images(6)
    for around in SETS:
        outputs = net.program.run(around.input_set(images, 0.0, domain), exact)
        if "softplus" in net.name:  # whose jump is added
            _assert_within(net.model(images), outputs)
        else:
            for result in (*outputs.ends, outputs.center):
                torch.testing.assert_close(result, net.model(images), rtol=1e-9, atol=1e-9)


def test_domain_gradients_reach_all_weights(net: Net, domain: DomainName, exact: OperatorNorms) -> None:
    images, labels = net.images(8), _labels(8, 3)
    last = net.program.run_to_last_layer(input_set(images, 2.0, 0.1, domain), exact)
    loss = last.differences(labels).square().sum()
    names, parameters = zip(*net.model.named_parameters(), strict=True)
    for name, gradient in zip(names, torch.autograd.grad(loss, parameters), strict=True):
        assert gradient.isfinite().all(), name
        assert gradient.any() or name.endswith("bias"), name


def test_domain_gradients_are_those_of_finite_differences(
    net: Net, domain: DomainName, exact: OperatorNorms, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Slopes are wrong by what the search for a tangent leaves; divided by a small step that is much.
    monkeypatch.setattr(curved, "_STEPS", 34)
    images, labels = net.images(3), _labels(3, 3)
    parameters: list[Tensor] = list(net.model.parameters())
    before = [parameter.detach().clone() for parameter in parameters]
    upstream = torch.randn(3, 4, dtype=torch.float64)

    def last_layer() -> LastLayer:
        return net.program.run_to_last_layer(input_set(images, 2.0, 0.2, domain, clip=True), exact)

    def loss() -> Tensor:
        last = last_layer()
        differences = last.differences(labels)
        return (differences * upstream[:, : differences.shape[1]]).sum()

    directions = [torch.randn_like(parameter) for parameter in parameters]
    slope = _inner(torch.autograd.grad(loss(), parameters), directions)
    ends = []
    with torch.no_grad():
        for step in (1e-6, -2e-6):  # there, and as far on the other side
            torch._foreach_add_(parameters, directions, alpha=step)
            ends.append(loss())
        torch._foreach_copy_(parameters, before)
    torch.testing.assert_close(slope, (ends[0] - ends[1]) / 2e-6, rtol=1e-4, atol=1e-6)


def _inner(gradients: Sequence[Tensor], directions: Sequence[Tensor]) -> Tensor:
    products = [(g * d).sum() for g, d in zip(gradients, directions, strict=True)]
    return torch.stack(products).sum()
