"""Whether a model can be trained at all, said before the first step."""

from __future__ import annotations

import copy

import torch
from torch import nn

from withstand.core.contract import adapted
from withstand.core.devices import preserved_random_state
from withstand.core.modes import eval_mode, put_back
from withstand.core.processes import num_processes
from withstand.data import Split, batches
from withstand.loss.terms import Objective
from withstand.training.settings import TrainingSettings
from withstand.types import DataError, ModelError


def require_trainable(
    model: nn.Module, objective: Objective, train: Split, settings: TrainingSettings
) -> None:
    """Accepts a model that a step can train, also on a batch of one image where an epoch has one.

    Model, objective and random state stay as they were.

    Args:
        model: Maps images in [0, 1] to logits.
        objective: What to minimise, prepared.
        train: The training images, on the model's device.
        settings: How to train; of no epochs nothing is asked.

    Raises:
        ModelError: there is nothing to train, or no gradient gets there.
        DataError: an epoch has a batch of one image, on which a step fails, as BatchNorm layers do.
    """
    if not settings.epochs:
        return
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    if not trained:
        raise ModelError(
            "The model has no weight to train: it has no parameters, or all are frozen. Set "
            "requires_grad_(True) of those to train."
        )
    if any(weight.dtype == torch.float16 for weight in trained):
        raise ModelError(
            "The model's weights are float16, in which small gradients become 0 and large ones infinite. "
            "Call model.float(), and train with precision='bf16' where it should be fast."
        )
    if num_processes() > 1 and any(isinstance(layer, nn.SyncBatchNorm) for layer in model.modules()):
        raise ModelError(
            "nn.SyncBatchNorm works on GPUs alone, not behind bounds. Build the model of nn.BatchNorm2d "
            "(or 1d, 3d), and train with sync_batch_norm=True, which is for every device and objective."
        )
    with put_back(model, model.buffers()):
        try:
            model.train()
        except NotImplementedError as error:  # of torch.export
            raise ModelError(
                f"The model {type(model).__name__} has no train mode, since it was exported: what its layers "
                "do is fixed. Train the module that it was exported of; in a loop of your own, objectives "
                "take it as it is."
            ) from error
    images = next(batches(train, 2)).images.clone()  # which may have been made in inference mode
    with preserved_random_state(images.device):
        with torch.enable_grad(), eval_mode(model):
            has_gradients = adapted(model, images)(images).requires_grad
        if not has_gradients:
            raise ModelError(
                "No gradient reaches the model's weights: its forward cuts it off (torch.no_grad, detach, "
                "argmax). Let it return the logits as they are computed."
            )
        if _has_part_of_one(len(train), settings):
            _require_batch_of_one(model, objective, train, settings)


def _has_part_of_one(num_images: int, settings: TrainingSettings) -> bool:
    """Whether a batch is of one image, or a part of it that layers see by itself."""
    rest = 0 if settings.drop_last else num_images % settings.batch_size
    sizes = [size for size in (settings.batch_size if num_images >= settings.batch_size else 0, rest) if size]
    return any(_smallest_part(size, settings) == 1 for size in sizes)


def _smallest_part(size: int, settings: TrainingSettings) -> int:
    """Images of the smallest part of a batch whose statistics stand alone."""
    number = num_processes()
    is_divided = number > 1 and size >= number
    if is_divided and settings.sync_batch_norm:
        return size // min(settings.micro_batches, size // number)
    share = size // number if is_divided else size
    return share // min(settings.micro_batches, share)


def _require_batch_of_one(
    model: nn.Module, objective: Objective, train: Split, settings: TrainingSettings
) -> None:
    """Tries a step's forward on one image; where two fail as well, their error says why."""

    def try_on(num_images: int) -> None:
        with put_back(model, model.buffers()), torch.enable_grad():
            model.train()
            copy.deepcopy(objective)(model, *next(batches(train, num_images)), progress=0.0)

    try:
        try_on(1)
    except Exception as error:
        try_on(2)
        only_ones = _smallest_part(settings.batch_size, settings) == 1
        remedy = "Take a larger batch_size" if only_ones else "Set drop_last=True, or take another batch_size"
        where = "a batch" if only_ones else "the last batch"
        if num_processes() > 1 or settings.micro_batches > 1:
            where += (
                f", divided among {num_processes()} processes with micro_batches={settings.micro_batches},"
            )
        raise DataError(
            f"{remedy}: with {settings.batch_size} for {len(train)} training images, {where} has one image, "
            f"on which training fails ({error})."
        ) from error
