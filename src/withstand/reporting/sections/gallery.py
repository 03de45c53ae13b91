"""Test images before and after an attack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from markupsafe import Markup

from withstand.reporting.images import amplification, data_uri, difference
from withstand.reporting.naming import missing
from withstand.reporting.pictures import Gallery
from withstand.reporting.read import Run
from withstand.reporting.section import Picture, Prose, Section
from withstand.reporting.wording import epsilon_text

PLACE = 10
_MOST_IMAGES = 24
_LEAD = Markup(
    "Test images before and after <b>{attack}</b> at epsilon {epsilon}. The third image is the difference on "
    "mid-grey, {how} {factor:g} times: lighter is added, darker is taken away, and plain grey is left as it "
    "was."
)


def section(run: Run) -> Section:
    """The first images of the gallery, with one amplification for all; or why there are none."""
    parts = Section("gallery", "Examples", "examples")
    if run.gallery is not None:
        return _shown(parts, run.gallery)
    if run.results and not run.results.attacks:
        return replace(parts, prose=[Prose("No attack was run, so there are no attacked images.", "note")])
    lacking = missing(run, "gallery.npz", "No example images are kept here.", "evaluate")
    return replace(parts, prose=[lacking])


def _shown(parts: Section, gallery: Gallery) -> Section:
    number = min(len(gallery.label), _MOST_IMAGES)
    factor = amplification(gallery.clean[:number], gallery.adversarial[:number])
    how = "amplified" if factor > 1 else "shown"
    lead = _LEAD.format(attack=gallery.attack, epsilon=epsilon_text(gallery.epsilon), how=how, factor=factor)
    if left_out := len(gallery.label) - number:
        lead += Markup(" {} more are in <code>gallery.npz</code>.").format(left_out)
    pictures = [_triple(gallery, index, factor) for index in range(number)]
    return replace(parts, prose=[Prose(lead)], pictures=pictures)


def _triple(gallery: Gallery, index: int, factor: float) -> Picture:
    clean, adversarial = gallery.clean[index], gallery.adversarial[index]
    label, names = int(gallery.label[index]), gallery.class_names
    times, place = f"{factor:g}", index + 1
    before = _verdict("Clean", names, int(gallery.clean_prediction[index]), label)
    after = _verdict("Attacked", names, int(gallery.adversarial_prediction[index]), label)
    changed = Markup('<span class="kind">Difference</span>× {}').format(times)
    return Picture(
        Markup("True class: <b>{}</b>").format(names[label]),
        [
            (data_uri(clean), f"Clean image {place} of class {names[label]}", before),
            (data_uri(adversarial), f"Image {place} after the attack", after),
            (
                data_uri(difference(clean, adversarial, factor)),
                f"What the attack changed in image {place}, times {times}",
                changed,
            ),
        ],
        is_triple=True,
    )


def _verdict(kind: str, names: Sequence[str], prediction: int, label: int) -> Markup:
    verdict = "right" if prediction == label else "wrong"
    text = '<span class="kind">{}</span>predicted <b>{}</b>, <span class="{}">{}</span>'
    return Markup(text).format(kind, names[prediction], verdict, verdict)
