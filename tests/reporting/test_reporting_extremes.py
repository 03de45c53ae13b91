"""The page's section on the smallest and the largest radii."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from withstand.reporting import report
from withstand.reporting.read import read_run
from withstand.reporting.sections import example_images as examples
from withstand.types import RunFolderError

WriteRun = Callable[..., Path]


def test_extremes_show_both_ends(write_run: WriteRun, extremes: dict[str, Any]) -> None:
    page = report(write_run(extremes=extremes)).read_text(encoding="utf-8")
    section = page[page.index('id="run-extremes"') :]
    section = section[: section.index("</section>")]
    assert section.count("<img") == 3
    assert 'alt="Test image 1,203 of class ship"' in section
    assert "radius 0.00123" in section
    assert section.index("smallest radius</h3>") < section.index("radius 0.004")
    assert section.index("radius 0.004") < section.index("largest radius</h3>") < section.index("radius 1.75")


def test_extremes_leave_out_an_end_without_images(make_run: Any, extremes: dict[str, Any]) -> None:
    def emptied(part: str, arrays: dict[str, Any]) -> dict[str, Any]:
        return {name: array[:0] if name.startswith(part) else array for name, array in arrays.items()}

    one = emptied("largest", extremes)
    shown = examples.extremes(make_run("one", extremes=one))
    assert shown is not None
    assert [picture.title for picture in shown.pictures] == ["Proven with the smallest radius"]
    assert examples.extremes(make_run("two", extremes=emptied("smallest", one))) is None


def test_extremes_without_the_file_are_no_section(write_run: WriteRun) -> None:
    folder = write_run()
    assert read_run(folder).extremes is None
    assert "run-extremes" not in report(folder).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "value", "fault"),
    [
        ("smallest_images", np.zeros((2, 4, 4, 1)), "smallest_images must be a uint8 array"),
        ("smallest_images", np.zeros((2, 4, 4), np.uint8), "must be .images, height, width, channels."),
        ("smallest_images", np.zeros((2, 0, 4, 1), np.uint8), "must be .images, height, width, channels."),
        ("largest_label", np.array([3]), "must lie in 0 to 2"),
        ("largest_label", np.array([0, 1]), "one whole number an image"),
        ("smallest_index", np.array([0.5, 1.0]), "smallest_index must hold one whole number"),
        ("smallest_radius", np.array([0.5]), "smallest_radius must hold one number above 0"),
        ("smallest_radius", np.array([0.5, 0.0]), "smallest_radius must hold one number above 0"),
        ("largest_radius", np.array([np.inf]), "largest_radius must hold one number above 0"),
        ("largest_radius", np.array([1]), "largest_radius must hold one number above 0"),
    ],
)
def test_extremes_name_damage(
    write_run: WriteRun, extremes: dict[str, Any], name: str, value: Any, fault: str
) -> None:
    with pytest.raises(RunFolderError, match=rf"extremes\.npz is damaged: .*{fault}"):
        read_run(write_run(extremes=extremes | {name: value}))


def test_extremes_name_a_missing_array(write_run: WriteRun, extremes: dict[str, Any]) -> None:
    del extremes["largest_radius"]
    with pytest.raises(RunFolderError, match="largest_radius"):
        read_run(write_run(extremes=extremes))
