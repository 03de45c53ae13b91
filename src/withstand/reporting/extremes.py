"""The examples with the smallest and the largest certified radii, as the page shows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from withstand.reporting.old_images import data_uri
from withstand.reporting.pictures import Extreme, Extremes
from withstand.reporting.old_wording import cell, count

__all__ = ["ExtremeImage", "ExtremesView", "view_extremes"]

_MOST_IMAGES = 12  # of each end


@dataclass(frozen=True)
class ExtremeImage:
    """One test image, as a data URI of a PNG, with its class, place and radius as texts."""

    image: str
    label: str
    index: str
    radius: str


@dataclass(frozen=True)
class ExtremesView:
    """The section on radii: heading of each end -> its images."""

    certificate: str
    ends: Sequence[tuple[str, Sequence[ExtremeImage]]]


def view_extremes(found: Extremes) -> ExtremesView | None:
    """What the page shows of both ends; None where no example has a radius above 0."""
    ends = [
        ("Proven with the smallest radius", _images(found.smallest, found.class_names)),
        ("Proven with the largest radius", _images(found.largest, found.class_names)),
    ]
    filled = [(title, images) for title, images in ends if images]
    return ExtremesView(found.certificate, filled) if filled else None


def _images(end: Extreme, names: Sequence[str]) -> list[ExtremeImage]:
    return [
        ExtremeImage(
            image=data_uri(end.images[number]),
            label=names[int(end.label[number])],
            index=count(int(end.index[number])),
            radius=cell(float(end.radius[number])),
        )
        for number in range(min(len(end.images), _MOST_IMAGES))
    ]
