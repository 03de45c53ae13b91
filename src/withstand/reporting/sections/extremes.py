"""The test images with the smallest and the largest certified radii."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from withstand.reporting.images import data_uri
from withstand.reporting.pictures import Extreme
from withstand.reporting.read import Run
from withstand.reporting.section import Picture, Prose, Section
from withstand.reporting.wording import cell, count

PLACE = 10
_MOST_IMAGES = 12  # of each end
_LEAD = Markup(
    "Test images with the smallest radius above 0 and with the largest one by <b>{}</b>. Within its radius "
    "no change of an image changes the prediction. Beyond it nothing is proven, and nothing refuted."
)


def section(run: Run) -> Section | None:
    """Both ends; None where no example has a radius above 0."""
    if run.extremes is None:
        return None
    names = run.extremes.class_names
    ends = [
        Picture("Proven with the smallest radius", _images(run.extremes.smallest, names)),
        Picture("Proven with the largest radius", _images(run.extremes.largest, names)),
    ]
    filled = [end for end in ends if end.images]
    if not filled:
        return None
    lead = Prose(_LEAD.format(run.extremes.certificate))
    return Section("extremes", "Smallest and largest proven radii", "proven", prose=[lead], pictures=filled)


def _images(end: Extreme, names: Sequence[str]) -> list[tuple[str, str, str]]:
    images: list[tuple[str, str, str]] = []
    for number in range(min(len(end.images), _MOST_IMAGES)):
        label, index = names[int(end.label[number])], count(int(end.index[number]))
        caption = Markup("<b>{}</b> <span>radius {}</span> <small>image {}</small>").format(
            label, cell(float(end.radius[number])), index
        )
        images.append((data_uri(end.images[number]), f"Test image {index} of class {label}", caption))
    return images
