"""Lightning: a mixin by which a module trains on an objective, and what follows its training.

Batches are (images, labels), with images in [0, 1]; normalisation is a layer of the model.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from typing_extensions import override

from withstand import bayes
from withstand.attacks import Attack
from withstand.attacks.attack import an_attack
from withstand.constraints import Constraint
from withstand.constraints.spectral_ball import a_constraint
from withstand.core.answers import is_correct
from withstand.core.contract import adapted
from withstand.loss.terms import Objective
from withstand.types import Batch

_NUM_SAMPLES = 8  # draws of random weights that a prediction averages, and an attack's gradient


class RobustTraining(LightningModule):
    """A ``LightningModule`` whose training step minimises an objective and logs its terms.

    Set ``self.model`` and ``self.objective`` in ``__init__`` and write ``configure_optimizers``. To change a
    module that is there, name this class first among the bases: ``class Robust(RobustTraining, Mine)``.

    Training logs ``loss`` and each term by its name, ``epsilon`` among them. Schedules go by the epochs done,
    as fractions where Lightning knows how many batches an epoch has. Validation and test log
    ``validation_accuracy`` and ``test_accuracy``, of images as they are; those under attack are for
    ``AttackedAccuracy``.

    Attributes:
        model: Maps images in [0, 1] to logits (batch, classes).
        objective: What to minimise. In several processes each has a batch and terms of its own.
    """

    model: nn.Module
    objective: Objective

    @override
    def forward(self, images: Tensor) -> Tensor:
        """The logits of images (batch, …) in [0, 1]."""
        logits: Tensor = adapted(self.model, images)(images)
        return logits

    @override
    def on_train_start(self) -> None:
        """Tells the objective how many training examples there are, if the loader batches them."""
        loader: Any = self.trainer.train_dataloader
        if getattr(loader, "batch_sampler", None) is not None and hasattr(loader.dataset, "__len__"):
            self.objective.prepare(len(loader.dataset))

    @override
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The loss of a batch (images, labels)."""
        images, labels = batch
        progress = _epochs_done(self.trainer, batch_idx)
        loss, terms = self.objective(self.model, images, labels, progress=progress)
        self.log_dict({"loss": loss.detach(), **terms}, batch_size=len(images))
        return cast(Tensor, loss)

    @override
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Logs the accuracy on a batch (images, labels)."""
        _log(self, "validation_accuracy", Batch(*batch))

    @override
    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Logs the accuracy on a batch (images, labels)."""
        _log(self, "test_accuracy", Batch(*batch))


class AttackedAccuracy(Callback):
    """Logs the accuracy under an attack: ``validation_attacked_accuracy`` and ``test_attacked_accuracy``.

    Of any ``LightningModule`` that maps images in [0, 1] to logits and has a validation or test step. Of
    random weights the mean probability over a few draws is asked, and attacked.

    Args:
        attack: At its final strength.
    """

    def __init__(self, attack: Attack) -> None:
        super().__init__()
        self.attack: Attack = an_attack("attack", attack)

    @override
    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Attacks a batch (images, labels)."""
        _log(pl_module, "validation_attacked_accuracy", Batch(*batch), self.attack)

    @override
    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Attacks a batch (images, labels)."""
        _log(pl_module, "test_attacked_accuracy", Batch(*batch), self.attack)


class Constrained(Callback):
    """Holds the weights to constraints: after each step of the optimiser, and before a validation.

    Args:
        *constraints: Such as ``SpectralBall(2.0)``; what they keep goes into Lightning's checkpoints.
    """

    def __init__(self, *constraints: Constraint) -> None:
        super().__init__()
        self.constraints = nn.ModuleList(
            a_constraint("a constraint", constraint) for constraint in constraints
        )
        self._step = 0
        self._progress = 0.0

    @override
    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Tells the constraints what the images are like."""
        self._step = trainer.global_step
        for constraint in self._listed():
            constraint.prepare(batch[0].shape[1:])

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Follows a step, if the optimiser made one."""
        self._progress = _epochs_done(trainer, batch_idx + 1)
        if trainer.global_step > self._step:
            for constraint in self._listed():
                constraint.after_step_(_network(pl_module), step=trainer.global_step, progress=self._progress)

    @override
    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Has what is scored in the set, while training."""
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._project(pl_module)

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Has what is saved in the set."""
        self._project(pl_module)

    @override
    def state_dict(self) -> dict[str, Any]:
        """What the constraints keep."""
        return self.constraints.state_dict()

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Gives the constraints back what they kept."""
        self.constraints.load_state_dict(state_dict)

    def _project(self, module: LightningModule) -> None:
        for constraint in self._listed():
            constraint.project_(_network(module), progress=self._progress)

    def _listed(self) -> list[Constraint]:
        return [constraint for constraint in self.constraints if isinstance(constraint, Constraint)]


def _epochs_done(trainer: Trainer, num_batches: int) -> float:
    """Epochs done; whole ones where it is not known how many batches an epoch has."""
    return trainer.current_epoch + num_batches / trainer.num_training_batches


def _network(module: LightningModule) -> nn.Module:
    return module.model if isinstance(module, RobustTraining) else module


def _log(module: LightningModule, name: str, batch: Batch, attack: Attack | None = None) -> None:
    """Logs the accuracy on a batch, under an attack where there is one; its mean over all batches."""
    images, labels = batch
    model = adapted(_network(module), images)
    predictor = bayes.Predictor(model, _NUM_SAMPLES) if bayes.is_stochastic(model) else model
    given = images if attack is None else attack(predictor, images, labels)
    with torch.no_grad():
        accuracy = is_correct(predictor(given), labels).float().mean()
    module.log(name, accuracy, on_step=False, on_epoch=True, batch_size=len(images), sync_dist=True)
