"""Training a model into a run folder: the one call that users make."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from rich.console import Console
from torch import nn

from withstand.core.checks import memory_checked
from withstand.core.contract import require_module
from withstand.core.environment import add_cost, environment, peak_memory_bytes
from withstand.core.numerics import numerics
from withstand.core.processes import from_first, is_first, own_folder
from withstand.core.run_folder import RunFolder
from withstand.core.setting_rules import SEED, flag
from withstand.data import Dataset, as_dataset
from withstand.data.content import digest
from withstand.loss.terms import Objective
from withstand.models.weight_files import read_weights
from withstand.objectives import CrossEntropy
from withstand.training.checkpoint import TrainingResult
from withstand.training.loop import Training
from withstand.training.messages import cut_schedules, late_average, no_epochs, warnings_of
from withstand.training.observers import CsvLog, Observer, ProgressBar, TensorBoardLog
from withstand.training.run_record import FitRecord
from withstand.training.settings import TrainingSettings
from withstand.training.setup import launched, make_fabric, require_kinds
from withstand.types import RecipeError

_logger = logging.getLogger(__name__)


def fit(
    model: nn.Module,
    dataset: Any,
    objective: Objective | None = None,
    settings: TrainingSettings | None = None,
    *,
    out: Path | str | None = None,
    seed: int = 0,
    observers: Sequence[Observer] = (),
    progress: bool = True,
) -> TrainingResult:
    """Trains a model, and makes a run folder of it that every command and ``ws.load`` read.

    The model ends with its last weights, averaged where the settings say so. Those that did best on
    validation data are in the result, and in the folder (``model.safetensors``; the last in
    ``last.safetensors``). With an ``out`` that was begun already training goes on where it was stopped. What
    makes the result doubtful, such as a collapse (``training.collapse``), is logged as a warning.

    The folder knows how to make the model again: by name and options where ``models.create`` made it, with a
    copy of its file and of what that imports beside it where it is of a file, or of its settings where it is
    of transformers; of any other by its graph (``model.pt2``), in which Dropout and BatchNorm are in eval
    mode. It knows data by name; of data from arrays commands ask for ``--data.name``.

    Args:
        model: Maps images in [0, 1] to logits (batch, classes).
        dataset: A ``data.Dataset``, or what ``data.as_dataset`` makes one of: its training split trains, its
            validation split chooses; the test split is not read. Of data in one part a fifth is set aside.
        objective: What to minimise; plain cross-entropy where None.
        settings: How to; ``TrainingSettings()``, which is 10 epochs of Adam, where None.
        out: The run folder; ``train.csv``, weights and checkpoints go there. Where None all that is in a
            temporary folder, of which nothing stays: there is no going on, and nothing for other commands.
        seed: Fixes everything random.
        observers: Who else follows its progress.
        progress: Show a bar and a line an epoch, where output is a terminal or a notebook.

    Returns:
        The log, its summary, and the best weights.

    Raises:
        TypeError: an argument is of another kind.
        ModelError: the model does not fit the data.
        DataError: the training images make no whole batch, or what goes by validation scores has none.
        OutOfMemoryError: the device's memory does not hold a step.
        NonFiniteLossError: the loss became NaN or infinite; the last good checkpoint stays.
        CheckpointError: the folder holds a damaged checkpoint, or one of another run.
        RecipeError: TensorBoard is to log, and there is no ``out`` to log into.
        RunFolderError: the folder cannot be written, another process holds it, or it holds a network that
            was not trained there, or measurements of one.
        ProcessError: of several processes another one ended, or cannot be reached.
    """
    require_module(model)
    dataset = as_dataset(dataset)
    objective = CrossEntropy() if objective is None else objective
    settings = TrainingSettings() if settings is None else settings
    require_kinds(objective, settings)
    seed, watchers = SEED("seed", seed), [*observers]
    if flag("progress", progress) and not any(isinstance(watcher, ProgressBar) for watcher in watchers):
        console = Console()
        watchers += [ProgressBar(console)] if console.is_terminal or console.is_jupyter else []
    if out is None and settings.tensorboard:
        raise RecipeError("TensorBoard logs into the run folder: give one by out=, such as out='runs/mine'.")
    with launched(settings):
        if out is not None:
            with own_folder(RunFolder.at(out)) as run:
                run.require_no_other_network()
                result = _fit_into(run, model, dataset, objective, settings, seed, watchers)
            return replace(result, folder=RunFolder.at(out).path)
        with TemporaryDirectory(prefix="withstand-") as folder:
            run = RunFolder(Path(folder))
            result = train(model, dataset, objective, settings, run=run, seed=seed, observers=watchers)
            return replace(result, folder=None)


def _fit_into(
    run: RunFolder,
    model: nn.Module,
    dataset: Dataset,
    objective: Objective,
    settings: TrainingSettings,
    seed: int,
    watchers: Sequence[Observer],
) -> TrainingResult:
    with run.starting("training"):
        record, is_begun = FitRecord(run, model, dataset, objective, settings, seed), run.is_begun()
        if record.is_wanted and not is_begun:
            _note_surroundings(run, dataset, settings, seed)
            record.write_model()
            record.write_recipe()
        result = train(model, dataset, objective, settings, run=run, seed=seed, observers=watchers)
        if record.is_wanted and is_begun:  # which the checkpoint has found to be the same, but for its length
            if not run.model_spec.exists():  # of an older version
                _note_surroundings(run, dataset, settings, seed)
                record.write_model()
            record.write_recipe()
        device = next(model.parameters(), torch.empty(0)).device
        memory = peak_memory_bytes(device)
        add_cost(run, train_seconds=result.seconds, train_steps=result.steps, peak_memory_bytes=memory)
    return result


def _note_surroundings(run: RunFolder, dataset: Dataset, settings: TrainingSettings, seed: int) -> None:
    device = make_fabric(settings).device
    about = environment(seed=seed, command=None, data_fingerprint=dataset.fingerprint, device=device)
    run.write_json(run.environment, {**about, "test_data": digest(dataset.test)})


def train(
    model: nn.Module,
    dataset: Dataset,
    objective: Objective,
    settings: TrainingSettings,
    *,
    run: RunFolder,
    seed: int,
    observers: Sequence[Observer] = (),
) -> TrainingResult:
    """Trains a model into a folder that says already what is trained there (see ``fit``)."""
    with ExitStack() as stack:
        stack.enter_context(run.starting("training"))
        observers = observers if is_first() else ()
        watchers: list[Observer] = [CsvLog(run.train_log), *observers]
        if settings.tensorboard:
            watchers.append(TensorBoardLog(run.path / "tensorboard"))
        stack.enter_context(torch.inference_mode(mode=False))  # as Lightning has it in its tests
        stack.enter_context(torch.enable_grad())
        for watcher in watchers:
            stack.enter_context(watcher)
        late = [*cut_schedules(objective, settings.epochs), *late_average(settings)]
        for text in no_epochs(settings) or late:
            _logger.warning(text)
        stack.enter_context(numerics(settings.precision))
        stack.enter_context(memory_checked(f"take batches smaller than {settings.batch_size} images."))
        result = Training(model, dataset, objective, settings, out=run, seed=seed, observers=watchers).run()
    for text in warnings_of(model, dataset, result):
        _logger.warning(text)
    if result.rows:  # a process killed just before its last row was written left it in the checkpoint
        CsvLog(run.train_log).on_epoch(result.rows)
    # What the others saw of it began when they did.
    best_weights = from_first(read_weights(run.best_weights) if is_first() else {})
    return replace(result, best_weights=best_weights, folder=run.path)
