"""Which runs are compared, and how their differences are described."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from withstand.reporting.compare import pairs
from withstand.reporting.compare.comparison import Comparison
from withstand.reporting.read import Run, read_run
from withstand.reporting.section import Cell, Section

WriteRun = Callable[..., Path]
Add = Callable[..., Run]


def plain(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ")


def rows(correct: Sequence[float], attacked: Sequence[float], first: int = 0) -> str:
    lines = [
        f"{first + index},1,1,{clean:g},{outcome:g}"
        for index, (clean, outcome) in enumerate(zip(correct, attacked, strict=True))
    ]
    return "\n".join(["index,label,prediction,clean,pgd-200@0.3", *lines, ""])


@pytest.fixture
def add(write_run: WriteRun, evaluated: Any) -> Add:
    """Writes a run with 100 examples, of which so many are correct under attack."""
    one_attack = replace(evaluated, rows=evaluated.rows[:2]).but(attacks=evaluated.results.attacks[:1])

    def write(name: str, correct: int, examples: str = "", attack: str = "pgd-200", **fields: Any) -> Run:
        attacked = [1.0] * correct + [0.0] * (100 - correct)
        clean, other = one_attack.rows
        return read_run(
            write_run(
                name,
                recipe=f"{{name: {name}, seed: 0}}",
                evaluated=replace(one_attack, rows=(clean, replace(other, by=attack))).but(**fields),
                examples=(examples or rows([1.0] * 100, attacked)).replace("pgd-200", attack),
            )
        )

    return write


def section_of(*runs: Run) -> Section:
    section = pairs.section(Comparison(runs))
    assert section is not None
    return section


def options(*runs: Run) -> dict[str, Section]:
    """What is shown of each baseline."""
    (choice,) = section_of(*runs).choices
    assert choice.label == "Baseline"
    return {option.title: option for option in choice.options}


def cells(option: Section, run: str) -> list[Cell]:
    """A row of a baseline's table, without its name."""
    (row,) = [row for row in option.tables[0].rows if row[0] == Cell(run)]
    return [cell for cell in row[1:] if isinstance(cell, Cell)]


def sentences(option: Section) -> list[str]:
    (notice,) = option.notices
    assert notice.kind == "sentences"
    return [plain(str(item)) for item in notice.items]


def test_differences_are_described_in_words(add: Add) -> None:
    runs = add("weak", 40), add("strong", 80), add("same", 41)
    against = options(*runs)
    header = [plain(str(cell)) for cell in against["weak"].tables[0].header]
    assert header == ["Run", "Clean", "Attacked, ℓ∞ ε = 0.3"]
    assert "for all 6 comparisons" in section_of(*runs).prose[0].text
    assert list(against) == ["weak", "strong", "same"]
    clean, attacked = cells(against["weak"], "strong")
    assert (clean.text, clean.small[1]) == ("0.0", "no difference shown")
    assert (attacked.text, attacked.small[1], attacked.kind) == ("+40.0", "above, significant", "significant")
    below = cells(against["strong"], "weak")[1]
    assert (below.text, below.small[1]) == ("\N{MINUS SIGN}40.0", "below, significant")
    words = sentences(against["weak"])
    assert words[0].startswith(
        "strong is 40.0 points above weak under pgd-200 at ℓ∞ ε = 0.3 (95 % interval 3"
    )
    assert words[0].endswith(", 100 examples, paired): significant.")
    ends = words[0][words[0].index("(95") :]
    turned = f"weak is 40.0 points below strong under pgd-200 at ℓ∞ ε = 0.3 {ends}"
    assert turned in sentences(against["strong"])
    none_shown = (
        "same and weak under pgd-200 at ℓ∞ ε = 0.3: no difference that 100 examples can show (+1.0 points"
    )
    assert any(none_shown in sentence for sentence in words[1:])


def test_differences_significant_alone_are_not_among_all(add: Add) -> None:
    option = options(add("a", 40), add("b", 46), add("c", 40))["a"]  # 6 examples to none: p = 0.03
    cell = cells(option, "b")[1]
    assert (cell.small[1], cell.kind) == ("not significant among all", "")
    assert any("alone it would be significant" in sentence for sentence in sentences(option))


def test_differences_give_the_reason_where_runs_do_not_compare(add: Add, write_run: WriteRun) -> None:
    whole = [1.0] * 100
    runs = [
        add("base", 40),
        add("next", 50),
        add("other-data", 40, dataset="digits"),
        add("elsewhere", 40, examples=rows(whole, whole, first=500)),
        add("labels", 40, examples=rows(whole, whole).replace(",1,1,1,1", ",3,3,1,1")),
        add("columns", 40, examples=rows(whole, whole).replace("pgd-200@0.3", "gone@0.3")),
        read_run(write_run("bare", only={"metrics.json"})),
    ]
    option = options(*runs)["base"]
    assert cells(option, "next")[1].kind == "significant"
    reasons = {
        "other-data": "MNIST against Digits (8×8)",
        "elsewhere": "other examples",
        "labels": "other labels",
        "bare": "no examples.csv of bare",
    }
    for name, reason in reasons.items():
        (cell,) = cells(option, name)
        assert (cell.text, cell.span) == (f"not comparable: {reason}", 2)
    clean, attacked = cells(option, "columns")
    assert clean.sort == 0
    assert (attacked.text, attacked.small, attacked.sort) == ("—", ["examples not recorded"], None)


def test_differences_need_the_same_test_data_where_both_are_known(add: Add) -> None:
    runs = [add(name, 40) for name in ("base", "same", "other", "unknown")]
    hashes = ["abc", "abc", "def", ""]
    told = [
        replace(run, results=replace(run.results, test_data=data))  # type: ignore[type-var]
        for run, data in zip(runs, hashes, strict=True)
    ]
    option = options(*told)["base"]
    assert [cell.text for cell in cells(option, "other")] == ["not comparable: other test data"]
    for name in ("same", "unknown"):
        assert cells(option, name)[0].sort == 0


def test_differences_count_common_examples_and_no_empty_cells(add: Add) -> None:
    fewer = rows([1.0] * 100, [1.0] * 80 + [0.0] * 20).splitlines()[:61]
    fewer[60] = fewer[60].rpartition(",")[0] + ","
    option = options(add("all", 40), add("some", 80, examples="\n".join(fewer)))["all"]
    on_clean, under_attack = (
        next(sentence for sentence in sentences(option) if word in sentence) for word in ("clean", "pgd")
    )
    assert "60 examples" in on_clean
    assert "59 examples" in under_attack


def test_differences_of_shares_are_students_t(add: Add) -> None:
    shares = rows([1.0] * 100, [0.5, 1.0] * 50)
    runs = add("a", 40), add("b", 80, examples=shares)
    assert "Student's paired t" in section_of(*runs).prose[0].text
    assert "Student's paired t" not in section_of(runs[0], add("c", 80)).prose[0].text


def test_differences_of_many_runs_are_from_the_first(add: Add) -> None:
    runs = [add(f"run-{number}", 40 + number) for number in range(9)]
    option = options(*runs)
    assert list(option) == ["run-0"]
    assert len(option["run-0"].tables[0].rows) == 8
    text = section_of(*runs).prose[0].text
    assert "all 16 comparisons" in text
    assert "compared with the first alone" in text


def test_differences_of_one_run_are_none(add: Add, write_run: WriteRun) -> None:
    run = add("one", 40)
    assert pairs.section(Comparison([run])) is None
    assert pairs.section(Comparison([run, read_run(write_run("only-trained", only={"train.csv"}))])) is None


def test_differences_under_two_attacks_name_the_strongest(add: Add) -> None:
    option = options(add("a", 40), add("b", 80, attack="standard-linf"))["a"]
    assert any("under the strongest attack on each at" in sentence for sentence in sentences(option))
