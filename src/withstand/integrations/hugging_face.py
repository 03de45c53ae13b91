"""Hugging Face's Trainer, with objectives and constraints of this package."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from typing_extensions import override

from withstand.constraints import Constraint
from withstand.constraints.spectral_ball import a_constraint
from withstand.core.outputs import taken_out
from withstand.core.setting_rules import instance_of, optional
from withstand.loss.in_loops import averaged
from withstand.loss.terms import Objective, an_objective
from withstand.models import Normalize
from withstand.types import DataError, LossTerms

_ROUNDING = 1e-3  # by so much images may leave [0, 1] once their normalisation is undone
_NORMALIZE = "Normalize(processor.image_mean, processor.image_std)"


class RobustTrainer(Trainer):
    """A ``transformers.Trainer`` whose loss is an objective of this package, and whose log has its terms.

    Batches have ``pixel_values`` and ``labels``. Image processors normalise, while epsilon is in units of
    images in [0, 1]: so the objective sees images of which the stated normalisation is undone, and the model
    with that normalisation in front. The model itself, and what is saved of it, stay as they are. Evaluation
    is Trainer's own, of images as they are; ``on_images()`` is what to attack and certify.

    Schedules go by the epochs done. For a Trainer of your own name this class first among the bases.

    Args:
        *args: As of ``transformers.Trainer``.
        objective: What training minimises. In several processes each has a batch and terms of its own.
        normalize: How ``pixel_values`` were made of images in [0, 1], such as
            ``ws.models.Normalize(processor.image_mean, processor.image_std)``; None where they are in [0, 1].
        constraints: What the weights are held to after each step of the optimiser.
        **kwargs: As of ``transformers.Trainer``.

    Raises:
        TypeError: the objective, the normalisation or a constraint is none.
    """

    def __init__(
        self,
        *args: Any,
        objective: Objective,
        normalize: Normalize | None,
        constraints: Sequence[Constraint] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        # The loss is a mean over its batch, which Trainer then divides by how many of them it accumulates.
        self.model_accepts_loss_kwargs = False
        self.objective: Objective = an_objective("objective", objective)
        self.normalize = optional(instance_of(Normalize, _NORMALIZE))("normalize", normalize)
        self.constraints = [a_constraint("constraints", constraint) for constraint in constraints]
        self.add_callback(_Projecting(self.constraints))
        self._on_images: _OnImages | None = None
        self._terms: defaultdict[str, list[Tensor]] = defaultdict(list)
        if hasattr(self.train_dataset, "__len__"):
            self.objective.prepare(len(cast(Any, self.train_dataset)))

    def on_images(self, model: nn.Module | None = None) -> nn.Module:
        """The model with the normalisation in front: maps images in [0, 1] to logits (batch, classes).

        Args:
            model: Takes ``pixel_values``; that which is trained where None.
        """
        inside = cast(nn.Module, self.model) if model is None else model
        if self._on_images is None or self._on_images.model is not inside:
            self._on_images = _OnImages(self.normalize, inside)
        return self._on_images.train(inside.training)

    @override
    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The loss of the objective where the model trains, else that of the model.

        Raises:
            DataError: a batch has no images or no labels, or the stated normalisation is not theirs.
        """
        if return_outputs or not model.training:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        if not {"pixel_values", "labels"} <= set(inputs):
            raise DataError(f"Expected batches of pixel_values and labels, but got {', '.join(inputs)}.")
        progress = self.state.epoch or 0.0

        def of_batch(inside: nn.Module, images: Tensor, labels: Tensor) -> LossTerms:
            return cast(LossTerms, self.objective(self.on_images(inside), images, labels, progress=progress))

        images = self._images_of(inputs["pixel_values"])
        for constraint in self.constraints:
            constraint.prepare(images.shape[1:])
        loss, terms = averaged(model, images, inputs["labels"], of_batch)
        for name, value in terms.items():
            self._terms[name].append(value)
        return loss

    @override
    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the terms to a log of the training loss: their means since the last."""
        if "loss" in logs:
            logs |= {name: float(torch.stack(values).mean()) for name, values in self._terms.items()}
            self._terms.clear()
        super().log(logs, start_time)

    def _images_of(self, pixel_values: Tensor) -> Tensor:
        """Images in [0, 1], as they were before they were normalised."""
        if self.normalize is None:
            return pixel_values
        self.normalize.to(pixel_values.device)
        images: Tensor = pixel_values * self.normalize.std + self.normalize.mean
        inside = images.clamp(0, 1)
        if self._on_images is None and bool((images - inside).abs().max() > _ROUNDING):  # looked at once
            low, high = float(images.min()), float(images.max())
            raise DataError(
                f"Without their normalisation, {self.normalize}, pixel_values span [{low:.4g}, {high:.4g}], "
                f"but must be images in [0, 1]. Give normalize={_NORMALIZE} of the processor that made them; "
                "None where they are in [0, 1]."
            )
        return inside


class _OnImages(nn.Module):
    """A model of Hugging Face that takes images in [0, 1].

    Args:
        normalize: Of the images that the model is given, if any.
        model: Takes ``pixel_values``.
    """

    def __init__(self, normalize: Normalize | None, model: nn.Module) -> None:
        super().__init__()
        self.normalize = nn.Identity() if normalize is None else normalize
        self.model = model

    @override
    def forward(self, images: Tensor) -> Tensor:
        """Logits (batch, classes)."""
        return taken_out(self.model(pixel_values=self.normalize(images)))


class _Projecting(TrainerCallback):
    """Holds the weights to constraints after each step of the optimiser, and at the end of each epoch."""

    def __init__(self, constraints: Sequence[Constraint]) -> None:
        self._constraints = constraints

    @override
    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        for constraint in self._constraints:
            constraint.after_step_(kwargs["model"], step=state.global_step, progress=state.epoch or 0.0)

    @override
    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        for constraint in self._constraints:
            constraint.project_(kwargs["model"], progress=state.epoch or 0.0)
