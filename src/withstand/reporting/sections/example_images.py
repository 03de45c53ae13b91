"""Test images before and after an attack, and those with the smallest and the largest certified radii."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from withstand.core.answers import NO_ANSWER
from withstand.reporting.formatting import cell, count
from withstand.reporting.images import Extreme, Gallery, amplification, data_uri, difference, drawn_as
from withstand.reporting.naming import missing
from withstand.reporting.read import Run
from withstand.reporting.section import PROSE, Picture, Prose, Section
from withstand.results.writing import epsilon_text

PLACE = 10
_MOST_IMAGES = 24
_MOST_EXTREMES = 12  # of each end
_VERDICT = Markup('<span class="kind">{}</span>predicted <b>{}</b>, <span class="{}">{}</span>')
_EXTREME = Markup("<b>{}</b> <span>radius {}</span> <small>image {}</small>")


def section(run: Run) -> list[Section | None]:
    """What the page shows of single images."""
    return [gallery(run), extremes(run)]


def gallery(run: Run) -> Section:
    """The first images of the gallery, with one amplification for all; or why there are none."""
    parts = Section("gallery", "Examples", "examples")
    if run.gallery is not None:
        return _shown(parts, run.gallery)
    if run.results and not run.results.attacks:
        return replace(parts, prose=[Prose("No attack was run, so there are no attacked images.", "note")])
    lacking = missing(run, "gallery.npz", "No example images are stored here.", "evaluate")
    return replace(parts, prose=[lacking])


def _shown(parts: Section, images: Gallery) -> Section:
    number = min(len(images.label), _MOST_IMAGES)
    factor = amplification(images.clean[:number], (images.clean + images.change)[:number])
    lead = Markup(PROSE["gallery"]["lead"]).format(
        attack=images.attack,
        epsilon=epsilon_text(images.epsilon),
        how="amplified" if factor > 1 else "shown",
        factor=factor,
    )
    if left_out := len(images.label) - number:
        lead += Markup(" {} more are in <code>gallery.npz</code>.").format(left_out)
    pictures = [_triple(images, index, factor) for index in range(number)]
    return replace(parts, prose=_with_note(Prose(lead), images.clean), pictures=pictures)


def _with_note(lead: Prose, images: NDArray[np.uint8]) -> list[Prose]:
    """A paragraph, and after it how the images are drawn, where not as they are."""
    return [lead, *map(Prose, filter(None, [drawn_as(images)]))]


def _triple(images: Gallery, index: int, factor: float) -> Picture:
    clean, adversarial = images.clean[index], images.adversarial[index]
    name, times, place = images.class_names[int(images.label[index])], f"{factor:g}", index + 1
    changed = data_uri(difference(clean, clean + images.change[index], factor))
    return Picture(
        Markup("True class: <b>{}</b>").format(name),
        [
            (
                data_uri(clean),
                f"Clean image {place} of class {name}",
                _verdict("Clean", _answer(images, images.clean_prediction[index]), name),
            ),
            (
                data_uri(adversarial),
                f"Image {place} after the attack",
                _verdict("Attacked", _answer(images, images.adversarial_prediction[index]), name),
            ),
            (
                changed,
                f"What the attack changed in image {place}, times {times}",
                Markup('<span class="kind">Difference</span>× {}').format(times),
            ),
        ],
        is_triple=True,
    )


def _answer(images: Gallery, predicted: int) -> str:
    return "no answer" if predicted == NO_ANSWER else images.class_names[predicted]


def _verdict(kind: str, predicted: str, true: str) -> Markup:
    verdict = "correct" if predicted == true else "wrong"
    return _VERDICT.format(kind, predicted, verdict, verdict)


def extremes(run: Run) -> Section | None:
    """Images of both ends of the radii; None where no example has a radius above 0."""
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
    lead = Prose(Markup(PROSE["extremes"]["lead"]).format(certificate=run.extremes.certificate))
    prose = _with_note(lead, run.extremes.smallest.images)
    return Section("extremes", "Smallest and largest proven radii", "proven", prose=prose, pictures=filled)


def _images(end: Extreme, names: Sequence[str]) -> list[tuple[str, str, str]]:
    images: list[tuple[str, str, str]] = []
    for number in range(min(len(end.images), _MOST_EXTREMES)):
        label, index = names[int(end.label[number])], count(int(end.index[number]))
        caption = _EXTREME.format(label, cell(float(end.radius[number])), index)
        images.append((data_uri(end.images[number]), f"Test image {index} of class {label}", caption))
    return images
