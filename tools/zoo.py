"""Puts a finished run into the zoo, the trained nets that come with the package.

    python tools/zoo.py RUN NAME --norm=inf --epsilon=0.3

RUN is a run folder that was trained and evaluated. NAME says data and ball, such as ``mnist-linf-0.3``; norm
and epsilon are those at which ``withstand zoo`` shows its figures. Of the weights those that were measured
are kept. A run whose files do not agree, or name places of this machine, is refused; clean accuracy is
measured again. A net of the same name is replaced.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

import withstand as ws
from withstand.core.run_folder import RunFolder
from withstand.core.zoo import ABOUT, HOME
from withstand.models import MODEL_NAMES
from withstand.recipes.parsing import ParsedRecipe, load_yaml, packaged_recipes
from withstand.reporting import table
from withstand.reporting.read import read_run
from withstand.results import read_results
from withstand.results.results import Results
from withstand.runs.loading import load_run_model, weights_file
from withstand.runs.run_parts import load_data, require_same_data
from withstand.runs.stages import former_evaluation
from withstand.training.run_record import digest
from withstand.types import RunFolderError

MOST_BYTES = 25 * 2**20  # of the whole zoo
CLOSE = 0.002  # of accuracy: what another machine's rounding may change
LICENCES = {
    "digits": "CC BY 4.0 (UCI Machine Learning Repository, Optical Recognition of Handwritten Digits)",
    "mnist": "CC BY-SA 3.0 (Y. LeCun and C. Cortes)",
    "fashion-mnist": "MIT (Zalando SE)",
}
"""Of the data; of others say it by --licence."""
PATH = re.compile(r"""(?<![\w.:/\\])(?:~?/[\w.-]+/[\w./-]*|[A-Za-z]:\\\w)""")
OF_PLACES = ("--out=", "--data.root=", "--trust")  # options that change nothing that is computed


def add(
    folder: Path, name: str, *, norm: str, epsilon: float, licence: str | None = None, home: Path = HOME
) -> Path:
    """Copies of a run what the zoo keeps.

    Args:
        folder: The run folder.
        name: Of the net.
        norm: Of the ball at which figures are shown, ``inf``, ``2`` or ``1``.
        epsilon: Its radius.
        licence: Of the data, where it is not known here.
        home: Where the nets lie.

    Returns:
        The net's folder.

    Raises:
        WithstandError: something does not agree; nothing is written.
    """
    run = RunFolder.at(folder)
    parsed, results = require_measured(run)
    refuse_name(name, parsed)
    licence = licence or LICENCES.get(str(parsed.recipe.data.name))
    if licence is None:
        raise RunFolderError(f"Which licence has {parsed.recipe.data.name}? Say it by --licence=TEXT.")
    about = read_run(run.path)
    if table.at(table.strongest(about), norm, epsilon) is None:
        raise RunFolderError(
            f"{folder} was not attacked at norm {norm}, epsilon {epsilon:g}. Evaluate it there."
        )
    require_same_figures(run, parsed, results)
    num_parameters = sum(weight.numel() for weight in load_run_model(run, parsed.recipe).parameters())
    files = dict(kept_files(run, parsed, name))
    for file, content in files.items():
        if file.endswith((".yaml", ".json", ".csv")) and (place := PATH.search(content.decode())):
            raise RunFolderError(f"{file} of {folder} names a place of this machine, {place[0]}.")
    return written(
        home / name,
        files,
        {"norm": norm, "epsilon": epsilon, "num_parameters": num_parameters, "data_licence": licence},
    )


def require_measured(run: RunFolder) -> tuple[ParsedRecipe, Results]:
    """The recipe, with what was measured as its evaluation, and the results of a run that has both."""
    parsed, known = former_evaluation(run), read_results(run)
    if parsed is None or known is None:
        raise RunFolderError(f"{run.path} was not measured. Evaluate it: withstand evaluate {run.path}")
    return parsed, known[0]


def refuse_name(name: str, parsed: ParsedRecipe) -> None:
    """Accepts a name that is its own, of a net that this package alone makes."""
    data = str(parsed.recipe.data.name)
    if not name.startswith(f"{data}-") or not re.fullmatch(r"[a-z0-9.-]+", name):
        raise RunFolderError(f"The name of a net trained on {data} begins with {data}-, but got {name}.")
    if name in packaged_recipes():
        raise RunFolderError(
            f"{name} is the name of a recipe, whose runs lie in runs/{name}. Choose another."
        )
    if parsed.recipe.model.name not in MODEL_NAMES:
        raise RunFolderError(f"The zoo has nets of ws.models alone, not {parsed.recipe.model.name}.")


def require_same_figures(run: RunFolder, parsed: ParsedRecipe, results: Results) -> None:
    """Accepts figures that are of these weights and data: clean accuracy comes out again."""
    dataset = load_data(parsed.recipe)
    require_same_data(run, dataset, are_named=False)
    again = ws.evaluate(
        load_run_model(run, parsed.recipe),
        dataset,
        num_examples=results.num_examples,
        seed=parsed.recipe.seed,
    )
    noted, now = (table.one(of, "clean accuracy") for of in (read_run(run.path).table, again.table))
    if noted is None or now is None or abs(noted.value - now.value) > CLOSE or noted.total != now.total:
        raise RunFolderError(f"{run.path} says {noted}, but its weights give {now}. Evaluate it again.")


def kept_files(run: RunFolder, parsed: ParsedRecipe, name: str) -> Iterator[tuple[str, bytes]]:
    """Names and contents of what the zoo keeps of a run."""
    recipe = load_yaml(run.text_of(run.recipe))
    recipe |= {"name": name, "evaluation": parsed.values["evaluation"]}
    recipe["data"]["root"] = None
    yield run.recipe.name, yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True).encode()
    for file in (run.model_spec, run.metrics, run.measurements):
        yield file.name, file.read_bytes()
    about = run.read_json(run.environment)
    for key, value in about.items():
        if key == "command" or key.endswith("_command"):
            about[key] = value and without_places(value, name)
        elif key == "measured_by":
            about[key] = [without_places(command, name) for command in value]
    yield run.environment.name, _json(about)
    weights = weights_file(run, parsed.recipe)
    yield weights.name, weights.read_bytes()


def without_places(command: str, name: str) -> str:
    """A command as its reader would type it: the run folder is ``runs/NAME``, data are where they are."""
    words = [word for word in shlex.split(command) if not word.startswith(OF_PLACES)]
    is_of_run = words[1:2] and words[1] in ("evaluate", "certify", "attack", "moments")
    return shlex.join(
        [*words[:2], f"runs/{name}", *words[3:]] if is_of_run else [*words, f"--out=runs/{name}"]
    )


def _json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()


def written(folder: Path, files: dict[str, bytes], about: dict[str, Any]) -> Path:
    """Puts a net in its place, if the zoo stays small enough."""
    others = sum(file.stat().st_size for file in folder.parent.rglob("*.*") if file.parent != folder)
    if (size := others + sum(map(len, files.values()))) > MOST_BYTES:
        raise RunFolderError(f"With {folder.name} the zoo would have {size:,} bytes, above {MOST_BYTES:,}.")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for file, content in files.items():
        (folder / file).write_bytes(content)
    checksums = {file: digest(content) for file, content in files.items()}
    (folder / ABOUT).write_bytes(_json({**about, "sha256": checksums}))
    return folder


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("name")
    parser.add_argument("--norm", choices=("inf", "2", "1"), required=True)
    parser.add_argument("--epsilon", type=float, required=True)
    parser.add_argument("--licence")
    values = parser.parse_args(arguments)
    try:
        folder = add(
            values.run, values.name, norm=values.norm, epsilon=values.epsilon, licence=values.licence
        )
    except ws.WithstandError as error:
        raise SystemExit(f"error: {error}") from error
    print(f"in the zoo: {folder}")  # noqa: T201


if __name__ == "__main__":
    main()
