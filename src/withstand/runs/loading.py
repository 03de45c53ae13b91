"""The network of a run folder: by its name, by the source that the folder keeps, or by its graph."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from torch import nn

from withstand import data, models
from withstand.core import trust
from withstand.core.dataset_info import DatasetInfo
from withstand.core.run_folder import RunFolder
from withstand.data import Dataset
from withstand.data.load import takes_size
from withstand.graph.kept_graph import graph_module
from withstand.models.hub import HubFactory
from withstand.models.kept_source import KeptSource
from withstand.models.onnx import OnnxFactory
from withstand.models.registry import Factory, load_factory
from withstand.models.weight_files import read_weights
from withstand.recipes.schema import Recipe
from withstand.runs.early_stopping import rows_of
from withstand.runs.run_parts import build_model, data_name, load_data, open_run, require_same_network
from withstand.training.checkpoint import early_best
from withstand.training.run_record import digest
from withstand.types import DataError, ModelError, RecipeError, RunFolderError

_logger = logging.getLogger(__name__)


def load_run(folder: Path | str) -> nn.Module:
    """The trained network of a run folder, on the CPU and in eval mode.

    Args:
        folder: Of any training or adopted network; neither its data nor its model's file need be there.

    Returns:
        Maps images (batch, …) in [0, 1] to logits (batch, classes), with the weights that did best on
        validation data, or the last where the recipe says so.

    Raises:
        RunFolderError: there is no trained run, or what it holds was changed or is not trusted.
        ModelError: the network cannot be made, or the weights do not fit.
    """
    run, parsed = open_run(Path(folder))
    return load_run_model(run, parsed.recipe).eval()


def info_of(run: RunFolder, recipe: Recipe) -> DatasetInfo:
    """What was known of the data of a run, without looking for them.

    Raises:
        DataError: the run is of an older version, and its data are not found by name.
    """
    stored = run.read_json(run.model_spec).get("info")
    if stored is None:
        return data.info(data_name(recipe), root=recipe.data.root, size=recipe.data.size)
    known = {part.name for part in fields(DatasetInfo)}
    with _of_a_whole_record(run):
        return DatasetInfo(**{key: _tuples(value) for key, value in stored.items() if key in known})


def data_or_info(recipe: Recipe, run: RunFolder | None = None) -> Dataset | DatasetInfo:
    """The data of a recipe, or what is known of them where their files are not here, which is logged.

    Args:
        recipe: Which names them.
        run: The folder that notes what is known of them, where there is one.

    Raises:
        DataError: nothing is known of them.
    """
    try:
        return load_data(recipe)
    except DataError as error:
        root, size = recipe.data.root, recipe.data.size
        info = data.info(data_name(recipe), root=root, size=size) if run is None else info_of(run, recipe)
        _logger.warning("Random pixels are taken instead of the data. %s", error)
        return info


@contextmanager
def _of_a_whole_record(run: RunFolder) -> Iterator[None]:
    """Says which file is damaged where what it holds is of another kind."""
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise RunFolderError(
            f"{run.model_spec} is damaged ({type(error).__name__}: {error}). Restore it as it was written, "
            "or train again into another folder."
        ) from error


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def load_run_model(run: RunFolder, recipe: Recipe) -> nn.Module:
    """The trained model of a run, on the CPU.

    Args:
        run: Its folder.
        recipe: Its recipe, which may name another factory for a network that was handed over in Python.

    Raises:
        RunFolderError: it is not trained to its end, or what it keeps of the model was changed or is not
            trusted.
        ModelError: it cannot be made, or its weights do not fit.
    """
    weights = weights_file(run, recipe)
    model = run_model(run, recipe)
    if recipe.model.name is None:  # a graph, which may have dropped what it does not use
        state, own = read_weights(weights), model.state_dict()
        model.load_state_dict({name: state.get(name, value) for name, value in own.items()})
    else:
        models.load_weights(model, weights)
    return model


def weights_file(run: RunFolder, recipe: Recipe) -> Path:
    """The file of the weights that a recipe measures: the best on validation data, or the last.

    Raises:
        RunFolderError: the run is not trained to its end.
    """
    remedy = f"withstand train {run.recipe} --out={run.path}"
    if recipe.evaluation.weights == "best" and run.is_trained():
        with suppress(TypeError, ValueError, RunFolderError):  # of a damaged log, which needs no weights
            if run.train_log.exists() and (early := early_best(rows_of(run))):
                _logger.warning(
                    "%s The weights of the last epoch are measured with --evaluation.weights=last; a "
                    "training with training.selection, an attack, chooses its best epoch under that.",
                    early,
                )
        return run.require(run.best_weights, remedy)
    return run.require(run.last_weights, remedy)  # written when training has come to its end


def run_model(run: RunFolder, recipe: Recipe) -> nn.Module:
    """The network of a run as it was when its training began, but for its weights.

    Raises:
        RunFolderError: what the folder keeps of it was changed, or is not trusted.
        ModelError: it cannot be made, or is another.
    """
    if recipe.model.name is None:
        kept = _kept(run)
        if kept["what"] != "graph":
            raise ModelError(
                f"The network of {run.path} was handed over in Python, and how to make it could not be kept: "
                f"{kept.get('why', 'its record is gone.')} Name a function that makes it: "
                "--model.name=file.py:function; or measure it by ws.evaluate(model, dataset, out=…)."
            )
        (content,) = _trusted_files(run, kept, "the graph in model.pt2").values()
        return graph_module(content)
    model = build_model(recipe, info_of(run, recipe), measured_factory(run, recipe))
    require_same_network(run, model)
    return model


# -- a model's own file -----------------------------------------------------------------------------


def measured_factory(run: RunFolder, recipe: Recipe) -> Factory | None:
    """What makes the network that was trained, by what the folder keeps of it; None where it has no such.

    That the file is another by now is logged.

    Raises:
        RunFolderError: the copy was changed, or is not trusted.
        ModelError: it does not load.
    """
    kept = _kept_source(run, recipe)
    if kept is None:
        return _by_copy(run, recipe)
    now = Path(kept["file"])
    if not trust.is_trusted(run.model_spec) and recipe.model.name in trust.typed_names() and now.is_file():
        return None  # the person's own, which they typed
    source = _source(run, kept)
    if now.is_file() and any(_differs(now.parent / file, content) for file, content in source.files.items()):
        _logger.warning(
            "%s is not as it was when %s was trained; its copy in %s is measured.", now, run.path, run.source
        )
    return source.factory(kept["function"])


def training_factory(run: RunFolder, recipe: Recipe) -> Factory | None:
    """What makes the network that a training goes on with: the file where it is, else the folder's copy.

    None where the file is where the recipe says, or the folder has no copy.

    Raises:
        RunFolderError: the copy was changed, or is not trusted.
        ModelError: it does not load.
    """
    kept = _kept_source(run, recipe)
    if kept is None or _file_of(recipe).is_file():
        return None
    if Path(kept["file"]).is_file():
        return load_factory(f"{kept['file']}:{kept['function']}")
    _logger.warning("%s is gone; training goes on with its copy in %s.", kept["file"], run.source)
    return _source(run, kept).factory(kept["function"])


def _by_copy(run: RunFolder, recipe: Recipe) -> Factory | None:
    """Of settings of transformers, or an ONNX file, which need no trust, since no code is in them."""
    kept = _kept_of(run, recipe, "settings") or _kept_of(run, recipe, "onnx")
    if kept is None:
        return None
    _unchanged_files(run, kept)
    name, info, normalize = str(recipe.model.name), info_of(run, recipe), recipe.model.normalize
    if kept["what"] == "settings":
        return HubFactory(name, info, normalize, run.source)
    return OnnxFactory(Path(name).name, info, normalize, file=run.path / next(iter(kept["files"])))


def _kept_source(run: RunFolder, recipe: Recipe) -> dict[str, Any] | None:
    return _kept_of(run, recipe, "source")


def _kept_of(run: RunFolder, recipe: Recipe, what: str) -> dict[str, Any] | None:
    """What the folder says of its copy, where the model is still the one that it was made of."""
    kept = _kept(run)
    is_of_it = kept["what"] == what and run.read_json(run.model_spec).get("name") == recipe.model.name
    return kept if is_of_it else None


def _kept(run: RunFolder) -> dict[str, Any]:
    """What the folder says that it keeps of the network: ``what`` and ``files``, and more of each kind.

    Raises:
        RunFolderError: the record is damaged.
    """
    with _of_a_whole_record(run):
        kept = {"what": "nothing", "files": {}, **(run.read_json(run.model_spec).get("kept") or {})}
        needed = ("file", "function") if kept["what"] == "source" else ()
        if not all(isinstance(kept[key], str) for key in ("what", *needed)):
            raise TypeError("kept")
        kept["files"] = {str(name): str(expected) for name, expected in kept["files"].items()}
    return kept


def _file_of(recipe: Recipe) -> Path:
    return Path(str(recipe.model.name).rpartition(":")[0]).expanduser()


def _source(run: RunFolder, kept: dict[str, Any]) -> KeptSource:
    contents = _trusted_files(run, kept, f"the model's file in {run.source}")
    files = {name.partition("/")[2]: content for name, content in contents.items()}
    return KeptSource(run.source.resolve(), next(iter(files)), files)


def _differs(file: Path, content: bytes) -> bool:
    return not file.is_file() or file.read_bytes() != content


def _trusted_files(run: RunFolder, kept: dict[str, Any], what: str) -> dict[str, bytes]:
    """The content of files that the folder keeps, each as it was written, by someone who is trusted.

    Raises:
        RunFolderError: one was changed or is gone, or who wrote the folder is not trusted.
    """
    if not trust.is_trusted(run.model_spec):
        raise RunFolderError(trust.refusal(run.model_spec, what))
    return _unchanged_files(run, kept)


def _unchanged_files(run: RunFolder, kept: dict[str, Any]) -> dict[str, bytes]:
    contents = {}
    for name, expected in kept["files"].items():
        file = run.path / name
        contents[name] = file.read_bytes() if file.is_file() and ".." not in Path(name).parts else b""
        if digest(contents[name]) != expected:
            raise RunFolderError(
                f"{file} is gone, or not as it was when training began, so it is not run. Restore it, or "
                "name a function that makes the network: --model.name=file.py:function."
            )
    return contents


@dataclass(frozen=True)
class RecipeSources:
    """Where the names that meters have of other things lead: data below the recipe's root, and run folders.

    Args:
        recipe: Of the run that is evaluated.
    """

    recipe: Recipe

    def dataset(self, name: str) -> Dataset:
        """The data set of a name; pictures of a folder in the size of the recipe's.

        Raises:
            DataError: it is unknown, missing or damaged.
        """
        size = self.recipe.data.size if takes_size(name) else None
        return data.load(name, root=self.recipe.data.root, size=size)

    def model(self, folder: str) -> nn.Module:
        """The trained model of another run.

        Raises:
            RunFolderError: it is no trained run.
            RecipeError: it is of images of another shape, or of another number of classes.
        """
        run, parsed = open_run(Path(folder))
        spec, info = run.read_json(run.model_spec), self.info
        fits = (info.num_classes, list(info.shape))
        if spec and (spec["num_classes"], spec["input_shape"]) != fits:
            raise RecipeError(
                f"Attacks cannot be transferred from {folder}: its model takes images of shape "
                f"{spec['input_shape']} to {spec['num_classes']} classes, but those here are of shape "
                f"{fits[1]} and {fits[0]} classes."
            )
        return load_run_model(run, parsed.recipe)

    @property
    def info(self) -> DatasetInfo:
        """Of the recipe's data, without reading them."""
        settings = self.recipe.data
        return data.info(data_name(self.recipe), root=settings.root, size=settings.size)
