"""Several runs under published protocols: beside what was published, and beside adaptive attacks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from withstand.reporting import report
from withstand.reporting.compare import compared_results as results
from withstand.reporting.compare.comparison import Comparison
from withstand.reporting.read import Run
from withstand.reporting.section import Cell, Table
from withstand.results.measurements import protocol_measure
from withstand.results.random_answers import ProtocolInfo
from withstand.results.results import Published

WriteRun = Callable[..., Path]
MEASURE = protocol_measure("sebr")
FIGURE: dict[str, Any] = {"measure": "attacked", "accuracy": 0.857, "source": "a paper", "norm": "inf"}
FIGURE |= {"epsilon": 0.1, "attack": "fgsm"}
CLEAN = Published("clean", 0.975, "a paper")


@pytest.fixture
def under(evaluated: Any, build: Any) -> Callable[..., Any]:
    """An evaluation under a protocol, given what its attacks leave correct at each epsilon."""

    def of(fgsm: Mapping[float, int], pgd: Mapping[float, int] | None = None, **fields: Any) -> Any:
        attacks = {"fgsm": fgsm} | ({"pgd": pgd} if pgd else {})
        info = ProtocolInfo("sebr", "As published", dict.fromkeys(attacks, "in words"))
        return evaluated.but(protocols=[info], **fields).plus(
            build.measured(MEASURE, 970, "clean"),
            *(
                build.measured(MEASURE, correct, attack, "inf", epsilon)
                for attack, corrects in attacks.items()
                for epsilon, correct in corrects.items()
            ),
        )

    return of


def recipe_of(model: str, seed: int = 0) -> dict[str, Any]:
    return {"name": f"{model}-{seed}", "seed": seed, "model": {"name": model}}


def table_of(*runs: Run) -> Table:
    section = results.protocols(Comparison(runs))
    assert section is not None
    return section.tables[0]


def cells(table: Table) -> list[list[Cell]]:
    return [[cell for cell in row if isinstance(cell, Cell)] for row in table.rows]


def test_protocols_section_has_one_row_of_several_seeds(evaluated: Any, under: Callable[..., Any]) -> None:
    table = table_of(
        under({0.1: 900}).run(recipe=recipe_of("cnn")),
        under({0.1: 800}, {0.25: 300}).run(recipe=recipe_of("cnn", seed=1)),
        under({0.3: 500}).run(recipe=recipe_of("mlp")),
        evaluated.run(recipe=recipe_of("lenet")),
    )
    assert table.header == ["Run", "Clean", "FGSM 0.1", "FGSM 0.3"]  # PGD was not measured of both seeds
    assert str(table.rows[0][0]).endswith("mean of 2")
    first, other = cells(table)
    assert first[1].text == "85.0\xa0%"
    assert first[1].small[1] == "adaptive 90.5\xa0%"
    assert first[2].text == "not measured"
    assert other[1].text == "not measured"
    assert (other[2].text, other[2].small[0]) == ("50.0\xa0%", "48.0–52.0\xa0%")


def test_protocols_section_has_no_adaptive_figure_without_an_attack(under: Callable[..., Any]) -> None:
    (row,) = cells(table_of(under({0.2: 500}).run()))
    assert row[1].small[1:] == ["adaptive: not measured"]


def test_protocols_section_has_runs_beside_figures_published_of_their_kind(under: Callable[..., Any]) -> None:
    noted = [Published(**FIGURE, note="<with> the term"), CLEAN]
    without = [
        Published(**FIGURE | {"accuracy": 0.5, "note": "without"}),
        Published("attacked", 0.1, "a paper"),
    ]
    of_pgd = [CLEAN, Published(**FIGURE | {"attack": "pgd"})]
    recipes = [recipe_of("cnn"), recipe_of("cnn", seed=1), recipe_of("mlp"), recipe_of("lenet")]
    table = table_of(
        *(
            under({0.1: 900, 0.2: 800}, published=figures).run(recipe=recipe)
            for recipe, figures in zip(recipes, (noted, noted, without, of_pgd), strict=True)
        )
    )
    texts = [[[text for text in cell.small if "published" in text] for cell in row] for row in cells(table)]
    assert texts == [
        [["published 97.5\xa0%"], ["published 85.7\xa0%, <with> the term"], []],
        [[], ["published 50\xa0%, without"], []],
        [[], [], []],
    ]


def test_protocols_section_is_on_the_page_and_escaped(
    write_run: WriteRun, under: Callable[..., Any], tmp_path: Path
) -> None:
    noted = under({0.1: 900}, published=[Published(**FIGURE, note="<with> the term")])
    folders = [write_run(name, evaluated=noted) for name in ("a", "b")]
    page = report(folders, tmp_path / "all.html").read_text(encoding="utf-8")
    assert ">Under the published protocol</h2>" in page
    assert "published 85.7\xa0%, &lt;with&gt; the term" in page


def test_protocols_section_is_none_without_protocols(evaluated: Any) -> None:
    assert results.protocols(Comparison([evaluated.run(), evaluated.run()])) is None
