"""A part of the page, and what it is made of; one template draws all of them.

A section is made by one function ``section(run: Run) -> Section | None`` from the table of measurements and
the rest of what a run folder holds. Texts are escaped where they are drawn, but for ``Markup``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

__all__ = [
    "Card",
    "Cell",
    "Choice",
    "Code",
    "Figure",
    "Notice",
    "Picture",
    "Prose",
    "Section",
    "Tab",
    "Table",
]

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
        span: Columns that it takes.
    """

    text: str
    small: Sequence[str] = ()
    is_bold: bool = False
    is_words: bool = False
    shade: float | None = None
    sort: float | None = None
    href: str = ""
    kind: str = ""
    span: int = 1


@dataclass(frozen=True)
class Table:
    """A table; the first cell of a row names it.

    Attributes:
        title: What it shows: the summary that unfolds it, and its name for those who do not see it.
        header: One a column.
        rows: Each as wide as the header; a text is a cell that holds it.
        caption: What to know of it.
        is_folded: Whether it is shown only on demand.
        is_sortable: Whether a click on a heading sorts it.
        is_tall: Whether it scrolls by itself, as one of more than 20 rows does.
        kind: Classes of the style sheet: ``compare``, ``compare heat``, ``groups``, ``checks``; those of
            ``confusion`` and ``mistakes`` stand side by side under their titles.
        lead: A sentence before it.
    """

    title: str
    header: Sequence[Cell | str]
    rows: Sequence[Sequence[Cell | str]]
    caption: str = ""
    is_folded: bool = False
    is_sortable: bool = False
    is_tall: bool = False
    kind: str = ""
    lead: str = ""

    @property
    def is_boxed(self) -> bool:
        """Whether its title is seen, in a box beside others."""
        return self.kind in ("confusion", "mistakes")


@dataclass(frozen=True)
class Prose:
    """A paragraph.

    Attributes:
        text: Its words; ``markupsafe.Markup`` where some are bold.
        kind: plain; meaning, of how to read figures; note, of what must not be missed; missing, of what a run
            folder lacks; small, of how it was measured; best, of which runs are.
        lead: Bold words before it.
        is_once: Whether a page of several runs says it once for all, not in each run's section.
    """

    text: str
    kind: Literal["plain", "meaning", "note", "missing", "small", "best"] = "plain"
    lead: str = ""
    is_once: bool = False


@dataclass(frozen=True)
class Card:
    """One headline figure."""

    label: str
    value: str
    details: Sequence[str]


@dataclass(frozen=True)
class Notice:
    """A list of sentences.

    Attributes:
        title: Its heading, or the summary that unfolds it; ``key`` is what links lead to.
        items: Texts; of a cell, its text leads to the section of the same run that ``href`` is the key of.
        kind: warnings and happenings stand in a box; sentences are folded away.
        lead: A sentence before them.
    """

    title: str
    items: Sequence[Cell | str]
    kind: Literal["warnings", "happenings", "sentences"]
    lead: str = ""
    key: str = ""


@dataclass(frozen=True)
class Picture:
    """Images that belong together, as data URIs of PNGs, each with its alternative text and caption.

    Attributes:
        title: What stands above them; empty where nothing does.
        images: (data URI, alternative text, caption) each.
        is_triple: Whether it is one of many groups of three, not a row of its own.
    """

    title: str
    images: Sequence[tuple[str, str, str]]
    is_triple: bool = False


@dataclass(frozen=True)
class Code:
    """Text as it is typed: a command to copy or, with a title, what is shown on demand."""

    text: str
    title: str = ""


@dataclass(frozen=True)
class Choice:
    """Sections of which one is seen at a time.

    Attributes:
        label: What is chosen, beside the list: ``Baseline``.
        options: Their titles are the list; keys of theirs are not used.
        title: A heading above it; empty where there is none.
        opened: The place of the option to begin with.
    """

    label: str
    options: Sequence[Section]
    title: str = ""
    opened: int = 0


@dataclass(frozen=True)
class Section:
    """A part of the page.

    It is drawn in the order of its fields.

    Attributes:
        key: Short and unique on the page, for links.
        title: Its heading.
        tab: In which of a run's tabs it stands; without meaning in a section of many runs.
        prose: Paragraphs before all else.
        cards: Headline figures.
        facts: Names and short values.
        choices: Sections of which one is seen at a time.
        figures: Figures.
        notices: Lists of sentences.
        tables: Tables.
        descriptions: Names and sentences, such as an attack and its settings in words.
        pictures: Groups of images.
        codes: Commands and files.
        notes: Paragraphs after all else.
        across: Figures that may stand side by side: 1, 2 or 3.
        fold: What unfolds all of it; empty where it is not folded.
        is_brief: Whether it stands on a page of many runs as well.
        measures: Measures of the table that it shows.
    """

    key: str
    title: str
    tab: Tab
    prose: Sequence[Prose] = ()
    cards: Sequence[Card] = ()
    facts: Sequence[tuple[str, str]] = ()
    choices: Sequence[Choice] = ()
    figures: Sequence[Figure] = ()
    notices: Sequence[Notice] = ()
    tables: Sequence[Table] = ()
    descriptions: Sequence[tuple[str, str]] = ()
    pictures: Sequence[Picture] = ()
    codes: Sequence[Code] = ()
    notes: Sequence[Prose] = ()
    across: Literal[1, 2, 3] = 1
    fold: str = ""
    is_brief: bool = False
    measures: Sequence[str] = ()
