from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from typing_extensions import override

from withstand.reporting import report
from withstand.reporting.page import plotly_script
from withstand.results.measurements import ATTACKED, Measurement
from withstand.results.results import Published

WriteRun = Callable[..., Path]
_EVERY_FILE = ["recipe.yaml", "environment.json", "train.csv", "examples.csv", "metrics.json", "gallery.npz"]


class Page(HTMLParser):
    """The tags of a page, its words, its style sheet, and the data of its figures."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.style = ""
        self.figures: list[dict[str, Any]] = []
        self._words: list[str] = []
        self._within: tuple[str, dict[str, str]] = ("", {})
        self.feed(path.read_text(encoding="utf-8"))

    @override
    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._within = (tag, {name: value or "" for name, value in attrs})
        self.tags.append(self._within)

    @override
    def handle_endtag(self, tag: str) -> None:
        self._within = ("", {})

    @override
    def handle_data(self, data: str) -> None:
        tag, attributes = self._within
        if tag == "style":
            self.style += data
        elif tag == "script" and attributes.get("type") == "application/json":
            self.figures.append(json.loads(data))
        elif tag != "script":
            self._words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self._words).replace("\N{NO-BREAK SPACE}", " ").split())

    def all(self, name: str) -> list[dict[str, str]]:
        return [attributes for tag, attributes in self.tags if tag == name]


def first_accuracy_figure(page: Page) -> dict[str, Any]:
    """The first figure of accuracy against epsilon."""
    return next(
        figure
        for figure in page.figures
        if figure["layout"].get("xaxis", {}).get("title", {}).get("text", "").startswith("ε (")
    )


@pytest.fixture
def real_plotly() -> None:
    """Asked for by tests that want all of plotly's script in the page."""


@pytest.fixture(autouse=True)
def _short_script(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Plotly's script is 5 MB, which most tests need not write and parse."""
    if "real_plotly" not in request.fixturenames:
        monkeypatch.setattr("withstand.reporting.page.plotly_script", lambda: "/* plotly */ 1 < 2;")


@pytest.fixture
def page(write_run: WriteRun, evaluated: Any) -> Page:
    published = [Published("attacked", 0.94, "A paper 2020", "inf", 0.3)]
    whole = evaluated.but(warnings=["Gradients look masked."], published=published)
    return Page(report([write_run(evaluated=whole)]))


@pytest.fixture
def compare_page(write_run: WriteRun, evaluated: Any, tmp_path: Path) -> Page:
    folders = [write_run("one"), write_run("two", evaluated=evaluated.but(warnings=["Only few."]))]
    folders.append(write_run("three", only={"train.csv"}))
    return Page(report(folders, tmp_path / "pages" / "compare.html"))


def test_page_says_what_was_measured(page: Page) -> None:
    expected = [
        "A tiny run",
        "cnn-small on MNIST, 2 epochs, seed 3",
        "What it shows.",
        "Clean accuracy 98.1 % 95 % interval 96.1\N{EN DASH}100.0 % 981 of 1,000 correct",
        "Attacked, ℓ∞ ε = 0.3 40.2 % 95 % interval 38.2\N{EN DASH}42.2 % under pgd-200",
        "upper bound of robust accuracy",
        "no proof",
        "MNIST 3 test examples 10 classes last weights",
        "Gradients look masked.",
        "attacked, ℓ∞ ε = 0.3 40.2 % pgd-200 38.2\N{EN DASH}42.2 % 94 % as published A paper 2020",
        "pgd-200 in words",
        "Epoch 2: collapsed, back, step halved",
        "amplified 6.3 times",
        "predicted cat , correct",
        "predicted ship , wrong",
        "Time a step 250 ms",
        "Peak memory 3.0 MiB",
        "torch version 2.13.0",
        "withstand run tiny --out runs/tiny",
        "data: {name: mnist}",
        "3 rows",
    ]
    assert [words for words in expected if words not in page.text] == []


def test_page_of_a_whole_folder_lacks_nothing(page: Page) -> None:
    assert "Missing" not in page.text
    assert len(page.figures) == 6


@pytest.mark.parametrize("which", ["page", "compare_page"])
def test_page_is_sound(which: str, request: pytest.FixtureRequest) -> None:
    page: Page = request.getfixturevalue(which)
    assert page.tags[0][0] == "html"
    assert page.all("html")[0]["lang"] == "en"
    assert len(page.all("h1")) == len(page.all("main")) == 1
    assert all(image.get("alt") for image in page.all("img"))
    assert len(page.all("img")) > 0
    assert len(page.all("caption")) == len(page.all("table"))
    assert all("scope" in cell for cell in page.all("th"))
    plots = [element for element in page.all("div") if element.get("class") == "plot"]
    assert all(plot["aria-label"] and plot["role"] == "img" for plot in plots)
    assert len(plots) == len(page.figures)


@pytest.mark.parametrize("which", ["page", "compare_page"])
def test_page_headings_descend_one_level_at_a_time(which: str, request: pytest.FixtureRequest) -> None:
    page: Page = request.getfixturevalue(which)
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


@pytest.mark.parametrize("which", ["page", "compare_page"])
def test_page_ids_and_references_fit(which: str, request: pytest.FixtureRequest) -> None:
    page: Page = request.getfixturevalue(which)
    ids = Counter(attributes["id"] for _, attributes in page.tags if "id" in attributes)
    assert not [name for name, times in ids.items() if times > 1]
    expected = {link["href"].removeprefix("#") for link in page.all("a")}
    expected |= {
        attributes["aria-labelledby"] for _, attributes in page.tags if "aria-labelledby" in attributes
    }
    assert expected <= set(ids)


@pytest.mark.parametrize("which", ["page", "compare_page"])
def test_page_loads_nothing(which: str, request: pytest.FixtureRequest) -> None:
    page: Page = request.getfixturevalue(which)
    loaded = [
        (tag, name, value[:40])
        for tag, attributes in page.tags
        for name, value in attributes.items()
        if name in ("src", "href", "srcset", "action", "data", "poster")
        and not value.startswith(("data:", "#"))
    ]
    assert loaded == []
    assert not re.search(r"url\(|@import", page.style)
    assert not {"iframe", "object", "embed", "base"} & {tag for tag, _ in page.tags}
    policy = next(element["content"] for element in page.all("meta") if "http-equiv" in element)
    assert policy.startswith("default-src 'none';")
    assert "http" not in policy


@pytest.mark.usefixtures("real_plotly")
def test_page_holds_plotly_once_and_whole(write_run: WriteRun, tmp_path: Path) -> None:
    out = report([write_run("one"), write_run("two")], tmp_path / "page.html")
    text = out.read_text(encoding="utf-8")
    assert text.count("* plotly.js (basic - minified) v") == 1
    assert plotly_script() in text
    page = Page(out)
    assert len(page.all("script")) == len(page.figures) + 2


def test_page_escapes_names(write_run: WriteRun, evaluated: Any, environment: dict[str, Any]) -> None:
    evil = "</script><script>alert(1)</script><b title=\"'"
    published = [Published("clean", 0.5, evil, note=evil)]
    evaluated = evaluated.but(dataset=evil, warnings=[evil], published=published, attacks=[])
    evaluated = evaluated.attacked(evil, "inf", {0.1: 1}).plus(Measurement(evil, evil, evil, value=0.5))
    recipe = json.dumps({"name": evil, "title": evil, "description": evil})
    training = f'epoch,loss,note\n1,2,"{evil.replace(chr(34), "")}"\n'
    environment |= {"command": evil, "versions": {evil: evil}}
    folder = write_run(evaluated=evaluated, recipe=recipe, training=training, environment=environment)
    page = Page(report([folder], title=evil))
    scripts = page.all("script")
    assert len(scripts) == len(page.figures) + 2
    assert not [element for element in page.all("b") if element]
    assert page.text.count("<script>alert(1)</script>") >= 10


@pytest.mark.parametrize("file", _EVERY_FILE)
def test_page_names_what_is_missing_with_its_command(write_run: WriteRun, file: str) -> None:
    folder = write_run(only=set(_EVERY_FILE) - {file})
    page = Page(report([folder]))
    assert f"Missing: {file}" in page.text.replace(" .", "")
    # A training into this folder would be of another network.
    has_command = file not in ("train.csv", "recipe.yaml", "environment.json")
    assert (f"To make it: withstand evaluate {folder}" in page.text) == has_command


def test_page_of_unfinished_training(write_run: WriteRun) -> None:
    page = Page(report([write_run(only={"train.csv"}, training="epoch,progress,loss\n")]))
    assert "No epoch is finished yet." in page.text
    assert page.figures == []


def test_page_of_a_run_without_attacks(write_run: WriteRun, evaluated: Any) -> None:
    plain = evaluated.but(attacks=[]).without(ATTACKED)
    page = Page(report([write_run(only={"metrics.json"}, evaluated=plain)]))
    assert "No attack was run" in page.text
    assert "there are no attacked images" in page.text
    assert "gallery.npz" not in page.text
    assert "Clean accuracy 98.1 %" in page.text


def test_page_notes_that_jpeg_copies_are_not_cifar10(write_run: WriteRun, evaluated: Any) -> None:
    page = Page(report([write_run(evaluated=evaluated.but(dataset="cifar10-jpeg"))]))
    assert "Data set cifar10-jpeg" in page.text
    assert "not bit-exact CIFAR-10" in page.text


def test_page_title_can_be_set(write_run: WriteRun, tmp_path: Path) -> None:
    one, two = write_run("one"), write_run("two")
    assert "Mine" in Page(report([one], title="Mine")).text
    assert "2 runs compared" in Page(report([one, two], tmp_path / "a.html")).text


def test_compare_page_has_both_runs(compare_page: Page) -> None:
    text = compare_page.text
    assert "3 runs compared" in text
    row = (
        "tiny (one) 98.1 % 96.1\N{EN DASH}100.0 % 90.5 % 88.5\N{EN DASH}92.5 % fgsm "
        "40.2 % 38.2\N{EN DASH}42.2 % pgd-200 none Training: 1 min 40 s"
    )
    assert row in text
    assert "three not evaluated: withstand evaluate" in text
    assert "Only few." in text
    assert len(compare_page.all("article")) == 3
    overlaid = first_accuracy_figure(compare_page)
    assert [series["name"] for series in overlaid["data"]] == ["tiny (one)", "tiny (two)"]
    assert overlaid["data"][0]["y"] == [0.981, 0.905, 0.402]
    assert "Accuracy on MNIST with its 95 % interval" in text
    loss = next(figure for figure in compare_page.figures[::-1] if len(figure["data"]) > 2)
    assert [series["name"] for series in loss["data"] if "name" in series] == [
        "tiny (one)",
        "tiny (two)",
        "three",
    ]


def test_page_has_all_commands_that_measured_the_run_in_their_order(write_run: WriteRun) -> None:
    commands = ["withstand attack runs/tiny --epsilon=0.1", "withstand attack runs/tiny --epsilon=0.2"]
    page = Page(report([write_run(environment={"command": "withstand train it", "measured_by": commands})]))
    places = [page.text.index(command) for command in ("withstand train it", *commands)]
    assert places == sorted(places)


def test_page_of_a_certified_run(write_run: WriteRun, certified: Any) -> None:
    whole = certified.but(published=[Published("certified", 0.482, "A paper", "2", 1.0)])
    examples = "index,radius-l2\n0,0.5\n1,1.0\n2,0.0\n"
    environment = {"certify_command": "withstand certify runs/tiny --norm=2"}
    page = Page(report([write_run(evaluated=whole, examples=examples, environment=environment)]))
    expected = [
        "Accuracy under attack, and certified",
        "Certified, ℓ₂ ε = 1 40.0 % 95 % interval 38.0\N{EN DASH}42.0 % proven, method best",
        "certified, ℓ₂ ε = 1 40.0 % certified (best) 38.0\N{EN DASH}42.0 % 48.2 % as published",
        "Certified accuracy is the share for which a proof holds",
        "Attack or certificate Norm",
        "certified (box) ℓ₂ 1 10.0 %",
        "certified-ℓ₂ in words. Certified radius: mean 0.7125",
        "withstand certify runs/tiny --norm=2",
    ]
    assert [words for words in expected if words not in page.text] == []
    assert "certified robust" not in page.text.lower()
    assert page.figures[1]["data"][1]["x"] == [0.0, 0.5, 1.0, 1.0]


def test_compare_page_of_certified_runs(write_run: WriteRun, certified: Any, tmp_path: Path) -> None:
    folders = [write_run("one", evaluated=certified), write_run("two")]
    page = Page(report(folders, tmp_path / "page.html"))
    assert "Clean Certified, ℓ₂ ε = 1 Certified, ℓ∞ ε = 0.1" in page.text
    assert "40.0 % 38.0\N{EN DASH}42.0 % certified (best)" in page.text
    assert "what of it is certified" in page.text
    linf = first_accuracy_figure(page)["data"]
    assert [element["name"] for element in linf] == [
        "one, attacked",
        "one, certified (box and ball)",
        "two, attacked",
    ]
    assert linf[0]["line"]["color"] == linf[1]["line"]["color"] != linf[2]["line"]["color"]


def test_compare_page_says_what_a_run_did_not_measure(
    write_run: WriteRun, evaluated: Any, tmp_path: Path
) -> None:
    other = evaluated.but(attacks=[], num_classes=5).without(ATTACKED)
    other = other.attacked("pgd-200", "2", {0.3: 402, 0.1: 907})
    page = Page(report([write_run("one"), write_run("two", evaluated=other)], tmp_path / "page.html"))
    assert page.text.count("not measured") == 4
    titles = [element["aria-label"] for element in page.all("div") if element.get("class") == "plot"]
    titles = [title for title in titles if title.startswith("Accuracy against ε")]
    assert [title[:23] for title in titles[:2]] == [
        "Accuracy against ε, ℓ∞.",
        "Accuracy against ε, ℓ₂.",
    ]


def test_page_draws_the_chance_level_where_it_is_one(
    write_run: WriteRun, evaluated: Any, tmp_path: Path
) -> None:
    one, two = write_run("one"), write_run("two", evaluated=evaluated.but(num_classes=4))
    assert Page(report([one])).figures[0]["layout"]["shapes"][0]["y0"] == 0.1
    assert Page(report([two])).figures[0]["layout"]["shapes"][0]["y0"] == 0.25
    both = Page(report([one, two], tmp_path / "page.html"))
    assert "shapes" not in first_accuracy_figure(both)["layout"]


def test_page_writes_norms_by_their_signs_alone(write_run: WriteRun, evaluated: Any) -> None:
    named = evaluated.attacked("pgd-20-linf", "inf", {0.1: 700}).attacked("pgd-20-l2", "2", {0.5: 600})
    named = named.but(warnings=["In linf at epsilon 0.1, pgd-20-linf is weak; l2 is not."])
    recipe = "{name: tiny, title: 'Against linf 0.3', description: 'In Linf and l2.'}"
    page = Page(report([write_run("run", evaluated=named, recipe=recipe, only=None)]))
    traces = [trace for figure in page.figures for trace in figure["data"]]
    figures = " ".join(str([trace.get(key) for key in ("name", "text", "hovertext")]) for trace in traces)
    alternatives = " ".join(element.get("aria-label", "") for _, element in page.tags)
    seen = page.text.replace(recipe, "") + figures + alternatives
    assert re.findall(r"(?i).{0,20}\bl-?(?:inf|[12])\b", seen) == []
    assert {"pgd-20-ℓ∞", "pgd-20-ℓ₂"} <= set(re.findall(r"[\w-]+[∞₂]", seen))
    assert "Against ℓ∞ 0.3" in page.text
