"""The option ``stretch`` of the strided builders, which cuts pixels off before the first convolution."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn

from withstand.certificates import certify
from withstand.constraints import SpectralBall
from withstand.constraints.parametrize import PARAMETRIZATIONS
from withstand.models import create
from withstand.types import ModelError

SHAPE = (2, 16, 16)


def _network(name: str = "cnn-small", **options: Any) -> nn.Module:
    torch.manual_seed(0)
    return create(name, input_shape=SHAPE, num_classes=3, **options)


def _front(low: float, high: float) -> nn.Module:
    network = _network(stretch=[low, high])
    assert isinstance(network, nn.Sequential)
    return network[:2]


@given(low=st.floats(-0.5, 0.5), width=st.floats(0.01, 2.0))
def test_stretch_maps_low_to_0_and_high_to_1_and_cuts_off_the_rest(low: float, width: float) -> None:
    assume(low + width > 0)
    places = torch.tensor([-3.0, 0.0, 0.25, 0.5, 1.0, 4.0])
    pixels = (low + width * places).expand(1, 2, 1, -1)
    expected = places.clamp(0, 1).expand(1, 2, 1, -1)
    torch.testing.assert_close(_front(low, low + width)(pixels), expected, rtol=0, atol=1e-3)


def test_stretch_treats_each_channel_by_itself() -> None:
    images = torch.full((1, *SHAPE), 0.5)
    images[:, 1] = 0.9
    stretched = _front(0.4, 0.6)(images)
    torch.testing.assert_close(stretched[:, 0], torch.full((1, 16, 16), 0.5), rtol=0, atol=1e-6)
    torch.testing.assert_close(stretched[:, 1], torch.ones(1, 16, 16), rtol=0, atol=0)


@pytest.mark.parametrize("method", ["box", "box_ball", "linear"])
def test_black_and_white_images_are_proven_up_to_what_stretch_cuts_off(method: Any) -> None:
    model, plain = _network(stretch=[0.35, 0.65]).eval(), _network().eval()
    images = torch.randint(2, (8, *SHAPE), generator=torch.Generator().manual_seed(1)).float()
    labels = model(images).argmax(1)
    inside, outside = (
        certify(model, images, labels, norm=math.inf, epsilon=epsilon, method=method)
        for epsilon in (0.34, 0.5)
    )
    assert inside.certified.all()
    assert not outside.certified.all()
    without = certify(plain, images, plain(images).argmax(1), norm=math.inf, epsilon=0.34, method=method)
    assert not without.certified.all()


@pytest.mark.parametrize("name", ["cnn-small", "cnn-medium", "cnn-3c2f", "cnn-4c3f", "cnn-6c2f"])
def test_stretch_changes_no_other_weight(name: str) -> None:
    plain, stretched = _network(name, stretch=None), _network(name, stretch=(0.2, 0.8))
    for one, other in zip(plain.parameters(), list(stretched.parameters())[2:], strict=True):
        assert torch.equal(one, other)
    assert stretched(torch.rand(2, *SHAPE)).shape == (2, 3)


def test_stretch_learns() -> None:
    model = _network(stretch=(0.2, 0.8))
    model(torch.rand(4, *SHAPE)).square().sum().backward()
    scale, shift = list(model.parameters())[:2]
    for gradient in (scale.grad, shift.grad):
        assert gradient is not None
        assert gradient.abs().min() > 0


@pytest.mark.parametrize(
    "stretch",
    [
        *((0.6, 0.4), (0.5, 0.5), (float("nan"), 0.5), (0.0, float("inf")), (0.1,), 0.5, ("a", "b"), "01"),
        *((90.0, 165.0), (-1.0, 0.0), (-1e308, 1e308), (0.1, 0.1 + 1e-9)),
    ],
    ids=str,
)
def test_stretch_refuses_what_is_no_pair_of_ascending_values(stretch: Any) -> None:
    with pytest.raises(ModelError, match="stretch must be two numbers, the lower first, with pixels"):
        _network(stretch=stretch)


def test_stretch_refuses_normalisation_in_front() -> None:
    with pytest.raises(ModelError, match=r"--model\.normalize=false"):
        create("cnn-small", dataset="mnist", stretch=(0.35, 0.65))
    assert create("cnn-small", dataset="mnist", stretch=(0.35, 0.65), normalize=False)


def test_an_option_of_that_name_of_a_users_own_network_is_their_own(tmp_path: Path) -> None:
    file = tmp_path / "own.py"
    file.write_text(
        "from torch import nn\n"
        "def net(stretch):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10 * stretch), nn.Linear(10 * stretch, 10))\n"
    )
    model = create(f"{file}:net", dataset="mnist", stretch=2)
    assert model(torch.rand(1, 1, 28, 28)).shape == (1, 10)


@pytest.mark.parametrize("constrain", [*PARAMETRIZATIONS.values(), SpectralBall(1.0).project_])
def test_constraints_refuse_to_shrink_what_stretches(constrain: Callable[[nn.Module], None]) -> None:
    """With a smaller scale and the same shift every pixel would be cut off, and nothing would say why."""
    model = _network(stretch=[0.35, 0.65])
    with pytest.raises(ModelError, match="stretches pixels"):
        constrain(model)
    assert torch.unique(model(torch.rand(4, *SHAPE))).numel() > 3
