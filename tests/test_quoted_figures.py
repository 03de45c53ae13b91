"""Every figure that README and docs/ quote of a run in results/ stays equal to it, digit for digit."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from results_page import RESULTS, ROOT, TEMPLATES, filled, page
from withstand.recipes.parsing import parse_recipe

BCP = "benchmarks/certified_cost.json > training_step > times_plain"
POWER = "benchmarks/power_iteration.json"
NETS = ("mlp", "cnn-small", "cnn-small, MinMax", "depthwise and grouped", "residual")
SMALL = "benchmarks/gaussian_cost.json > cnn-small, mnist, batch 128 > times_plain"
TRADEOFF, LENET = "mnist-moments-tradeoff", "mnist-moments-lenet-2000"
PUBLISHED = f"{LENET}/expectation-0.5-weight-1"

SENTENCES = {
    "README.md": ["At linf 0.3 the IAT net has [mnist-suite/iat > attacked linf 0.3: %1] %"],
    "docs/certified.md": [
        "the clean accuracy falls to about [mnist-certified-mlp > clean: %0] %",
        f"BCP takes [{BCP} > bcp-l2: .1f] times a plain step in l2, IBP [{BCP} > ibp-linf: .1f], "
        f"Lipschitz-margin training [{BCP} > lipschitz-l2: .1f]",
        f"was never less than [{POWER} > all > least: .2f] times its guaranteed norm",
        *(
            f"| {net} | [{POWER} > networks > {net} > num_operators: .0f] | "
            + " | ".join(
                f"[{POWER} > networks > {net} > {part} > {figure}: .2f]"
                for part in ("first_steps", "ramp", "after_ramp")
                for figure in ("least", "median")
            )
            + " |"
            for net in NETS
        ),
    ],
    "docs/gaussian.md": [
        f"[{TRADEOFF}/noise-0.5 > noise unclipped: %1] % mean accuracy",
        f"at best [{TRADEOFF}/expectation-1.0-weight-1 > noise unclipped: %1] % at "
        f"[{SMALL} > published: .1f] times the cost",
        f"independent coordinates [{TRADEOFF}/every-layer-1.0 > noise unclipped: %1] % at "
        f"[{SMALL} > every-layer-mean-field: .0f] times",
        f"random factors [{TRADEOFF}/every-layer-4-factors-alone-0.5 > noise unclipped: %1] % at "
        f"[{SMALL} > every-layer-4-factors: .1f] times",
        f"one copy beside each image [{TRADEOFF}/copies-1 > noise unclipped: %1] %, twenty "
        f"[{TRADEOFF}/copies-20 > noise unclipped: %1] %",
        f"2,000 digits: [{PUBLISHED} > noise unclipped: %1] % under noise at "
        f"[{PUBLISHED} > clean: %1] % clean",
        f"folds have [{LENET}/copies-5 > noise unclipped: %1] to "
        f"[{LENET}/copies-1 > noise unclipped: %1] % at "
        f"[{LENET}/copies-1 > clean: %1] to [{LENET}/copies-20 > clean: %1] % clean",
    ],
}
"""Page that has no template -> words with figures in it, over line ends."""


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("template", sorted(path.name for path in TEMPLATES.glob("*.md")))
def test_page_is_what_its_template_makes(template: str) -> None:
    assert text_of(f"docs/{template}") == page(template), "Run `make results`."


@pytest.mark.parametrize(
    ("name", "text"), [(name, text) for name, texts in SENTENCES.items() for text in texts]
)
def test_sentence_quotes_the_results_of_runs(name: str, text: str) -> None:
    expected = filled(text)
    whole = rf"(?<![\d.]){re.escape(expected)}(?!\d|\.\d)"
    assert re.search(whole, " ".join(text_of(name).split())), f"{name} no longer says {expected!r}"


def test_tables_of_the_readme_are_those_of_the_results() -> None:
    rows = [line for line in text_of("README.md").splitlines() if line.startswith("|")]
    assert len(rows) > 2
    assert "\n".join(rows) in text_of("docs/results.md")


def test_figure_that_is_not_there_is_an_error() -> None:
    for query in (
        "nowhere > clean",
        "mnist-suite/plain > attacked linf 0.7",
        "benchmarks/suite_cost.json > nothing",
    ):
        with pytest.raises(LookupError):
            filled(f"[{query}: %1]")


@pytest.mark.parametrize(
    "folder",
    [folder for folder in sorted(RESULTS.iterdir()) if any(folder.rglob("recipe.yaml"))],
    ids=lambda folder: folder.name,
)
def test_recipes_beside_the_figures_can_be_run(folder: Path) -> None:
    parse_recipe(min(folder.rglob("recipe.yaml")))  # the others of a folder are its like
