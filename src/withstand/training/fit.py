"""Training a model into a run folder: the one call that users make."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import nn

from withstand.core.checks import memory_checked
from withstand.core.contract import require_module
from withstand.core.numerics import numerics
from withstand.core.run_folder import RunFolder
from withstand.core.setting_rules import SEED
from withstand.data import as_dataset
from withstand.loss.terms import Objective
from withstand.training.checkpoint import TrainingResult
from withstand.training.loop import Training
from withstand.training.messages import cut_schedules, warnings_of
from withstand.training.observers import CsvLog, Observer, TensorBoardLog
from withstand.training.settings import TrainingSettings
from withstand.training.setup import require_kinds

_logger = logging.getLogger(__name__)


def fit(
    model: nn.Module,
    dataset: Any,
    objective: Objective,
    settings: TrainingSettings,
    *,
    out: Path | str,
    seed: int = 0,
    observers: Sequence[Observer] = (),
) -> TrainingResult:
    """Trains a model into a run folder, or goes on where a former process was stopped.

    What makes the result doubtful, such as a collapse (``training.collapse``), is logged as a warning.

    The model ends with its last weights; the folder holds those (``last.safetensors``) and the
    ones that did best on validation data (``model.safetensors``).

    Args:
        model: Maps images in [0, 1] to logits (batch, classes).
        dataset: A ``data.Dataset``, or what ``data.as_dataset`` makes one of: its training split trains, its
            validation split chooses; the test split is not read. Of data in one part a fifth is set aside.
        objective: What to minimise.
        settings: How to.
        out: The run folder; ``train.csv``, weights and checkpoints go there.
        seed: Fixes everything random.
        observers: Who else follows its progress.

    Returns:
        The log and its summary.

    Raises:
        TypeError: an argument is of another kind.
        ModelError: the model does not fit the data.
        DataError: the training images make no whole batch, or what goes by validation scores has none.
        OutOfMemoryError: the device's memory does not hold a step.
        NonFiniteLossError: the loss became NaN or infinite; the last good checkpoint stays.
        CheckpointError: the folder holds a damaged checkpoint, or one of another run.
        RunFolderError: the folder cannot be written, another process holds it, or it holds a network that
            was not trained there, or measurements of one.
    """
    require_module(model)
    dataset = as_dataset(dataset)
    require_kinds(objective, settings)
    seed = SEED("seed", seed)
    run = RunFolder.at(out)
    run.require_no_other_network()
    with ExitStack() as stack:
        stack.enter_context(run.starting("training"))
        watchers: list[Observer] = [CsvLog(run.train_log), *observers]
        if settings.tensorboard:
            watchers.append(TensorBoardLog(run.path / "tensorboard"))
        stack.enter_context(torch.inference_mode(mode=False))  # as Lightning has it in its tests
        stack.enter_context(torch.enable_grad())
        for watcher in watchers:
            stack.enter_context(watcher)
        for text in cut_schedules(objective, settings.epochs):
            _logger.warning(text)
        stack.enter_context(numerics(settings.precision))
        stack.enter_context(memory_checked(f"take batches smaller than {settings.batch_size} images."))
        result = Training(model, dataset, objective, settings, out=run, seed=seed, observers=watchers).run()
    for text in warnings_of(model, dataset, result):
        _logger.warning(text)
    if result.rows:  # a process killed just before its last row was written left it in the checkpoint
        CsvLog(run.train_log).on_epoch(result.rows)
    return result
