"""A part of the page, and what it is made of; one template draws all of them.

A section is made by one function ``section(run: Run) -> Section | None`` from the table of measurements and
the rest of what a run folder holds. Texts are escaped where they are drawn, but for ``Markup``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["Cell", "Figure", "Picture", "Prose", "Section", "Tab", "Table"]

Tab = Literal["summary", "attacks", "proven", "noise", "answers", "training", "examples", "about"]
"""The tabs of a run's page, in their order."""


@dataclass(frozen=True)
class Figure:
    """A figure ready for the page.

    Attributes:
        title: Its heading.
        caption: What it shows, for those who see it and those who do not.
        plot: ``data`` and ``layout`` of plotly, as plain JSON values.
        height: In CSS pixels.
    """

    title: str
    caption: str
    plot: dict[str, Any]
    height: int


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: What stands in it.
        small: What stands after it in small letters, each apart.
        is_bold: Whether the text is what matters of several in the cell.
        is_words: Whether it is words, not a number.
        shade: Share in [0, 1] that its ground shows; None leaves the ground alone.
        sort: What the column is sorted by; None sorts by the text.
        href: Where it leads on the page.
        kind: A class of the style sheet.
    """

    text: str
    small: Sequence[str] = ()
    is_bold: bool = False
    is_words: bool = False
    shade: float | None = None
    sort: float | None = None
    href: str = ""
    kind: str = ""


@dataclass(frozen=True)
class Table:
    """A table; the first cell of a row names it.

    Attributes:
        title: What it shows, for a summary that unfolds it and for those who do not see it.
        header: One a column.
        rows: Each as long as the header; a text is a cell that holds it.
        caption: What to know of it.
        is_folded: Whether it is shown only on demand.
        is_sortable: Whether a click on a heading sorts it.
        kind: A class of the style sheet: ``compare``, ``heat``, ``confusion``, ``groups`` …
        lead: A sentence before it.
    """

    title: str
    header: Sequence[Cell | str]
    rows: Sequence[Sequence[Cell | str]]
    caption: str = ""
    is_folded: bool = False
    is_sortable: bool = False
    kind: str = ""
    lead: str = ""


@dataclass(frozen=True)
class Prose:
    """A paragraph.

    Attributes:
        text: Its words; ``markupsafe.Markup`` where some are bold.
        kind: plain; meaning, of how to read figures; note, of what must not be missed; missing, of what a run
            folder lacks; small, of how it was measured.
        lead: Bold words before it.
    """

    text: str
    kind: Literal["plain", "meaning", "note", "missing", "small"] = "plain"
    lead: str = ""


@dataclass(frozen=True)
class Picture:
    """Images that belong together, as data URIs of PNGs, each with its alternative text and caption.

    Attributes:
        title: What stands above them; empty where nothing does.
        images: (data URI, alternative text, caption) each.
    """

    title: str
    images: Sequence[tuple[str, str, str]]


@dataclass(frozen=True)
class Section:
    """A part of the page.

    It is drawn in the order of its fields.

    Attributes:
        key: Short and unique on the page, for links.
        title: Its heading.
        tab: In which of a run's tabs it stands.
        prose: Paragraphs before all else.
        figures: Figures.
        tables: Tables.
        facts: Names and values, such as an attack and its settings in words.
        pictures: Groups of images.
        notes: Paragraphs after all else.
        is_brief: Whether it stands on a page of many runs as well.
    """

    key: str
    title: str
    tab: Tab
    prose: Sequence[Prose] = ()
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    facts: Sequence[tuple[str, str]] = ()
    pictures: Sequence[Picture] = ()
    notes: Sequence[Prose] = ()
    is_brief: bool = False
