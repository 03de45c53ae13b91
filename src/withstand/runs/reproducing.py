"""Runs kept results anew: which have to be, and why; and what of a run is kept.

A folder of kept results holds a folder a run, with its small files: recipe, environment, training log and
figures. By which data, code and versions they were made is noted in ``environment.json``, each as a digest.
"""

from __future__ import annotations

import logging
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from withstand.core.identity import digest_of
from withstand.core.run_folder import RunFolder
from withstand.core.suggest import nearest
from withstand.recipes.parsing import ParsedRecipe, find_recipe, flow, load_yaml, parse_recipe
from withstand.reporting.find import find_runs
from withstand.runs.code_digest import code_digest
from withstand.runs.run_parts import load_data, trained_part
from withstand.runs.stages import former_evaluation
from withstand.types import RecipeError, RunFolderError

KEPT_FILES = ("recipe.yaml", "environment.json", "train.csv", "measurements.csv", "metrics.json")
"""Of a run folder: its small files, without images or rows of single examples."""
_NOTE = "reproduced"  # in environment.json
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """What is to be done about one kept run.

    Attributes:
        name: Of its folder, below that of all results.
        kept: The folder.
        parsed: The recipe as it now is, with what was measured as its evaluation.
        command: The command that trains it, for ``environment.json``.
        made_by: Digests of data and code, and versions, as they now are.
        reasons: Why it has to be run anew; empty where nothing has changed.
    """

    name: str
    kept: RunFolder
    parsed: ParsedRecipe
    command: str
    made_by: Mapping[str, str]
    reasons: Sequence[str]

    @property
    def former_seconds(self) -> float:
        """What the kept run took to train and measure, as far as it is known."""
        cost = self.kept.read_json(self.kept.environment).get("cost") or {}
        return sum(float(cost.get(f"{what}_seconds") or 0) for what in ("train", "evaluate"))

    def run_in(self, runs: Path) -> RunFolder:
        """The run folder to train and measure in, the same as long as nothing that it depends on changes."""
        key = digest_of(dict(self.made_by), _trained(self.parsed))[:8]
        return RunFolder.at(runs / f"{self.name}-{key}")


def names_of(results: Path, chosen: Sequence[str]) -> list[str]:
    """The names of kept runs, ``mnist-suite/iat``; all below a folder where that is named.

    Args:
        results: The folder of all results.
        chosen: Names; all runs where there are none.

    Raises:
        RunFolderError: there are no results, or none of a name.
    """
    if not results.is_dir():
        raise RunFolderError(
            f"There is no folder {results} with kept results; say where they are: --results=DIR."
        )
    every = [run.relative_to(results).as_posix() for run in find_runs([results])]
    if not chosen:
        return every
    parents = dict.fromkeys(parent.as_posix() for name in every for parent in Path(name).parents[:-1])
    for name in chosen:
        if name not in every and name not in parents:
            first = name.split("/")[0]
            near = [known for known in every if known.startswith(f"{first}/")]
            near = near or list(dict.fromkeys(known.split("/")[0] for known in every))
            raise RunFolderError(f"There is no {name!r} in {results}; {nearest(name, near)}")
    return [name for name in every if any(f"{name}/".startswith(f"{part}/") for part in chosen)]


def made_in_python(results: Path, name: str) -> str:
    """Why a kept run is none that a recipe can run anew, in words; empty where it is one.

    Args:
        results: The folder of all results.
        name: Of the run's folder in it.

    Raises:
        WithstandError: its recipe is missing or damaged.
    """
    kept = RunFolder.at(results / name)
    recipe = load_yaml(kept.text_of(kept.recipe))
    unsaid = list(recipe.get("unspelled") or [])
    if (recipe.get("data") or {}).get("name") is None:
        unsaid.insert(0, "data")
    return f"made in Python of {' and '.join(unsaid)} that no recipe spells" if unsaid else ""


def plan(results: Path, name: str, *, data_root: str | None = None) -> Plan:
    """Whether a kept run has to be run anew, and how.

    Args:
        results: The folder of all results.
        name: Of the run's folder in it.
        data_root: Where the data are; as its recipe says where None.

    Raises:
        WithstandError: it cannot be run: its files are damaged or of another version, its data are not here,
            or it is no folder of small files.
    """
    kept = RunFolder.at(results / name)
    if any(kept.path.glob("*.safetensors")):
        raise RunFolderError(
            f"{kept.path} holds weights, so it is a run folder to go on with: withstand evaluate "
            f"{kept.path}. Kept results hold small files alone."
        )
    parsed, command = _recipe_now(kept, name, data_root)
    torch_version = str(torch.__version__).partition("+")[0]
    made_by = {
        "data": load_data(parsed.recipe).fingerprint[:16],
        "code": code_digest(parsed.values),
        "versions": f"torch {torch_version}",
    }
    noted = kept.read_json(kept.environment).get(_NOTE)
    if not isinstance(noted, dict):
        commit = str(kept.read_json(kept.environment).get("git_commit") or "")[:8]
        made_at = f", kept at commit {commit}" if commit else ""
        return Plan(name, kept, parsed, command, made_by, [f"not reproduced before{made_at}"])
    # Both as this version reads them: a setting that is new has its default in either.
    is_other = _trained(parse_recipe(kept.recipe)) != _trained(parsed)
    changed = ["other recipe"] * is_other + [
        f"other {part}" for part in made_by if noted.get(part) != made_by[part]
    ]
    return Plan(name, kept, parsed, command, made_by, changed)


def keep(plan: Plan, run: RunFolder) -> None:
    """Puts the small files of a finished run in the place of those that were kept.

    Args:
        plan: Of the kept run.
        run: Where it was run anew.

    Raises:
        RunFolderError: they cannot be written.
    """
    for name in KEPT_FILES:
        if (run.path / name).exists() and name not in (run.recipe.name, run.environment.name):
            shutil.copyfile(run.path / name, plan.kept.path / name)
    recipe = load_yaml(run.text_of(run.recipe))
    recipe["data"]["root"] = None  # which is of this machine
    plan.kept.recipe.write_text(yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True), encoding="utf-8")
    about = run.read_json(run.environment)
    plan.kept.write_json(plan.kept.environment, {**about, _NOTE: dict(plan.made_by)})


def _trained(parsed: ParsedRecipe) -> dict[str, Any]:
    """The values that decide what is trained, wherever the data are."""
    return trained_part(parsed.values, ("root",))


def _recipe_now(kept: RunFolder, name: str, data_root: str | None) -> tuple[ParsedRecipe, str]:
    """The recipe that the kept command names, as it now is, or the kept one; and the command that trains it.

    Either measures what was measured. That the command cannot be read, so the kept one is taken, is logged.
    """
    root = [] if data_root is None else [f"--data.root={data_root}"]
    own = f"withstand reproduce {name}"
    measured = former_evaluation(kept)
    if measured is None:
        raise RunFolderError(
            f"What was measured of {kept.path} cannot be read, so it cannot be measured again."
        )
    settings = [f"--evaluation.{key}={flow(value)}" for key, value in measured.values["evaluation"].items()]
    command = kept.read_json(kept.environment).get("command") or ""
    words = shlex.split(command)
    if words[:1] == ["withstand"] and words[1:2] in (["run"], ["train"]) and words[2:]:
        skipped = ("--out=", "--data.root=", "--evaluation.")
        overrides = [word for word in words[3:] if not word.startswith(skipped)]
        try:
            every = [*overrides, *settings, *root]
            return parse_recipe(
                find_recipe(words[2]), every, sources=[kept.environment, kept.metrics]
            ), command
        except RecipeError as error:
            _logger.warning("%s is run by its kept recipe, since its command cannot be read: %s", name, error)
    return parse_recipe(kept.recipe, [*settings, *root], sources=[kept.metrics]), own
