"""What a training is made of: its optimiser, and the words by which a resumed one is recognised."""

from __future__ import annotations

import logging
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from withstand import bayes
from withstand.core.companions import FIRST_PROCESS, started, was_started, working_together
from withstand.core.numerics import Precision
from withstand.core.processes import exchanging, from_all, from_first, is_first, num_processes
from withstand.core.setting_rules import instance_of
from withstand.data import Augment, Dataset
from withstand.loss.terms import Objective, an_objective
from withstand.training.settings import TrainingSettings
from withstand.training.whole_weights import Weights
from withstand.types import DataError, ModelError, RecipeError

if TYPE_CHECKING:
    from lightning_fabric import Fabric

_logger = logging.getLogger(__name__)
_PRECISION: dict[Precision, Literal["32-true", "bf16-mixed", "16-mixed"]] = {
    "fp32": "32-true",
    "tf32": "32-true",
    "bf16": "bf16-mixed",
    "fp16": "16-mixed",
}
_launched: list[tuple[Fabric, Precision]] = []  # what started the processes of this job, at most one


def describe_run(
    model: nn.Module,
    dataset: Dataset,
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    settings: TrainingSettings,
) -> dict[str, str]:
    """What must be the same for a checkpoint to be gone on with, in words for an error."""
    # Only where they are set, so that a run begun before these settings were there can be gone on with.
    optional = {
        "constraints": _words(*settings.constraints),
        "random weights": _posteriors(model),
        "average of weights": str(settings.average or ""),
        "plateau": str(settings.plateau or ""),
        "early stopping": str(settings.early_stopping or ""),
        "validation every": f"{settings.validation_every} epochs" if settings.validation_every > 1 else "",
        "micro-batches": str(settings.micro_batches) if settings.micro_batches > 1 else "",
        "synchronised BatchNorm": "yes" if settings.sync_batch_norm else "",
    }
    words = {name: text for name, text in optional.items() if text} | {
        "batch size": str(settings.batch_size),
        "training data": dataset.fingerprint[:16],
        "objective": _words(objective),
        "optimizer": f"{type(optimizer).__name__} {optimizer.defaults}",
        "learning rate factor": str(settings.lr_factor),
        "augmentation": str(settings.augment),
    }
    # Where in memory an object without words of its own lies is another place each time.
    return {name: re.sub(r" at 0x[0-9a-fA-F]+", "", text) for name, text in words.items()}


def require_kinds(objective: object, settings: object) -> None:
    """Accepts what training is told to minimise, and how.

    Raises:
        TypeError: one is of another kind.
    """
    an_objective("objective", objective)
    instance_of(TrainingSettings, "TrainingSettings(epochs=10)")("settings", settings)


@contextmanager
def launched(settings: TrainingSettings) -> Iterator[None]:
    """Starts the other processes of a training, or joins those that ``torchrun`` or SLURM started.

    They run the same program from its start, and get here as well; all leave together. Where they are there
    already they share this training too, and where one is to train alone nothing happens.

    Raises:
        RecipeError: there are fewer devices than asked for, or other processes than the settings name.
        ProcessError: a process cannot be reached, or ended.
    """
    settings = _as_started(settings)
    if not _launched and settings.devices * settings.num_nodes == 1:
        yield
        return
    with working_together():
        if not _launched:
            fabric = make_fabric(settings)
            _require_others(fabric, settings)
            with _started_by_us(), exchanging():
                fabric.launch()
            _launched.append((fabric, settings.precision))
        with _warned_once():
            yield
        from_all(None)  # none ends while the first still writes


def _require_others(fabric: Fabric, settings: TrainingSettings) -> None:
    """Refuses machines of which nothing says where they meet, since they would be waited for for long."""
    from lightning_fabric.plugins.environments.lightning import (
        LightningEnvironment,  # here, as in make_fabric
    )

    meeting_place: Any = getattr(fabric.strategy, "cluster_environment", None)
    is_unknown = isinstance(meeting_place, LightningEnvironment) and "MASTER_ADDR" not in os.environ
    if settings.num_nodes > 1 and is_unknown:
        raise RecipeError(
            f"training.num_nodes={settings.num_nodes} needs the program started on each machine, by "
            f"torchrun --nnodes={settings.num_nodes} or SLURM. Leave it at 1 to train on this one alone."
        )


@contextmanager
def _warned_once() -> Iterator[None]:
    """All processes see what there is to warn of; the first alone says it."""
    logger = logging.getLogger("withstand")
    level = logger.level
    if not is_first():
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextmanager
def _started_by_us() -> Iterator[None]:
    """Lets processes that Fabric starts within know of this one, and watches them.

    Fabric's own watch ends the first process without a word, and leaves the others where the first is gone.
    """
    from lightning_fabric.strategies.launchers import subprocess_script  # here, as in make_fabric

    launcher: Any = subprocess_script
    if was_started():
        yield
        return
    watch_of_fabric, os.environ[FIRST_PROCESS] = launcher._launch_process_observer, str(os.getpid())
    launcher._launch_process_observer = started
    try:
        yield
    finally:
        launcher._launch_process_observer = watch_of_fabric
        del os.environ[FIRST_PROCESS]


def _as_started(settings: TrainingSettings) -> TrainingSettings:
    """The settings with the processes of ``torchrun``, where these are not named."""
    on_machine, in_all = (int(os.environ.get(name, 1)) for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"))
    if settings.devices * settings.num_nodes > 1 or in_all == 1 or "TORCHELASTIC_RUN_ID" not in os.environ:
        return settings
    return replace(settings, devices=on_machine, num_nodes=in_all // on_machine)


def make_fabric(settings: TrainingSettings) -> Fabric:
    """The devices and precision of the settings.

    Raises:
        RecipeError: there is no such device here, or it has no such precision.
    """
    if _launched:
        (fabric, precision), *_ = _launched
        if settings.precision != precision:
            raise RecipeError(
                f"The processes of this job were started for {precision}, and train in no other precision, "
                f"such as {settings.precision}. Start another job for that."
            )
        return fabric
    from lightning_fabric import Fabric  # here, since it takes as long to import as torch itself

    logging.getLogger("lightning_fabric").setLevel(logging.ERROR)  # which its import sets lower
    is_alone = settings.devices * settings.num_nodes == 1
    try:
        with warnings.catch_warnings():
            # It would take bf16 instead, where fp16 is not to be had.
            warnings.filterwarnings("error", "You passed `Fabric.*precision", UserWarning)
            return Fabric(
                accelerator=settings.accelerator,
                devices=settings.devices,
                num_nodes=settings.num_nodes,
                strategy="auto" if is_alone else "ddp",
                precision=_PRECISION[settings.precision],
            )
    except (
        UserWarning,
        ImportError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:  # what Fabric raises has no common class
        reason = " ".join(str(error).split()).partition(" Using `precision")[0]
        raise RecipeError(
            f"Cannot train on {settings.devices} of the accelerator {settings.accelerator!r} in "
            f"{settings.precision}: {reason} Leave accelerator at auto, or take cpu or cuda; of precisions "
            "fp32 or bf16."
        ) from error


def steps_per_epoch(settings: TrainingSettings, dataset: Dataset) -> int:
    """How many batches an epoch has.

    Raises:
        DataError: training is asked for and there is none, or validation scores and there are none, or the
            augmentation would crop whole images away.
    """
    if isinstance(settings.augment, Augment):
        settings.augment.require_fit(dataset.info.shape)
    whole, rest = divmod(len(dataset.train), settings.batch_size)
    steps = (whole + (1 if rest and not settings.drop_last else 0)) * settings.batch_repeats
    if settings.epochs and not steps:
        raise DataError(
            f"{len(dataset.train)} training images make no whole batch of {settings.batch_size}, and "
            "drop_last leaves out the rest. Take smaller batches."
        )
    needs_scores = {"plateau": settings.plateau, "early_stopping": settings.early_stopping}
    for name, value in needs_scores.items():
        if value is not None and not len(dataset.validation):
            raise DataError(
                f"training.{name} goes by validation scores, but there are no validation images. "
                "Set some aside by data.validation_size, or leave it out."
            )
    return steps


def _take_from_first(model: nn.Module) -> None:
    """Gives a model the weights that it has in the first process: each made its own, at random perhaps."""
    if num_processes() == 1:
        return
    own = [*model.parameters(), *model.buffers()]
    first = from_first([part.detach().cpu() for part in own] if is_first() else [])
    if [part.shape for part in own] != [part.shape for part in first]:
        raise ModelError("The processes of this training made networks of different shapes. Make them alike.")
    with torch.no_grad():
        for part, theirs in zip(own, first, strict=True):
            part.copy_(theirs)


def weights_of(model: nn.Module, settings: TrainingSettings) -> Weights:
    """The weights of a model as the strategy of the settings has them, alike in all processes.

    Args:
        model: On its device.
        settings: Of the training.

    Raises:
        ModelError: the processes have models of different shapes.
    """
    _take_from_first(model)
    if settings.strategy == "ddp" or not any(True for _ in model.parameters()):
        return Weights(model)
    if num_processes() == 1:
        _logger.warning("training.strategy=fsdp divides nothing: this training has one process alone.")
        return Weights(model)
    from withstand.training.sharded_weights import ShardedWeights  # here, since it takes long to import

    return ShardedWeights(model)


def make_optimizer(
    settings: TrainingSettings, model: nn.Module, parameters: Sequence[nn.Parameter]
) -> torch.optim.Optimizer:
    """The optimiser of the settings for a model.

    Args:
        settings: Of the training.
        model: What is trained.
        parameters: Of the model, whole or divided among processes.

    Raises:
        ModelError: no parameter of the model can be trained.
        RecipeError: its own settings do not fit, it is no optimiser, it needs more than one pass a step,
            or whole weights where they are divided.
    """
    if settings.epochs and not any(parameter.requires_grad for parameter in model.parameters()):
        raise ModelError(
            f"Nothing can be trained: {type(model).__name__} has no parameter that requires a gradient. Call "
            "requires_grad_() on those that are to be trained, or set epochs=0 to leave all as they are."
        )
    try:
        optimizer = settings.optimizer(parameters)
    except (TypeError, ValueError) as error:
        raise RecipeError(f"The optimiser of the recipe cannot be made: {error}") from error
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise RecipeError(
            f"The optimiser of the settings must make a torch.optim.Optimizer, but gave {optimizer!r}."
        )
    if isinstance(optimizer, torch.optim.LBFGS):
        raise RecipeError("LBFGS needs several passes a step, which training does not do. Take Adam or SGD.")
    if settings.strategy == "fsdp" and isinstance(optimizer, torch.optim.Rprop | torch.optim.Adafactor):
        raise RecipeError(
            f"{type(optimizer).__name__} needs whole weights, of which strategy=fsdp gives it parts. "
            "Take Adam or SGD, or strategy=ddp."
        )
    return optimizer


def _posteriors(model: nn.Module) -> str:
    """Each posterior of a model's random layers, and of how many it is."""
    counts = Counter(str(layer.posterior) for _, layer in bayes.variational_layers(model))
    return "; ".join(f"{posterior} of {number}" for posterior, number in counts.items())


def _words(*modules: nn.Module) -> str:
    return " ".join(" ".join(str(module).split()) for module in modules)
