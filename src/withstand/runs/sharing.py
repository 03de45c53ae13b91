"""Models for others: loaded from a run folder, the zoo or the Hugging Face Hub, pushed to it and pulled."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from withstand import models
from withstand.core.dataset_info import DatasetInfo
from withstand.core.run_folder import RUN_FILES, RunFolder
from withstand.core.suggest import nearest
from withstand.core.zoo import HOME, is_run, run_path, zoo_nets
from withstand.models.hosted import is_onnx
from withstand.reporting.card import model_card
from withstand.runs.loading import load_run
from withstand.types import ModelCard, ModelError, RunFolderError

_HUB = "hub:"
_CARD = "README.md"
# What a training goes on from, what it was measured on batch by batch, and images of the user's data.
_PRIVATE = {"checkpoint", "evaluation", "examples.csv", "gallery.npz", "extremes.npz"}
_SHARED = [name for name in RUN_FILES if name not in _PRIVATE]


def load(
    source: str | Path,
    *,
    weights: str | Path | None = None,
    dataset: str | DatasetInfo | None = None,
    revision: str | None = None,
) -> nn.Module:
    """A trained model, ready to predict: in eval mode, from images in [0, 1] to logits (batch, classes).

    Its normalisation is inside. A model of a run or of the zoo has its card, Markdown, as ``model.card``.
    Code that a run folder or repository brings along runs only as ``ws.trusting()`` and the rules of recipes
    allow.

    Args:
        source: A run folder, or the name of one below ``runs/``; a net of the zoo, by a name that
            ``withstand zoo`` lists, checked to be as it was packaged; ``hub:OWNER/NAME``, a repository of the
            Hugging Face Hub that ``push`` made or that holds an image classifier of ``transformers``; an ONNX
            file, ``net.onnx``; with ``weights`` any name that ``ws.models.create`` takes.
        weights: A file of weights, for a model that is named.
        dataset: What it was trained on, for a model that is named: a known data set, or its facts. An ONNX
            file says itself what it takes, but data may have another shape: (1, 28, 28) for (784,).
        revision: Branch, tag or commit of a repository; its main branch where None.

    Raises:
        ModelError: there is no such model, its weights do not fit, or what it needs is not installed.
        RunFolderError: the folder holds no model, is damaged, or brings code that is not trusted.
    """
    name = str(source)
    if weights is not None and name in zoo_nets():
        raise ModelError(f"{name} is a net of the zoo, with weights of its own: leave weights out.")
    if is_onnx(name) and weights is None and not Path(name).is_dir():
        return models.create(name, dataset=dataset).eval()
    if weights is not None:
        return _named(name, weights, dataset)
    if name.startswith(_HUB):
        folder = _repository(name, revision)
        if not RunFolder(folder).model_spec.exists():
            return models.create(name, dataset=dataset).eval()
        return _with_card(folder, name)
    run = run_folder(name)
    if run is None:
        raise ModelError(
            f"There is no run folder {name}, nor runs/{name}, nor is it in the zoo; "
            f"{nearest(name, zoo_nets())} Give one of these, the folder of a run, hub:OWNER/NAME, a "
            "file net.onnx, or the name of a model with its weights: ws.load(NAME, weights=FILE, "
            "dataset=DATA)."
        )
    if dataset is not None:
        raise ModelError(f"{run} knows what it was trained on: leave dataset out.")
    return _with_card(run, name if run.parent == HOME else str(run))


def push(run: str | Path, to: str | Path, *, private: bool | None = None) -> str:
    """Shares a run: its weights, recipe and figures, with a model card written from its measurements.

    Its data are not shared, nor images of them (``gallery.npz``, ``report.html``), rows of single examples,
    and what a training goes on from. The recipe and the commands are, with the paths that they name.

    Args:
        run: The run folder.
        to: ``hub:OWNER/NAME``, a repository that is made where there is none; or a folder, made likewise.
        private: Whether a repository that is made is private; as the account has it where None.

    Returns:
        Where it is: an address of the Hub, or the folder.

    Raises:
        RunFolderError: the run has no weights, is damaged, or cannot be written to the folder.
        ModelError: the Hub cannot be reached, refuses, or its library is not installed.
    """
    folder = RunFolder.at(run)
    if not (folder.best_weights.exists() or folder.last_weights.exists()):
        raise RunFolderError(f"{folder.path} holds no weights to share. Train first, or name a run folder.")
    folder.require(folder.model_spec, "withstand train RECIPE, or ws.fit(…, out=…)")
    card = model_card(folder.path, source=str(to))
    name = str(to)
    if not name.startswith(_HUB) or _is_local(name):
        return str(_copy(folder.path, Path(name.removeprefix(_HUB)), card))
    api = _hub().HfApi(library_name="withstand")
    repository = name.removeprefix(_HUB)
    with _reaching(name):
        api.create_repo(repository, private=private, exist_ok=True)
        api.upload_file(path_or_fileobj=card.encode(), path_in_repo=_CARD, repo_id=repository)
        commit = api.upload_folder(repo_id=repository, folder_path=folder.path, allow_patterns=_patterns())
    return str(commit.repo_url)


def pull(source: str, out: str | Path, *, revision: str | None = None) -> Path:
    """Makes a run folder of a shared run, which every command then takes: evaluate, certify, attack, report.

    Args:
        source: ``hub:OWNER/NAME``, or a folder that ``push`` made.
        out: The run folder to make.
        revision: Branch, tag or commit; the main branch where None.

    Returns:
        The run folder.

    Raises:
        RunFolderError: the source holds no run of this package, or ``out`` exists.
        ModelError: the Hub cannot be reached, or its library is not installed.
    """
    folder = _repository(source, revision) if source.startswith(_HUB) else Path(source)
    if not RunFolder(folder).model_spec.exists():
        raise RunFolderError(
            f"{source} holds no run of withstand: it has no {RunFolder(folder).model_spec.name}."
        )
    return _copy(folder, Path(out), None)


def _named(name: str, weights: str | Path, dataset: str | DatasetInfo | None) -> nn.Module:
    model = models.create(name, dataset=dataset)
    models.load_weights(model, weights)
    return model.eval()


def run_folder(name: str) -> Path | None:
    """The folder of a run: by its path, its name below ``runs/`` or in the zoo; None where there is none.

    Raises:
        RunFolderError: the files of a net of the zoo are damaged.
    """
    places = [folder for folder in (Path(name), Path("runs") / name) if folder.is_dir()]
    runs = [folder for folder in places if is_run(folder)]
    if runs or name not in zoo_nets():
        return next(iter([*runs, *places]), None)  # of a folder without a run it is said what it lacks
    return run_path(name)


def _with_card(folder: Path, source: str) -> nn.Module:
    model = load_run(folder)
    run = RunFolder(folder)
    is_known = run.metrics.exists() or run.train_log.exists()  # else adopted, and not measured yet
    unknown = ModelCard(f"Nothing was measured of this model yet: `withstand evaluate {folder}`.\n")
    card = model_card(folder, source=source) if is_known else unknown
    model.card = card  # type: ignore[assignment]  # an attribute, no layer
    return model


def _copy(source: Path, to: Path, card: str | None) -> Path:
    """Copies what is shared of a run into a folder, which becomes a run folder."""
    folder = RunFolder.at(to)
    if folder.path.exists() and any(folder.path.iterdir()):
        raise RunFolderError(f"{folder.path} exists and is not empty. Choose another folder, or delete it.")
    folder.create()
    for name in _SHARED:
        if (source / name).is_dir():
            shutil.copytree(source / name, folder.path / name)
        elif (source / name).exists():
            shutil.copyfile(source / name, folder.path / name)
    if card is not None:
        (folder.path / _CARD).write_text(card, encoding="utf-8")
    return folder.path


# -- the Hub ----------------------------------------------------------------------------------------


def _is_local(name: str) -> bool:
    """Whether ``hub:PATH`` names a folder; ``OWNER/NAME`` of the Hub begins with no dot, slash or tilde."""
    return name.removeprefix(_HUB).startswith((".", "/", "~"))


def _repository(name: str, revision: str | None) -> Path:
    """The folder of a repository, downloaded where it is not here yet."""
    place = name.removeprefix(_HUB)
    if _is_local(name):
        folder = Path(place).expanduser()
        if not folder.is_dir():
            raise ModelError(f"There is no folder {folder}.")
        return folder
    hub = _hub()
    with _reaching(name):
        return Path(hub.snapshot_download(place, revision=revision, library_name="withstand"))


@contextmanager
def _reaching(name: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # theirs, and those of the network below them, have no common class
        said = " ".join(str(error).split()).rstrip(".")
        raise ModelError(
            f"{name} cannot be reached on the Hugging Face Hub: {said}. Check the name, the network, and "
            "that you are logged in (`hf auth login`) where it is private; a folder of yours is hub:./PATH."
        ) from error


def _patterns() -> list[str]:
    return [pattern for name in _SHARED for pattern in (name, f"{name}/*")]


def _hub() -> Any:
    try:
        import huggingface_hub  # here, since it is an extra
    except ImportError as error:
        raise ModelError("The Hub needs its library: pip install 'withstand[hub]'.") from error
    return huggingface_hub
