"""A part of the page, and what it is made of; one template draws all of them.

A section is made by one function ``section(run: Run) -> Section | None`` from the table of measurements and
the rest of what a run folder holds. Texts are escaped where they are drawn, but for ``Markup``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Literal

import yaml

Tab = Literal["summary", "attacks", "proven", "noise", "answers", "training", "examples", "about"]
"""The tabs of a run's page, in their order."""
_PROSE = (files("withstand.reporting") / "templates" / "prose.yaml").read_text(encoding="utf-8")
PROSE: Mapping[str, Mapping[str, str]] = yaml.safe_load(_PROSE)
"""Section -> name -> a paragraph of it, with ``{words}`` in it for what differs between runs."""


@dataclass(frozen=True)
class Figure:
    """A figure ready for the page."""

    title: str
    caption: str  # what it shows, for those who see it and those who do not
    plot: dict[str, Any]  # data and layout of plotly, as plain JSON values
    height: int  # in CSS pixels


@dataclass(frozen=True)
class Cell:
    """A cell of a table."""

    text: str
    small: Sequence[str] = ()  # what stands after it in small letters, each apart
    is_bold: bool = False
    is_words: bool = False  # not a number
    shade: float | None = None  # share in [0, 1] that its ground shows; None leaves the ground alone
    sort: float | None = None  # what the column is sorted by; None sorts by the text
    href: str = ""  # where it leads: #run-2
    kind: str = ""  # a class of the style sheet
    span: int = 1  # columns that it takes


@dataclass(frozen=True)
class Table:
    """A table; the first cell of a row names it, and a text is a cell that holds it.

    ``kind`` are classes of the style sheet: ``compare``, ``compare heat``, ``groups``, ``checks``; those of
    ``confusion`` and ``mistakes`` stand side by side under their titles.
    """

    title: str  # the summary that unfolds it, and its name for those who do not see it
    header: Sequence[Cell | str]
    rows: Sequence[Sequence[Cell | str]]
    caption: str = ""
    is_folded: bool = False
    is_sortable: bool = False  # by a click on a heading
    is_tall: bool = False  # scrolls by itself, as one of more than 20 rows does
    kind: str = ""
    lead: str = ""  # a sentence before it

    @property
    def is_boxed(self) -> bool:
        """Whether its title is seen, in a box beside others."""
        return self.kind in ("confusion", "mistakes")


@dataclass(frozen=True)
class Prose:
    """A paragraph.

    A ``meaning`` says how to read figures, a ``note`` what must not be missed, ``missing`` what a run folder
    lacks, ``small`` how something was measured, ``best`` which runs are.
    """

    text: str
    kind: Literal["plain", "meaning", "note", "missing", "small", "best"] = "plain"
    lead: str = ""  # bold words before it
    is_once: bool = False  # a page of several runs says it once for all, not in each run's section


@dataclass(frozen=True)
class Card:
    """One headline figure."""

    label: str
    value: str
    details: Sequence[str]


@dataclass(frozen=True)
class Notice:
    """A list of sentences: warnings and happenings in a box, ``sentences`` folded away.

    Of an item that is a cell, its text leads to the section of the same run that ``href`` is the key of.
    """

    title: str
    items: Sequence[Cell | str]
    kind: Literal["warnings", "happenings", "sentences"]
    lead: str = ""
    key: str = ""  # for links


@dataclass(frozen=True)
class Picture:
    """Images that belong together: (data URI of a PNG, alternative text, caption) each."""

    title: str
    images: Sequence[tuple[str, str, str]]
    is_triple: bool = False  # one of many groups of three, not a row of its own


@dataclass(frozen=True)
class Code:
    """Text as it is typed: a command to copy or, with a title, what is shown on demand."""

    text: str
    title: str = ""


@dataclass(frozen=True)
class Choice:
    """Sections of which one is seen at a time; their titles are the list to choose from."""

    label: str  # what is chosen: Baseline
    options: Sequence[Section]
    title: str = ""  # a heading above it
    opened: int = 0  # the option to begin with


@dataclass(frozen=True)
class Section:
    """A part of the page, drawn in the order of its fields."""

    key: str  # short and unique on the page, for links
    title: str
    tab: Tab  # without meaning in a section of many runs
    prose: Sequence[Prose] = ()
    cards: Sequence[Card] = ()
    facts: Sequence[tuple[str, str]] = ()  # names and short values
    choices: Sequence[Choice] = ()
    figures: Sequence[Figure] = ()
    notices: Sequence[Notice] = ()
    tables: Sequence[Table] = ()
    descriptions: Sequence[tuple[str, str]] = ()  # names and sentences, such as an attack's settings in words
    pictures: Sequence[Picture] = ()
    codes: Sequence[Code] = ()
    notes: Sequence[Prose] = ()  # PROSE after all else
    across: Literal[1, 2, 3] = 1  # figures, or choices, that may stand side by side
    fold: str = ""  # what unfolds all of it; empty where it is not folded
    is_brief: bool = False  # stands on a page of many runs as well
    measures: Sequence[str] = ()  # of the table, that it shows
