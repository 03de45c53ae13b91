"""Attacks that may change some pixels only."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from withstand.attacks import PGD, AtMeans, Cascade, Channels, Mask, Noise, Patch, Region
from withstand.core import norms
from withstand.core.identity import identity
from withstand.evaluation.plans import AttackPlan, CertificatePlan, default_plans, worst_plans
from withstand.types import DataError

NORMS = (1.0, 2.0, math.inf)
IMAGES = torch.zeros(2, 3, 4, 5)
PATCH = Patch(top=1, left=2, height=2, width=3)


def _allowed(mask: Mask) -> Tensor:
    pixels = mask.pixels(IMAGES)
    assert pixels.shape == (1, 3, 4, 5)
    assert pixels.dtype == torch.bool
    return pixels[0]


def test_masks_are_the_pixels_that_they_say(tmp_path: Path) -> None:
    expected = torch.zeros(3, 4, 5, dtype=torch.bool)
    expected[:, 1:3, 2:5] = True
    assert torch.equal(_allowed(PATCH), expected)
    assert torch.equal(_allowed(Region(expected.numpy())), expected)
    assert torch.equal(_allowed(Region(expected[0].int().tolist())), expected)
    np.save(tmp_path / "mask.npy", expected[0].numpy())
    assert torch.equal(_allowed(Region(str(tmp_path / "mask.npy"))), expected)
    channels = torch.zeros(3, 4, 5, dtype=torch.bool)
    channels[[0, 2]] = True
    assert torch.equal(_allowed(Channels([0, 2])), channels)


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("mode", ["training", "evaluation", "random"])
def test_masked_attack_changes_its_pixels_alone_and_stays_in_their_ball(
    p: float, dtype: torch.dtype, mode: Any
) -> None:
    torch.manual_seed(0)
    images, labels = torch.rand(6, 3, 4, 5).to(dtype), torch.arange(6) % 3
    model = nn.Sequential(nn.Flatten(), nn.Linear(60, 3)).to(
        dtype if dtype == torch.float64 else torch.float32
    )
    attack = PGD(p, 0.3, num_steps=3, num_restarts=2, mask=PATCH, mode=mode)
    moved = attack(model, images, labels)
    delta = moved.double() - images.double()
    assert not delta.where(~_allowed(PATCH), 0.0).any()
    assert delta.any()
    assert norms.norm(delta, p).max() <= 0.3 * (1 + 1e-5) + 1e-6


@pytest.mark.parametrize("p", NORMS)
def test_masked_attack_of_a_linear_model_is_the_optimum_of_its_pixels(
    p: float, slope: Callable[[Tensor], nn.Module]
) -> None:
    weight = torch.tensor([5.0, -1.0, 2.0, 1.0], dtype=torch.float64)
    images = torch.full((2, 4), 0.5, dtype=torch.float64)
    attack = PGD(p, 0.1, num_steps=40, step_size=0.1, mask=Channels([1, 2]))
    expected = images + 0.1 * norms.steepest(torch.tensor([[0.0, -1.0, 2.0, 0.0]], dtype=torch.float64), p)
    actual = attack(slope(weight), images, torch.tensor([0, 0]))
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("p", NORMS)
def test_random_start_is_uniform_in_the_ball_of_the_pixels(p: float) -> None:
    """As a draw in as many dimensions as there are pixels: the share within half of the radius is 2^-d."""
    mask = torch.tensor([[True, False, True, False, False, True]])
    drawn = norms.random_in_ball(torch.zeros(20000, 6), p, 2.0, mask=mask)
    assert not drawn[:, ~mask[0]].any()
    lengths = norms.norm(drawn, p)
    assert lengths.max() <= 2.0 + 1e-6
    assert (lengths <= 1.0).float().mean().item() == pytest.approx(1 / 8, abs=0.012)
    assert drawn.mean(dim=0).abs().max() < 0.04


def test_mask_of_all_pixels_changes_nothing() -> None:
    torch.manual_seed(0)
    images, labels = torch.rand(4, 3, 4, 5), torch.arange(4) % 3
    model = nn.Sequential(nn.Flatten(), nn.Linear(60, 3))
    for p in NORMS:
        attack, results = PGD(p, 0.3, num_steps=3), []
        for each in (attack, replace(attack, mask=Channels([0, 1, 2]))):
            torch.manual_seed(1)
            results.append(each(model, images, labels))
        torch.testing.assert_close(*results)


def test_masked_attack_says_so(tmp_path: Path) -> None:
    attack = PGD(num_steps=20, mask=PATCH)
    assert attack.name == "pgd-20-patch-2x3-at-1-2-linf"
    assert "only patch-2x3-at-1-2 may change" in attack.describe()
    assert PGD(num_steps=20, mask=Channels([0, 2])).name == "pgd-20-channels-0-2-linf"
    regions = [Region([[1, 0], [0, 0]]), Region([[0, 1], [0, 0]])]
    assert regions[0].name.startswith("region-1-")
    assert regions[0].name != regions[1].name
    assert identity(regions[0]) != identity(regions[1])
    assert identity(regions[0]) == identity(Region([[1, 0], [0, 0]]))
    assert AtMeans(attack).is_masked
    assert not Cascade([attack, PGD(num_steps=20)]).is_masked


def test_masked_attack_stands_for_no_attack_on_all_pixels() -> None:
    masked, whole = PGD(num_steps=5, mask=PATCH), PGD(num_steps=5)
    plans = [AttackPlan(attack, [0.1], attack.name) for attack in (masked, whole)]
    assert worst_plans(plans) == []
    certificate = CertificatePlan(math.inf, "box", True, False, 1.0, [0.1], "certified", "")
    assert [plan.attack.is_masked for plan in default_plans([certificate], plans[:1])] == [False]
    assert default_plans([certificate], plans) == []


@pytest.mark.parametrize("mask", [Patch(0, 0, 5, 1), Patch(0, 3, 1, 3), Channels([3]), Region([[1, 0]])])
def test_mask_that_does_not_fit_the_images_is_refused(mask: Mask) -> None:
    with pytest.raises(DataError, match=r"Expected (images of at least|a mask of the shape)"):
        mask.pixels(IMAGES)


@pytest.mark.parametrize("allowed", [[[0, 0]], ["a"], 1, [], [[1, 0], [1]]])
def test_region_without_pixels_is_refused(allowed: Any) -> None:
    with pytest.raises(ValueError, match="Expected allowed as an array in the shape of an image"):
        Region(allowed)


@pytest.mark.parametrize("other", [math.nan, 0.5, -1, 2])
def test_region_of_other_numbers_than_0_and_1_is_refused(other: float) -> None:
    with pytest.raises(
        ValueError, match=rf"with a 1 where a pixel may change and 0 elsewhere, but .* {other}"
    ):
        Region([[1, other]])


def test_what_is_no_mask_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"Expected mask to be a mask, such as attacks\.Patch"):
        PGD(mask=torch.ones(4))  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"cannot be read.*numpy\.save"):
        Region(tmp_path / "none.npy")
    with pytest.raises(TypeError, match="mask"):
        Noise(mask=PATCH)  # type: ignore[call-arg]


@pytest.mark.parametrize("name", ["empty.npy", "cut.npz", "several.npz"])
def test_file_that_holds_no_array_is_refused(name: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "several.npz", allowed=np.ones((4, 5)))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "several.npz").read_bytes()[:50])
    (tmp_path / "empty.npy").touch()
    with pytest.raises(DataError, match=rf"{name} cannot be read.*numpy\.save"):
        Region(tmp_path / name)
