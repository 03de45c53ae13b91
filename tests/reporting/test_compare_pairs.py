"""Which runs are held against each other, and what is said of their differences."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from withstand.reporting.paired_view import PairedView, view_pairs
from withstand.reporting.read import read_run

WriteRun = Callable[..., Path]
RECIPE = "{{name: {name}, seed: 0}}"


def rows(right: Sequence[float], attacked: Sequence[float], first: int = 0) -> str:
    lines = [
        f"{first + index},1,1,{clean:g},{outcome:g}"
        for index, (clean, outcome) in enumerate(zip(right, attacked, strict=True))
    ]
    return "\n".join(["index,label,prediction,clean,pgd-200@0.3", *lines, ""])


@pytest.fixture
def add(write_run: WriteRun, metrics: dict[str, Any]) -> Callable[..., Path]:
    """Writes a run with 100 examples, of which so many are right under attack."""
    metrics["attacks"] = [metrics["attacks"][0]]
    metrics["attacks"][0]["curve"] = metrics["attacks"][0]["curve"][:1]

    def write(name: str, right: float, **changed: Any) -> Path:
        attacked = [1.0] * int(right) + [0.0] * (100 - int(right))
        examples = changed.pop("examples", rows([1.0] * 100, attacked))
        return write_run(name, recipe=RECIPE.format(name=name), metrics=metrics | changed, examples=examples)

    return write


def view(*folders: Path) -> PairedView:
    found = view_pairs([read_run(folder) for folder in folders])
    assert found is not None
    return found


def test_differences_in_words(add: Callable[..., Path]) -> None:
    found = view(add("weak", 40), add("strong", 80), add("same", 41))
    assert [title.replace("\N{NO-BREAK SPACE}", " ") for title in found.titles] == [
        "Clean",
        "Attacked, ℓ∞ ε = 0.3",
    ]
    assert found.num_comparisons == 6
    assert [each.baseline for each in found.against] == ["weak", "strong", "same"]
    clean, attacked = found.against[0].rows["strong"]
    assert (clean.verdict, clean.value) == ("no difference shown", "0.0")
    assert (attacked.value, attacked.verdict) == ("+40.0", "above, significant")
    assert found.against[1].rows["weak"][1].value == "\N{MINUS SIGN}40.0"
    assert found.against[1].rows["weak"][1].verdict == "below, significant"
    words = [each.replace("\N{NO-BREAK SPACE}", " ") for each in found.against[0].sentences]
    assert words[0].startswith(
        "strong is 40.0 points above weak under pgd-200 at ℓ∞ ε = 0.3 (95 % interval 3"
    )
    assert words[0].endswith(", 100 examples, paired): significant.")
    from_above = [each.replace("\N{NO-BREAK SPACE}", " ") for each in found.against[1].sentences]
    ends = words[0][words[0].index("(95") :]
    assert f"weak is 40.0 points below strong under pgd-200 at ℓ∞ ε = 0.3 {ends}" in from_above
    assert any(
        "same and weak under pgd-200 at ℓ∞ ε = 0.3: no difference that 100 examples can show (+1.0 points"
        in each
        for each in words[1:]
    )


def test_what_is_significant_alone_only(add: Callable[..., Path]) -> None:
    found = view(add("a", 40), add("b", 46), add("c", 40))  # 6 examples to none: p = 0.03
    cell = found.against[0].rows["b"][1]
    assert cell.verdict == "not significant among all"
    assert not cell.is_significant
    assert "alone it would be significant" in cell.sentence


def test_reasons(add: Callable[..., Path], write_run: WriteRun) -> None:
    whole = [1.0] * 100
    folders = [
        add("base", 40),
        add("next", 50),
        add("other-data", 40, dataset="digits"),
        add("elsewhere", 40, examples=rows(whole, whole, first=500)),
        add("labels", 40, examples=rows(whole, whole).replace(",1,1,1,1", ",3,3,1,1")),
        add("columns", 40, examples=rows(whole, whole).replace("pgd-200@0.3", "gone@0.3")),
        write_run("bare", only={"metrics.json"}),
    ]
    found = view(*folders).against[0].rows
    assert found["next"][1].is_significant
    assert {name: cells[1].detail for name, cells in found.items() if cells[1].number is None} == {
        "other-data": "MNIST against Digits (8×8)",
        "elsewhere": "other examples",
        "labels": "other labels",
        "columns": "examples not kept",
        "bare": "no examples.csv of bare",
    }
    assert found["columns"][0].number == 0


def test_common_examples_and_empty_cells(add: Callable[..., Path]) -> None:
    fewer = rows([1.0] * 100, [1.0] * 80 + [0.0] * 20).splitlines()[:61]
    fewer[60] = fewer[60].rpartition(",")[0] + ","
    found = view(add("all", 40), add("some", 80, examples="\n".join(fewer)))
    assert "60 examples" in found.against[0].rows["some"][0].sentence
    assert "59 examples" in found.against[0].rows["some"][1].sentence


def test_shares_are_told_apart(add: Callable[..., Path]) -> None:
    shares = rows([1.0] * 100, [0.7, 0.9] * 50)
    assert view(add("a", 40), add("b", 40, examples=shares)).has_shares
    assert not view(add("c", 40), add("d", 40)).has_shares


def test_many_runs_have_one_baseline(add: Callable[..., Path]) -> None:
    found = view(*(add(f"run-{number}", 40 + number) for number in range(9)))
    assert found.are_many
    assert [each.baseline for each in found.against] == ["run-0"]
    assert len(found.against[0].rows) == 8
    assert found.num_comparisons == 16


def test_nothing_to_compare(add: Callable[..., Path], write_run: WriteRun) -> None:
    run = read_run(add("one", 40))
    assert view_pairs([run]) is None
    assert view_pairs([run, read_run(write_run("only-trained", only={"train.csv"}))]) is None


def test_two_attacks(add: Callable[..., Path], metrics: dict[str, Any]) -> None:
    other = copy.deepcopy(metrics["attacks"])
    other[0]["name"] = "standard-linf"
    examples = rows([1.0] * 100, [1.0] * 80 + [0.0] * 20).replace("pgd-200", "standard-linf")
    found = view(add("a", 40), add("b", 80, attacks=other, examples=examples))
    assert "under the strongest attack on each at" in found.against[0].rows["b"][1].sentence
