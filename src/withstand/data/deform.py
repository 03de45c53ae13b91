"""Random smooth deformations of images, as displacement fields, on the images' device.

Every deformation is a displacement field f in pixels: the deformed image is x(u + f(u)). Shifts,
rotations, changes of size and smooth random displacements add up to one field. The tangent image
is the derivative of x(u + a f(u)) in a at 0 (Bietti et al., arXiv 1810.00363, the norms ‖f‖_τ
and ‖D_τ f‖).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from withstand.core.batch_shares import filled
from withstand.core.dataset_info import require_images
from withstand.core.noise import gaussian_filter
from withstand.core.setting_rules import AT_LEAST_0, Number, settle
from withstand.data.batches import batch_at, to_unit_range
from withstand.data.partition import derived_seed, epoch_order
from withstand.data.split import Split
from withstand.types import Batch, DataError

# The least std of the smoothing Gaussian, in pixels: with it each pixel is alone in float32.
_SHARPEST = 0.01


@dataclass(frozen=True)
class Deform:
    """A fresh random deformation of each image; 0 switches a part off.

    Shift, angle and size are uniform in their ranges. Usable as the augmentation of a training.

    Args:
        translation: Largest shift along each axis, in pixels.
        rotation: Largest angle, in degrees, at most 180.
        scaling: Largest relative change of size, below 1.
        displacement: Root-mean-square length of each smooth random displacement field, in pixels.
        smoothness: Std in pixels of the Gaussian that smooths white noise to that field.

    Raises:
        ValueError: a value is outside its range.
    """

    translation: float = 2.0
    rotation: float = 15.0
    scaling: float = 0.1
    displacement: float = 1.0
    smoothness: float = 4.0

    def __post_init__(self) -> None:
        settle(
            self,
            translation=AT_LEAST_0,
            rotation=Number(least=0, most=180),
            scaling=Number(least=0, below=1),
            displacement=AT_LEAST_0,
            smoothness=AT_LEAST_0,
        )

    def __call__(self, images: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """One fresh deformation of each image.

        Args:
            images: Tensor (batch, channels, height, width), floats in [0, 1] or uint8.
            generator: What to draw from, on the images' device; by default torch's global one.

        Returns:
            A tensor like ``images``, of their type and within their range or 0.

        Raises:
            DataError: ``images`` has another number of axes or another type.
        """
        return self.copies(images, 1, generator=generator)[:, 0]

    def copies(self, images: Tensor, num: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Fresh deformations of each image.

        Args:
            images: As for a call.
            num: How many of each image, at least 1.
            generator: As for a call.

        Returns:
            (batch, num, channels, height, width), of the type of ``images``.

        Raises:
            DataError: ``images`` has another number of axes or another type.
            ValueError: ``num`` is not positive.
        """
        return _warp(images, self._fields_for(images, num, generator))

    def tangents(self, images: Tensor, num: int, *, generator: torch.Generator | None = None) -> Tensor:
        """Tangent images along fresh fields of the same distribution.

        Args:
            images: As for a call.
            num: How many of each image, at least 1.
            generator: As for a call.

        Returns:
            Floats (batch, num, channels, height, width), as ``tangent_images`` makes them.

        Raises:
            DataError: ``images`` has another number of axes or another type.
            ValueError: ``num`` is not positive.
        """
        return _tangents(images, self._fields_for(images, num, generator))

    def fields(
        self,
        count: int,
        height: int,
        width: int,
        *,
        device: torch.device | str,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Fresh displacement fields.

        Args:
            count: How many.
            height: Height of the images, in pixels.
            width: Their width.
            device: Where the fields are to be.
            generator: What to draw from, on ``device``; by default torch's global one.

        Returns:
            float32 tensor (count, 2, height, width), in pixels: along the width, then the height.
        """
        return self._fields(torch.empty(count, 1, 0, device=device), height, width, generator)

    def _fields(self, like: Tensor, height: int, width: int, generator: torch.Generator | None) -> Tensor:
        """Fresh fields (batch * num, 2, height, width), for each row of a float32 tensor (batch, num, …)."""
        batch, num = like.shape[:2]
        room = like.new_empty(batch, num * 4)
        draws = 2 * filled(room, lambda rows: rows.uniform_(generator=generator)).view(-1, 4) - 1
        angles, factors = self.rotation * draws[:, 0], 1 + self.scaling * draws[:, 1]
        moved = affine_fields(angles, factors, self.translation * draws[:, 2:], height=height, width=width)
        if self.displacement == 0:
            return moved
        room = moved.new_empty(batch, num * 2, height, width)
        noise = filled(room, lambda rows: rows.normal_(generator=generator)).view(moved.shape)
        return moved + self.displacement * _smooth(noise, self.smoothness)

    def _fields_for(self, images: Tensor, num: int, generator: torch.Generator | None) -> Tensor:
        """(batch, num, 2, height, width)."""
        _require_images(images)
        if num < 1:
            raise ValueError(f"num must be at least 1, but is {num}.")
        batch, _, height, width = images.shape
        like = torch.empty(batch, num, 0, device=images.device)
        drawn = self._fields(like, height, width, generator)
        return drawn.view(batch, num, 2, height, width)


def affine_fields(angles: Tensor, factors: Tensor, shifts: Tensor, *, height: int, width: int) -> Tensor:
    """The fields of exact rotations and changes of size about the image centre, and of shifts.

    Where ``warp`` follows a field, its image turns by the angle, against the clock as displayed,
    and grows by the factor. The field of a small angle t (radians) is t (−y, x) to first order,
    with x to the right and y down from the centre; a large angle gives a true rotation.

    Args:
        angles: In degrees (n,).
        factors: New size over old (n,), positive.
        shifts: Displacements along the width and the height, in pixels (n, 2); the image moves
            the other way.
        height: Height of the images, in pixels.
        width: Their width.

    Returns:
        Tensor (n, 2, height, width), in pixels: along the width, then the height.
    """
    radians = torch.deg2rad(angles)
    cosines, sines = ((part / factors)[:, None, None] for part in (radians.cos(), radians.sin()))
    x = torch.arange(width, device=angles.device, dtype=angles.dtype) - (width - 1) / 2
    y = torch.arange(height, device=angles.device, dtype=angles.dtype)[:, None] - (height - 1) / 2
    along_width = (cosines - 1) * x - sines * y
    along_height = sines * x + (cosines - 1) * y
    return torch.stack((along_width, along_height), 1) + shifts[:, :, None, None]


def warp(images: Tensor, fields: Tensor) -> Tensor:
    """Images x(u + field(u)): bilinear between pixels, 0 outside the image.

    A whole-pixel field copies pixels bit for bit, so a field of zeros changes nothing.

    Args:
        images: Tensor (batch, channels, height, width), floats or uint8.
        fields: Displacements in pixels (batch, 2, height, width): along the width, then the height.

    Returns:
        A tensor like ``images``; uint8 is rounded to the nearest level. No value is outside the
        range of its image and 0.

    Raises:
        DataError: ``images`` has another number of axes or another type.
        ValueError: ``fields`` does not fit ``images``.
    """
    _require_fit(images, fields)
    return _warp(images, fields[:, None])[:, 0]


def tangent_images(images: Tensor, fields: Tensor) -> Tensor:
    """The derivative of x(u + a field(u)) in a at 0: field · ∇x by central differences, 0 outside.

    It is the limit of (warp(images, a fields) − warp(images, −a fields)) / 2a at every pixel. The
    tangent is along the displacement itself: of a large rotation it is not that of the angle.

    Args:
        images: Tensor (batch, channels, height, width), floats or uint8; uint8 counts as
            multiples of 1/255.
        fields: Displacements in pixels (batch, 2, height, width), as for ``warp``.

    Returns:
        Floats (batch, channels, height, width), of the type of float images, else float32.

    Raises:
        DataError: ``images`` has another number of axes or another type.
        ValueError: ``fields`` does not fit ``images``.
    """
    _require_fit(images, fields)
    return _tangents(images, fields[:, None])[:, 0]


def deformed_stream(split: Split, deform: Deform, batch_size: int, *, seed: int = 0) -> Iterator[Batch]:
    """An endless stream of freshly deformed examples, like infinite MNIST (Loosli et al., 2007).

    Each pass visits all examples once, in a new order. Batches cross its end, so all are of one size.

    Args:
        split: Where the examples come from; batches are on its device.
        deform: How they are deformed.
        batch_size: Examples a batch, at least 1.
        seed: Fixes orders and deformations; the same orders on any machine, the same deformations
            on any device of the same kind.

    Returns:
        An iterator without end of batches, with float32 images in [0, 1].

    Raises:
        DataError: ``split`` is empty.
        ValueError: ``batch_size`` is not positive.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, but is {batch_size}.")
    if len(split) == 0:
        raise DataError("There are no examples to deform. Give a split of at least one.")
    generator = torch.Generator(split.labels.device).manual_seed(derived_seed("deform", seed))
    return (
        Batch(deform(batch.images, generator=generator), batch.labels)
        for batch in (batch_at(split, chosen) for chosen in _endless_indices(split, batch_size, seed))
    )


def _endless_indices(split: Split, batch_size: int, seed: int) -> Iterator[Tensor]:
    left = torch.empty(0, dtype=torch.int64)
    epoch = 0
    while True:
        while len(left) < batch_size:
            left = torch.cat((left, epoch_order(len(split), seed=seed, epoch=epoch)))
            epoch += 1
        yield left[:batch_size].to(split.images.device)
        left = left[batch_size:]


def _smooth(noise: Tensor, std: float) -> Tensor:
    """Smooth fields with a root-mean-square length of 1 pixel, from white noise (n, 2, height, width)."""
    along_height, along_width = (
        gaussian_filter(size, max(std, _SHARPEST), dtype=noise.dtype, device=noise.device)
        for size in noise.shape[2:]
    )
    # Mixed precision would round the fields to 8 bits.
    with torch.autocast(noise.device.type, enabled=False):
        smooth = along_height @ noise @ along_width.T
    lengths = smooth.square().sum(1, keepdim=True).mean((2, 3), keepdim=True).sqrt()
    return smooth / lengths.clamp(min=torch.finfo(noise.dtype).tiny)


def _warp(images: Tensor, fields: Tensor) -> Tensor:
    """``warp`` by several fields an image: (batch, num, 2, height, width) -> (batch, num, …)."""
    batch, num, _, height, width = fields.shape
    pixels = _floats(images)
    # grid_sample takes positions as shares of the size. Where that is a power of two its
    # arithmetic is exact at whole pixels; beyond the border there is nothing but zeros anyway.
    padded = F.pad(pixels, (0, _to_power_of_two(width), 0, _to_power_of_two(height)))
    shifts = fields.to(pixels.dtype)
    x = shifts[:, :, 0] + torch.arange(width, device=pixels.device, dtype=pixels.dtype)
    y = shifts[:, :, 1] + torch.arange(height, device=pixels.device, dtype=pixels.dtype)[:, None]
    grid = torch.stack(((2 * x + 1) / padded.shape[3] - 1, (2 * y + 1) / padded.shape[2] - 1), -1)
    # All fields of an image lie in one tall grid, so that no image is repeated.
    tall = F.grid_sample(
        padded, grid.flatten(1, 2), mode="bilinear", padding_mode="zeros", align_corners=False
    )
    moved = tall.view(batch, images.shape[1], num, height, width).transpose(1, 2)
    if images.dtype == torch.uint8:
        return moved.round().to(torch.uint8)
    # The weights of four pixels may add up to a little more than 1. Only the value is corrected:
    # a plain clamp would lose the gradient there.
    values, bounds = moved.detach(), pixels.detach().flatten(1).aminmax(dim=1)
    lowest, highest = (bound[:, None, None, None, None] for bound in bounds)
    excess = values - values.clamp(lowest.clamp(max=0), highest.clamp(min=0))
    return (moved - excess).to(images.dtype)


def _tangents(images: Tensor, fields: Tensor) -> Tensor:
    """``tangent_images`` along several fields an image (batch, num, 2, height, width)."""
    pixels = to_unit_range(images) if images.dtype == torch.uint8 else _floats(images)
    padded = F.pad(pixels, (1, 1, 1, 1))
    along_width = (padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]) / 2
    along_height = (padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]) / 2
    shifts = fields.to(pixels.dtype)
    tangents = shifts[:, :, :1] * along_width[:, None] + shifts[:, :, 1:] * along_height[:, None]
    return tangents if images.dtype == torch.uint8 else tangents.to(images.dtype)


def _floats(images: Tensor) -> Tensor:
    """The images in at least single precision, since half of it does not place pixels well."""
    return images if images.dtype == torch.float64 else images.to(torch.float32)


def _to_power_of_two(size: int) -> int:
    """How much is missing from ``size`` to the next power of two."""
    return (1 << (size - 1).bit_length()) - size


def _require_images(images: Tensor) -> None:
    require_images(
        images.shape[1:],
        "Deformations move the pixels of",
        "Leave them out; penalties of other data are AdversarialPerturbation and InputGradient.",
    )
    if 0 in images.shape[2:]:
        raise DataError(
            "Only images (batch, channels, height, width) are deformed, "
            f"but these have shape {tuple(images.shape)}. Leave out the deformation."
        )
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise DataError(f"Images to deform must be floats or uint8, but have type {images.dtype}.")


def _require_fit(images: Tensor, fields: Tensor) -> None:
    _require_images(images)
    shape, needed = tuple(fields.shape), (len(images), 2, *images.shape[2:])
    if shape != needed:
        raise ValueError(f"These images need fields of shape {needed}, but got {shape}.")
