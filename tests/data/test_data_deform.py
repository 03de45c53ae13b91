from __future__ import annotations

import math
from collections.abc import Callable
from itertools import islice
from typing import TYPE_CHECKING

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from withstand.data import Deform, Split, affine_fields, deformed_stream, tangent_images, warp
from withstand.types import DataError

if TYPE_CHECKING:
    from tests.devices.pretended import Device

NOTHING = Deform(translation=0, rotation=0, scaling=0, displacement=0)
SEEDS = st.integers(0, 2**31)
SHAPES = st.tuples(st.integers(0, 3), st.integers(1, 4), st.integers(1, 9), st.integers(1, 9))
DEFORMS = st.builds(
    Deform,
    translation=st.floats(0, 5),
    rotation=st.floats(0, 180),
    scaling=st.floats(0, 0.9),
    displacement=st.floats(0, 5),
    smoothness=st.floats(0, 20),
)


def drawn(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.rand(shape, generator=drawn(seed), dtype=dtype)


def constant_field(x: float, y: float, height: int, width: int) -> Tensor:
    return torch.tensor([x, y], dtype=torch.float64)[None, :, None, None].expand(1, 2, height, width)


def turned(images: Tensor, angle: float, factor: float = 1.0) -> Tensor:
    """All images turned by the angle in degrees and grown by the factor."""
    count, _, height, width = images.shape
    angles, factors = (torch.full((count,), value, dtype=torch.float64) for value in (angle, factor))
    fields = affine_fields(
        angles, factors, torch.zeros(count, 2, dtype=torch.float64), height=height, width=width
    )
    return warp(images, fields)


def blob(size: int, x: float, y: float, width: float) -> Tensor:
    """A smooth round spot at (x, y) from the image centre, x to the right and y down."""
    place = torch.arange(size, dtype=torch.float64) - (size - 1) / 2
    return (-((place - x).square() + (place[:, None] - y).square()) / (2 * width**2)).exp()[None, None]


# -- warp --------------------------------------------------------------------------------------------


@given(shape=SHAPES, seed=SEEDS, dtype=st.sampled_from([torch.float16, torch.float32, torch.float64]))
def test_warp_by_a_field_of_zeros_changes_no_bit(
    shape: tuple[int, int, int, int], seed: int, dtype: torch.dtype
) -> None:
    images = noise(*shape, seed=seed).to(dtype)
    zeros = torch.zeros(shape[0], 2, *shape[2:])
    assert torch.equal(warp(images, zeros), images)
    assert warp(images, zeros).dtype == dtype
    levels = (images * 255).round().to(torch.uint8)
    assert torch.equal(warp(levels, zeros), levels)


@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 40), st.integers(1, 40)),
    right=st.integers(-6, 6),
    down=st.integers(-6, 6),
    seed=SEEDS,
)
def test_warp_by_whole_pixels_shifts_bit_for_bit(
    shape: tuple[int, int, int, int], right: int, down: int, seed: int
) -> None:
    images = noise(*shape, seed=seed, dtype=torch.float32)
    fields = constant_field(right, down, *shape[2:]).expand(shape[0], -1, -1, -1)
    expected = F.pad(F.pad(images, (-right, right)), (0, 0, -down, down)) if _fits(right, down, shape) else 0
    assert torch.equal(warp(images, fields), expected + torch.zeros_like(images))


def _fits(right: int, down: int, shape: tuple[int, int, int, int]) -> bool:
    return abs(right) < shape[3] and abs(down) < shape[2]


def test_warp_between_pixels_is_the_weighted_mean_of_four() -> None:
    images = torch.tensor([[[[0.0, 0.4], [0.8, 1.0]]]], dtype=torch.float64)
    moved = warp(images, constant_field(0.25, 0.5, 2, 2))
    top_left = 0.5 * (0.75 * 0.0 + 0.25 * 0.4) + 0.5 * (0.75 * 0.8 + 0.25 * 1.0)
    assert moved.flatten().tolist() == pytest.approx([top_left, 0.75 * 0.7, 0.5 * 0.85, 0.375])


def test_warp_moves_each_image_by_its_own_field() -> None:
    images = noise(3, 2, 5, 6)
    fields = 3 * noise(3, 2, 5, 6, seed=1) - 1
    alone = [warp(image[None], field[None]) for image, field in zip(images, fields, strict=True)]
    assert torch.equal(warp(images, fields), torch.cat(alone))


def test_warp_rounds_uint8_to_the_nearest_level() -> None:
    levels = (noise(2, 3, 6, 7) * 255).to(torch.uint8)
    fields = 2 * noise(2, 2, 6, 7, seed=1, dtype=torch.float32) - 1
    exact = warp(levels.double(), fields)
    moved = warp(levels, fields)
    assert moved.dtype == torch.uint8
    assert (moved.double() - exact).abs().max() <= 0.5 + 1e-4


def test_warp_keeps_a_white_image_white_with_its_gradient() -> None:
    # Somewhere in here four weights add up to more than 1.
    fields = noise(1, 2, 64, 64, dtype=torch.float32) - 0.5
    white = torch.ones(1, 1, 64, 64, requires_grad=True)
    moved = warp(white, fields)
    assert moved.max() <= 1
    grey = torch.full_like(white, 0.5, requires_grad=True)
    (of_white,) = torch.autograd.grad(moved.sum(), white)
    (of_grey,) = torch.autograd.grad(warp(grey, fields).sum(), grey)
    assert torch.equal(of_white, of_grey)


@pytest.mark.parametrize("function", [warp, tangent_images])
def test_warp_needs_fields_that_fit_their_images(function: Callable[[Tensor, Tensor], Tensor]) -> None:
    with pytest.raises(ValueError, match=r"fields of shape \(2, 2, 4, 5\), but got \(1, 2, 4, 5\)"):
        function(torch.zeros(2, 3, 4, 5), torch.zeros(1, 2, 4, 5))


# -- rotation and change of size ---------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 7, 8])
@pytest.mark.parametrize("quarters", [-1, 1, 2])
def test_affine_fields_turn_against_the_clock(size: int, quarters: int) -> None:
    images = noise(2, 3, size, size)
    expected = torch.rot90(images, quarters, dims=(2, 3))
    assert torch.allclose(turned(images, 90.0 * quarters), expected, atol=1e-9)


def test_affine_fields_move_a_spot_along_its_circle() -> None:
    angle = math.radians(20)
    # On the screen y grows downwards, so against the clock means from the right upwards.
    expected = blob(41, 10 * math.cos(angle), -10 * math.sin(angle), 4)
    assert (turned(blob(41, 10, 0, 4), 20) - expected).abs().max() < 0.02


def test_affine_fields_take_a_factor_as_new_size_over_old() -> None:
    expected = blob(41, 7.5, 0, 4.5)
    assert (turned(blob(41, 5, 0, 3), 0, factor=1.5) - expected).abs().max() < 0.03


@pytest.mark.parametrize(("height", "width"), [(6, 9), (1, 5), (4, 1)])
def test_affine_fields_flip_both_axes_in_a_half_turn(height: int, width: int) -> None:
    images = noise(2, 1, height, width)
    assert torch.allclose(turned(images, 180), images.flip(2, 3), atol=1e-9)


def test_affine_fields_of_a_small_angle_are_the_first_order_ones() -> None:
    angle = 1e-3
    one = torch.ones(1, dtype=torch.float64)
    fields = affine_fields(
        torch.rad2deg(angle * one), one, torch.zeros(1, 2, dtype=torch.float64), height=5, width=7
    )
    x = torch.arange(-3, 4, dtype=torch.float64).expand(5, 7)
    y = torch.arange(-2, 3, dtype=torch.float64)[:, None].expand(5, 7)
    assert torch.allclose(fields[0] / angle, torch.stack((-y, x)), atol=3 * angle)


# -- tangents ----------------------------------------------------------------------------------------


@given(
    shape=st.tuples(st.integers(1, 2), st.integers(1, 3), st.integers(1, 8), st.integers(1, 8)), seed=SEEDS
)
def test_tangent_images_are_symmetric_difference_quotients_of_warp(
    shape: tuple[int, int, int, int], seed: int
) -> None:
    images = noise(*shape, seed=seed)
    fields = 6 * noise(shape[0], 2, *shape[2:], seed=seed + 1) - 3
    step = 1e-6
    quotient = (warp(images, step * fields) - warp(images, -step * fields)) / (2 * step)
    assert torch.allclose(tangent_images(images, fields), quotient, atol=1e-4)


def test_tangent_image_of_a_smooth_image_is_its_derivative() -> None:
    images = blob(21, 2, 0, 4)
    shift = constant_field(1, 0, 21, 21)
    place = torch.arange(21, dtype=torch.float64) - 10
    derivative = -(place - 2) / 16 * images
    assert (tangent_images(images, shift) - derivative)[..., 1:-1].abs().max() < 0.01


def test_tangent_images_of_uint8_are_in_units_of_one() -> None:
    levels = (noise(2, 3, 5, 4) * 255).to(torch.uint8)
    fields = noise(2, 2, 5, 4, dtype=torch.float32)
    tangents = tangent_images(levels, fields)
    assert tangents.dtype == torch.float32
    assert torch.allclose(tangents, tangent_images(levels.float() / 255, fields))
    assert tangent_images(levels.half() / 255, fields).dtype == torch.float16


def test_deform_tangents_and_copies_follow_the_same_fields() -> None:
    images = noise(3, 2, 6, 5)
    deform = Deform()
    fields = deform.fields(12, 6, 5, device="cpu", generator=drawn(3))
    repeated = images.repeat_interleave(4, 0)
    tangents = deform.tangents(images, 4, generator=drawn(3))
    copies = deform.copies(images, 4, generator=drawn(3))
    assert torch.equal(tangents.flatten(0, 1), tangent_images(repeated, fields))
    assert torch.equal(copies.flatten(0, 1), warp(repeated, fields))


# -- random fields -----------------------------------------------------------------------------------


@given(shape=SHAPES, deform=DEFORMS, num=st.integers(1, 3), seed=SEEDS)
def test_deform_takes_every_shape_type_and_range(
    shape: tuple[int, int, int, int], deform: Deform, num: int, seed: int
) -> None:
    images = noise(*shape, seed=seed, dtype=torch.float32)
    copies = deform.copies(images, num, generator=drawn(seed))
    assert copies.shape == (shape[0], num, *shape[1:])
    assert copies.dtype == images.dtype
    assert ((copies >= 0) & (copies <= 1)).all()
    levels = (images * 255).to(torch.uint8)
    assert deform(levels, generator=drawn(seed)).dtype == torch.uint8
    assert deform(levels, generator=drawn(seed)).shape == shape
    tangents = deform.tangents(levels, num, generator=drawn(seed))
    assert tangents.shape == copies.shape
    assert tangents.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_deform_with_all_parts_off_leaves_images_as_they_are(dtype: torch.dtype) -> None:
    images = (noise(4, 2, 5, 7) * 255).to(dtype)
    assert torch.equal(NOTHING(images), images)
    assert not torch.equal(Deform()(images), images)


def test_deform_shifts_are_uniform_in_their_range() -> None:
    deform = Deform(translation=3, rotation=0, scaling=0, displacement=0)
    fields = deform.fields(4000, 2, 3, device="cpu", generator=drawn(0))
    assert torch.equal(fields, fields[:, :, :1, :1].expand_as(fields))
    along = fields[:, :, 0, 0]
    assert along.abs().max() <= 3
    # The std of a uniform shift in [-3, 3] is √3; that of the mean of 4000 is 0.03.
    assert along.mean(0).tolist() == pytest.approx([0, 0], abs=0.11)
    assert along.std(0).tolist() == pytest.approx([math.sqrt(3)] * 2, abs=0.06)
    assert abs((along[:, 0] * along[:, 1]).mean()) < 0.2


def test_deform_angles_and_sizes_stay_in_their_ranges() -> None:
    deform = Deform(translation=0, rotation=30, scaling=0.2, displacement=0)
    fields = deform.fields(2000, 1, 3, device="cpu", generator=drawn(0))
    # The pixel to the right of the centre samples from (cos, sin) / factor.
    x, y = fields[:, 0, 0, 2] + 1, fields[:, 1, 0, 2]
    angles, factors = torch.rad2deg(torch.atan2(y, x)), 1 / torch.hypot(x, y)
    assert 29 < angles.max() <= 30 + 1e-4
    assert -30 - 1e-4 <= angles.min() < -29
    assert 1.19 < factors.max() <= 1.2 + 1e-5
    assert 0.8 - 1e-5 <= factors.min() < 0.81


@settings(deadline=None)
@given(
    size=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    smoothness=st.floats(0, 30),
    length=st.floats(0.1, 5),
)
def test_deform_fields_have_their_root_mean_square_length(
    size: tuple[int, int], smoothness: float, length: float
) -> None:
    deform = Deform(0, 0, 0, displacement=length, smoothness=smoothness)
    fields = deform.fields(5, *size, device="cpu", generator=drawn(0))
    assert fields.square().sum(1).mean((1, 2)).sqrt().tolist() == pytest.approx([length] * 5, rel=1e-4)


def test_deform_moves_pixels_alike_within_the_smoothness_and_alone_beyond_it() -> None:
    fields = Deform(0, 0, 0, 1, smoothness=2).fields(3000, 15, 11, device="cpu", generator=drawn(0))
    variances = fields.square().mean(0)
    # Borders and corners too.
    assert variances.flatten().tolist() == pytest.approx([0.5] * variances.numel(), abs=0.1)
    near = (fields[:, :, 7, 5] * fields[:, :, 7, 6]).mean() / 0.5
    far = (fields[:, :, 1, 5] * fields[:, :, 12, 5]).mean() / 0.5
    across = (fields[:, 0, 7, 5] * fields[:, 1, 7, 5]).mean() / 0.5
    # Of noise smoothed by a Gaussian of std 2, neighbours correlate by exp(-1 / 16).
    assert float(near) == pytest.approx(math.exp(-1 / 16), abs=0.1)
    assert float(far) == pytest.approx(0, abs=0.1)
    assert float(across) == pytest.approx(0, abs=0.1)


def test_deform_without_smoothness_moves_pixels_alone() -> None:
    fields = Deform(0, 0, 0, 1, smoothness=0).fields(3000, 4, 4, device="cpu", generator=drawn(0))
    assert abs((fields[:, 0, 1, 1] * fields[:, 0, 1, 2]).mean()) < 0.05


def test_deform_fields_are_not_touched_by_mixed_precision() -> None:
    plain = Deform().fields(2, 8, 8, device="cpu", generator=drawn(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = Deform().fields(2, 8, 8, device="cpu", generator=drawn(0))
    assert torch.equal(plain, mixed)


def test_deform_repeats_with_its_seed_and_each_copy_is_fresh() -> None:
    images = noise(1, 1, 8, 8).expand(6, -1, -1, -1)
    first = Deform()(images, generator=drawn(5))
    assert torch.equal(Deform()(images, generator=drawn(5)), first)
    assert len({tuple(image.flatten().tolist()) for image in first}) == 6
    torch.manual_seed(5)
    by_default = Deform()(images)
    assert torch.equal(by_default, first)
    assert not torch.equal(Deform()(images), by_default)


def test_deform_leaves_its_images_as_they_were() -> None:
    for deform in (NOTHING, Deform()):
        images = noise(2, 1, 4, 4)
        deform(images).zero_()
        assert torch.equal(images, noise(2, 1, 4, 4))


def test_deform_never_makes_the_host_wait_for_the_device(device: Device) -> None:
    images = device.put(noise(2, 1, 4, 4, dtype=torch.float32))
    with device.step():
        Deform().copies(images, 2)
        Deform().tangents(images, 2)
        Deform()((images * 255).to(torch.uint8))


# -- errors ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["translation", "rotation", "scaling", "displacement", "smoothness"])
@pytest.mark.parametrize("value", [-0.5, math.nan, math.inf])
def test_deform_refuses_values_outside_their_range(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"^Expected {name} .*0.*, but got {value}\.$"):
        Deform(**{name: value})


def test_deform_has_largest_angles_and_sizes() -> None:
    with pytest.raises(ValueError, match="rotation from 0 to 180, but got 181"):
        Deform(rotation=181)
    with pytest.raises(ValueError, match="scaling of at least 0 and below 1, but got 1"):
        Deform(scaling=1.0)


def test_deform_takes_only_images_of_a_known_type() -> None:
    with pytest.raises(DataError, match=r"images .* alone, but these are vectors of 10. Leave them out"):
        Deform()(torch.zeros(4, 10))
    with pytest.raises(DataError, match=r"floats or uint8, but have type torch\.int64"):
        Deform()(torch.zeros(4, 1, 2, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match="num must be at least 1, but is 0"):
        Deform().copies(torch.zeros(1, 1, 2, 2), 0)


# -- the endless stream ------------------------------------------------------------------------------


def numbered(count: int) -> Split:
    """A split whose labels are the numbers of its examples, and whose images show them."""
    labels = torch.arange(count)
    return Split((labels * 3).to(torch.uint8)[:, None, None, None].expand(-1, 1, 4, 4).clone(), labels)


@given(count=st.integers(1, 9), batch_size=st.integers(1, 20), seed=SEEDS)
def test_deformed_stream_visits_all_examples_in_each_pass(count: int, batch_size: int, seed: int) -> None:
    stream = deformed_stream(numbered(count), Deform(), batch_size, seed=seed)
    stretch = list(islice(stream, math.ceil(3 * count / batch_size)))
    assert {len(batch.labels) for batch in stretch} == {batch_size}
    labels = torch.cat([batch.labels for batch in stretch]).tolist()
    for start in (0, count, 2 * count):
        assert sorted(labels[start : start + count]) == list(range(count))


def test_deformed_stream_repeats_with_its_seed_and_is_always_fresh() -> None:
    split = numbered(8)
    first, again, other = (
        list(islice(deformed_stream(split, Deform(), 8, seed=seed), 5)) for seed in (1, 1, 2)
    )
    for batch, same, different in zip(first, again, other, strict=True):
        assert torch.equal(batch.images, same.images)
        assert torch.equal(batch.labels, same.labels)
        assert not torch.equal(batch.images, different.images)
    assert len({tuple(batch.labels.tolist()) for batch in first}) == 5
    assert len({image.numpy().tobytes() for batch in first for image in batch.images}) == 40 - 5 + 1


def test_deformed_stream_hands_out_floats_with_their_labels() -> None:
    images, labels = next(deformed_stream(numbered(8), NOTHING, 20))
    assert images.dtype == torch.float32
    assert torch.equal(images, (labels * 3)[:, None, None, None].expand_as(images) / 255)


def test_deformed_stream_leaves_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    next(deformed_stream(numbered(4), Deform(), 4))
    assert torch.equal(torch.get_rng_state(), before)


def test_deformed_stream_needs_examples_and_a_batch_size_at_once() -> None:
    with pytest.raises(DataError, match="no examples to deform"):
        deformed_stream(numbered(0), Deform(), 4)
    with pytest.raises(ValueError, match="batch_size must be at least 1, but is 0"):
        deformed_stream(numbered(4), Deform(), 0)
