"""The sets that an attacker may choose from."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from withstand.core import norms
from withstand.domains import DOMAINS, Ball, Box, BoxBall, DomainName, input_set

NAMES: tuple[DomainName, ...] = ("box_ball", "box", "ball", "linear")
IMAGES = torch.tensor([[0.0, 0.5, 1.0, 0.95], [0.3, 0.4, 0.1, 0.05]], dtype=torch.float64)
EPSILON = 0.2


def test_domains_are_all_tested() -> None:
    assert set(NAMES) == set(DOMAINS)


@pytest.mark.parametrize("norm", [2.0, math.inf])
def test_input_box_is_cut_where_images_end(norm: float) -> None:
    whole, cut = (input_set(IMAGES, norm, EPSILON, "box", clip=clip) for clip in (False, True))
    torch.testing.assert_close(whole.ends, (IMAGES - EPSILON, IMAGES + EPSILON))
    torch.testing.assert_close(cut.ends, ((IMAGES - EPSILON).clamp(min=0), (IMAGES + EPSILON).clamp(max=1)))


def test_input_ball_for_l2_is_that_ball() -> None:
    for clip in (False, True):
        ball = input_set(IMAGES, 2.0, EPSILON, "ball", clip=clip)
        assert isinstance(ball, Ball)
        assert torch.equal(ball.midpoint, IMAGES)
        assert ball.radius.tolist() == [EPSILON]


def test_input_ball_for_linf_touches_the_corners() -> None:
    whole = input_set(IMAGES, math.inf, EPSILON, "ball")
    assert isinstance(whole, Ball)
    torch.testing.assert_close(whole.radius, torch.tensor([EPSILON * 2], dtype=torch.float64))
    cut = input_set(IMAGES, math.inf, EPSILON, "ball", clip=True)
    assert isinstance(cut, Ball)
    lower, upper = input_set(IMAGES, math.inf, EPSILON, "box", clip=True).ends
    for corner in (lower, upper):
        torch.testing.assert_close(norms.norm(corner - cut.midpoint, 2.0), cut.radius)
    assert (cut.radius < whole.radius).all()


@pytest.mark.parametrize("norm", [2.0, math.inf])
@pytest.mark.parametrize("clip", [False, True])
def test_input_box_ball_is_both(norm: float, clip: bool) -> None:
    both = input_set(IMAGES, norm, EPSILON, "box_ball", clip=clip)
    assert isinstance(both, BoxBall)
    torch.testing.assert_close(both.ends, input_set(IMAGES, norm, EPSILON, "box", clip=clip).ends)
    ball = input_set(IMAGES, norm, EPSILON, "ball", clip=clip)
    assert isinstance(ball, Ball)
    torch.testing.assert_close((both.center, both.ball.radius), (ball.midpoint, ball.radius))


@pytest.mark.parametrize("domain", NAMES)
@pytest.mark.parametrize("norm", [2.0, math.inf])
def test_input_set_takes_epsilon_in_the_precision_of_the_images(norm: float, domain: DomainName) -> None:
    """0.1 in float32 is another number: a set that is a little too small proves nothing."""
    lower, upper = input_set(torch.zeros(1, 1, dtype=torch.float64), norm, 0.1, domain).ends
    assert (float(lower), float(upper)) == (-0.1, 0.1)


@pytest.mark.parametrize("domain", NAMES)
def test_input_set_may_have_one_epsilon_an_example(domain: DomainName) -> None:
    epsilons = torch.tensor([0.1, 0.3])
    together = input_set(IMAGES, math.inf, epsilons, domain, clip=True)
    for row, epsilon in enumerate(epsilons.tolist()):
        alone = input_set(IMAGES[row : row + 1], math.inf, epsilon, domain, clip=True)
        for end, other in zip(together.ends, alone.ends, strict=True):
            torch.testing.assert_close(end[row : row + 1], other, rtol=1e-6, atol=1e-6)


def test_input_set_refuses_other_norms() -> None:
    with pytest.raises(ValueError, match=r"for the norms l1, l2 and linf, but got norm 3.0"):
        input_set(IMAGES, 3.0, EPSILON, "box")


def test_input_set_refuses_other_domains() -> None:
    name: Any = "zonotope"
    with pytest.raises(ValueError, match=r"a domain of box_ball, box, ball, linear, but got 'zonotope'"):
        input_set(IMAGES, 2.0, EPSILON, name)


# Sets of one's own


def test_input_set_of_ones_own_has_ends_and_centers() -> None:
    lower, upper = IMAGES - 0.1, IMAGES + 0.3
    box = Box(lower, upper)
    torch.testing.assert_close(box.center, IMAGES + 0.1)
    torch.testing.assert_close(Box.around(*box.parts).ends, (lower, upper))
    ball = Ball(IMAGES, torch.tensor([0.1, 0.2], dtype=torch.float64))
    away: Tensor = torch.tensor([[0.1], [0.2]], dtype=torch.float64)
    torch.testing.assert_close(ball.ends, (IMAGES - away, IMAGES + away))
    assert BoxBall(ball).ends[0].equal(ball.ends[0])
    assert BoxBall(ball, box).ends == (lower, upper)
    for value in (box, ball, BoxBall(ball)):
        assert (value.shape, value.example_shape) == (IMAGES.shape, (4,))
