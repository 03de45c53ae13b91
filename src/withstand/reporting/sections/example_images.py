"""Test images before and after an attack, and those with the smallest and the largest certified radii."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from withstand.core.writing import epsilon_text
from withstand.reporting.formatting import cell, count
from withstand.reporting.images import (
    AttackedValues,
    Extreme,
    Gallery,
    amplification,
    data_uri,
    difference,
    drawn_as,
)
from withstand.reporting.naming import missing
from withstand.reporting.read import Run
from withstand.reporting.section import PROSE, Cell, Picture, Prose, Section, Table
from withstand.reporting.sections.example_values import answer, with_values

PLACE = 10
_MOST_IMAGES = 24
_MOST_AXES = 4  # of an example that is shown
_MOST_EXTREMES = 12  # of each end
_VERDICT = Markup('<span class="kind">{}</span>predicted <b>{}</b>, <span class="{}">{}</span>')
_EXTREME = Markup("<b>{}</b> <span>radius {}</span> <small>image {}</small>")


def section(run: Run) -> list[Section | None]:
    """What the page shows of single images."""
    return [gallery(run), extremes(run)]


def gallery(run: Run) -> Section:
    """The first images of the gallery, with one amplification for all; or why there are none."""
    parts = Section("gallery", "Examples", "examples")
    if isinstance(run.gallery, AttackedValues):
        return with_values(parts, run.gallery)
    if run.gallery is not None:
        return _shown(parts, run.gallery)
    if run.results and not run.results.attacks:
        return replace(parts, prose=[Prose("No attack was run, so there are no attacked images.", "note")])
    inputs = run.results.inputs if run.results else None
    if inputs and len(inputs.shape) > _MOST_AXES:
        return replace(
            parts, prose=[Prose(PROSE["gallery"]["left_out"].format(axes=len(inputs.shape)), "note")]
        )
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
    return replace(parts, prose=_with_note(Prose(lead), images.clean, images.num_slices), pictures=pictures)


def _with_note(lead: Prose, images: NDArray[np.uint8], num_slices: int | None) -> list[Prose]:
    """A paragraph, and after it how the images are drawn, where not as they are."""
    return [lead, *map(Prose, filter(None, [drawn_as(images, num_slices)]))]


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
                _verdict("Clean", answer(images, images.clean_prediction[index]), name),
            ),
            (
                data_uri(adversarial),
                f"Image {place} after the attack",
                _verdict("Attacked", answer(images, images.adversarial_prediction[index]), name),
            ),
            (
                changed,
                f"What the attack changed in image {place}, times {times}",
                Markup('<span class="kind">Difference</span>× {}').format(times),
            ),
        ],
        is_triple=True,
    )


def _verdict(kind: str, predicted: str, true: str) -> Markup:
    verdict = "correct" if predicted == true else "wrong"
    return _VERDICT.format(kind, predicted, verdict, verdict)


def extremes(run: Run) -> Section | None:
    """Images of both ends of the radii; None where no example has a radius above 0."""
    if run.extremes is None:
        return None
    names, of = run.extremes.class_names, run.extremes
    ends = [("Proven with the smallest radius", of.smallest), ("Proven with the largest radius", of.largest)]
    ends = [(title, end) for title, end in ends if len(end.index)]
    if not ends:
        return None
    lead = Prose(Markup(PROSE["extremes"]["lead"]).format(certificate=of.certificate))
    whole = Section("extremes", "Smallest and largest proven radii", "proven", prose=[lead])
    if of.smallest.images is None:
        return replace(whole, tables=[_table(title, end, names) for title, end in ends])
    pictures = [
        Picture(title, _images(end, end.images, names)) for title, end in ends if end.images is not None
    ]
    return replace(whole, prose=_with_note(lead, of.smallest.images, of.num_slices), pictures=pictures)


def _images(end: Extreme, pixels: NDArray[np.uint8], names: Sequence[str]) -> list[tuple[str, str, str]]:
    images: list[tuple[str, str, str]] = []
    for number in range(min(len(pixels), _MOST_EXTREMES)):
        label, index = names[int(end.label[number])], count(int(end.index[number]))
        caption = _EXTREME.format(label, cell(float(end.radius[number])), index)
        images.append((data_uri(pixels[number]), f"Test image {index} of class {label}", caption))
    return images


def _table(title: str, end: Extreme, names: Sequence[str]) -> Table:
    """Test examples of which there is nothing to see, a row each."""
    rows: list[list[Cell | str]] = [
        [count(int(index)), Cell(names[int(label)], is_words=True), cell(float(radius))]
        for index, label, radius in zip(end.index, end.label, end.radius, strict=True)
    ]
    return Table(title, ["Test example", "Class", "Radius"], rows[:_MOST_EXTREMES])
