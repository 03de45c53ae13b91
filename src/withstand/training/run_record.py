"""What a training leaves in its folder so that every command can read it: model, recipe, surroundings."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from withstand.core.dataset_info import DatasetInfo
from withstand.core.made import Made, made_of
from withstand.core.network import describe
from withstand.core.run_folder import RunFolder, replaced
from withstand.core.spelling import UnspelledError, spelled
from withstand.core.trust import write_signed
from withstand.core.wrappers import unwrapped
from withstand.data import Dataset
from withstand.graph.kept_graph import graph_bytes
from withstand.loss.terms import Objective, Sum, Weighted
from withstand.models.hosted import is_hosted, is_onnx
from withstand.models.hub import settings_of
from withstand.models.kept_source import source_of
from withstand.models.onnx import files_of
from withstand.training.settings import TrainingSettings
from withstand.types import ModelError

IN_PYTHON = "ws.fit"
"""What ``made_by`` of a model's file says where the training is no recipe's."""
_logger = logging.getLogger(__name__)


def write_model(
    run: RunFolder,
    info: DatasetInfo,
    made: Mapping[str, Any],
    network: nn.Module,
    *,
    kept: Mapping[str, Any] | None = None,
    **more: Any,
) -> None:
    """Writes ``model.json``, and beside it what makes the model: its file, or a repository's settings.

    Args:
        run: The run folder, held.
        info: Of the data; what the network normalises by.
        made: How to build the network: ``name``, ``normalize``, ``options``, ``parametrize``, ``bayes``.
        network: As it is built.
        kept: What of it is kept instead of a source, as ``model.json`` says it.
        **more: Other fields.

    Raises:
        RunFolderError: the folder cannot be written.
    """
    content = {
        **made,
        "dataset": info.name,
        "input_shape": list(info.shape),
        "num_classes": info.num_classes,
        "info": asdict(info),
        **more,
        "kept": _with_source(run, made) if kept is None else kept,
        "network": describe(network),
    }
    write_signed(run.model_spec, json.dumps(content, indent=2) + "\n")


def _with_source(run: RunFolder, made: Mapping[str, Any]) -> dict[str, Any] | None:
    """Copies what a model's name leads to into the folder; None where the package alone makes it.

    Of a file that is the file, with what it imports beside it, or with its weights where it is an ONNX; of a
    network of transformers its settings.
    """
    name = str(made["name"])
    place, _, function = name.rpartition(":")
    file = Path(place).expanduser()
    if name.startswith("hub:"):
        files = settings_of(name, made["options"].get("revision"))
        about = {"what": "settings"}
    elif is_onnx(name):
        files = files_of(Path(name).expanduser())
        about = {"what": "onnx"}
    elif place.endswith(".py") and file.is_file():
        files = source_of(file)
        about = {"what": "source", "file": str(file.resolve()), "function": function}
    else:
        return None
    shutil.rmtree(run.source, ignore_errors=True)
    for path, content in files.items():
        (run.source / path).parent.mkdir(parents=True, exist_ok=True)
        with replaced(run.source / path) as temporary:
            temporary.write_bytes(content)
    return {**about, "files": {f"{run.source.name}/{path}": digest(files[path]) for path in files}}


def digest(content: bytes) -> str:
    """SHA-256, in hex."""
    return hashlib.sha256(content).hexdigest()


class FitRecord:
    """The record of a training that no recipe describes.

    Args:
        run: Its folder.
        model: Before anything ran.
        dataset: What it is trained on.
        objective: What it minimises.
        settings: How it is trained.
        seed: Of the training.
    """

    def __init__(
        self,
        run: RunFolder,
        model: nn.Module,
        dataset: Dataset,
        objective: Objective,
        settings: TrainingSettings,
        seed: int,
    ) -> None:
        self._run, self._model, self._dataset = run, model, dataset
        made = made_of(model)
        fits = (
            made is not None
            and _is_plain(made)
            and _task(made) == (*dataset.info.shape, dataset.info.num_classes)
            and (not is_onnx(made.name) or Path(made.name).is_file())
        )
        self._made = _as_recipe(made, model) if made is not None and fits else dict(_HANDED_OVER)
        normalised = made.info if made is not None and fits else None
        by = dataset.info if normalised is None else normalised
        self._info = replace(dataset.info, mean=by.mean, std=by.std)
        self._objective, self._settings, self._seed = objective, settings, seed

    @property
    def is_wanted(self) -> bool:
        """Whether the folder holds none of a recipe's training, which would say more."""
        run = self._run
        return not run.recipe.exists() or run.read_json(run.model_spec).get("made_by") == IN_PYTHON

    def write_model(self) -> None:
        """Writes what makes the model anew, or else its graph; logs where there is neither."""
        run, kept = self._run, None
        if self._made["name"] is None:
            kept = self._with_graph()
        write_model(run, self._info, self._made, self._model, kept=kept, made_by=IN_PYTHON)

    def write_recipe(self) -> None:
        """Writes the training as a recipe, as far as one can spell it."""
        info = self._dataset.info
        name = self._run.path.resolve().name.strip()
        subject = self._made["name"] or type(self._model).__name__
        training, unspelled = _training(self._settings)
        parts: dict[str, Any] = {}
        try:
            parts["objective"] = spelled(self._objective)
        except UnspelledError:
            unspelled = ["objective", *unspelled]
        content = {
            "name": name if name and "\\" not in name else "unnamed",
            # On one line: the parser takes lines of a text for YAML.
            "title": " ".join(f"{short_name(subject)} on {info.name}, {_words(self._objective)}".split()),
            "seed": self._seed,
            "data": dict(self._dataset.source or {"name": None}),
            "model": self._made,
            **parts,
            "training": training,
            "unspelled": unspelled,
        }
        write_signed(self._run.recipe, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))

    def _with_graph(self) -> dict[str, Any]:
        run = self._run
        try:
            content = graph_bytes(self._model, self._dataset.info.shape)
        except ModelError as error:
            why = f"{str(error).partition('. ')[0].removesuffix('.')}."
            _logger.warning(
                "%s will hold the weights alone, without how to build the network: %s Commands on it need "
                "--model.name=file.py:function, a function that makes it; ws.evaluate(model, dataset, out=…) "
                "needs nothing.",
                run.path,
                why,
            )
            return {"what": "nothing", "why": why}
        with replaced(run.graph) as temporary:
            temporary.write_bytes(content)
        return {"what": "graph", "files": {run.graph.name: digest(content)}}


_HANDED_OVER: Mapping[str, Any] = {
    "name": None,
    "normalize": False,
    "options": {},
    "parametrize": None,
    "bayes": None,
}


def _as_recipe(made: Made, model: nn.Module) -> dict[str, Any]:
    bayes = made.bayes and {
        "posterior": _plain(asdict(made.bayes["posterior"])),
        "layers": {
            path: None if posterior is None else _plain(asdict(posterior))
            for path, posterior in made.bayes["layers"].items()
        },
        "means": None,
    }
    # Networks that others keep have a normalisation of their own, also where nothing is known of the data.
    normalizes = hasattr(unwrapped(model), "normalize") if is_hosted(made.name) else made.info is not None
    keys = {"name": made.name, "normalize": normalizes, "options": _plain(made.options)}
    return {**keys, "parametrize": made.parametrize, "bayes": bayes}


def _plain(value: Any) -> Any:
    """With lists for tuples, as YAML has them."""
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value


def _is_plain(made: Made) -> bool:
    """Whether a recipe can hold the options."""
    try:
        yaml.safe_dump(_plain(made.options))
    except yaml.YAMLError:
        return False
    return True


def _task(made: Made) -> tuple[int, ...]:
    return (*made.input_shape, made.num_classes)


def _training(settings: TrainingSettings) -> tuple[dict[str, Any], list[str]]:
    """The settings that are no default, and the names of those that a recipe cannot spell."""
    plain: dict[str, Any] = {"epochs": settings.epochs}
    unspelled, default = [], TrainingSettings()
    for name in (part.name for part in fields(settings)):
        value = getattr(settings, name)
        if value == getattr(default, name):
            continue
        try:
            plain[name] = spelled(value)
        except UnspelledError:
            unspelled.append(f"training.{name}")
    return plain, unspelled


def short_name(name: str) -> str:
    """A model's name without the folder of its file: ``net.py:make`` for ``/path/to/net.py:make``."""
    place, colon, function = name.rpartition(":")
    return f"{Path(place).name}:{function}" if colon and place.endswith(".py") else name


def _words(objective: Objective) -> str:
    """What is minimised, in a line: ``Adversarial + 0.01 × InputGradient``."""
    if isinstance(objective, Sum):
        return " + ".join(_words(term) for term in objective.terms if isinstance(term, Objective))
    if isinstance(objective, Weighted):
        weight = f"{objective.weight:g} × " if isinstance(objective.weight, int | float) else ""
        return f"{weight}{_words(objective.term)}"
    return type(objective).__name__
