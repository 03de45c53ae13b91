"""The one training loop of the house, on Lightning Fabric.

Everything random is drawn from torch's global generator, which is seeded anew at each epoch from
(seed, epoch), and whose state goes into every checkpoint: a run that was killed and resumed ends
with the same weights, bit for bit, on the same machine.
"""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import cast

import torch
from torch import nn

from withstand.core.batch_shares import own_share
from withstand.core.network import describe
from withstand.core.numerics import seed_of
from withstand.core.processes import from_first, is_first, num_processes
from withstand.core.run_folder import RunFolder
from withstand.core.schedules import Schedule, Slowed, value_at
from withstand.data import Dataset, batches, epoch_order
from withstand.data.batches import repeated
from withstand.loss.terms import Objective
from withstand.models import check, load_weights, save_weights
from withstand.training.checkpoint import (
    ACCURACY,
    ROBUST_ACCURACY,
    Position,
    Row,
    TrainingResult,
    begin,
    fitting,
    newest_checkpoint,
    read_checkpoint,
    require_same_run,
    write_checkpoint,
)
from withstand.training.collapse import EpochMeter, verdict
from withstand.training.messages import non_finite
from withstand.training.observers import Observer
from withstand.training.same_run import Origin
from withstand.training.settings import TrainingSettings
from withstand.training.setup import describe_run, make_fabric, make_optimizer, steps_per_epoch, weights_of
from withstand.training.state import State
from withstand.training.step import Gradients
from withstand.training.trainable import require_trainable
from withstand.training.validation import accuracies, measured, no_accuracies, num_bad_epochs, scores
from withstand.training.weight_average import Average
from withstand.types import Batch

_logger = logging.getLogger(__name__)
_STEPS_BETWEEN_CHECKS = 50  # reading the losses back from the device every step would slow it
_FEW = 4  # training images that measures are shown


class Training:
    """One training: the pieces that every step needs, and its position (see ``fit``).

    Args:
        model: Maps images in [0, 1] to logits (batch, classes).
        dataset: Its training split trains, its validation split chooses.
        objective: What to minimise; a copy is used, so that what is given can be used again.
        settings: How to; of its constraints too a copy is used.
        out: The run folder, made already.
        seed: Fixes everything random.
        observers: Who follows its progress, entered already.
    """

    def __init__(
        self,
        model: nn.Module,
        dataset: Dataset,
        objective: Objective,
        settings: TrainingSettings,
        *,
        out: RunFolder,
        seed: int,
        observers: Sequence[Observer],
    ) -> None:
        self._steps_per_epoch = steps_per_epoch(settings, dataset)
        self._fabric = make_fabric(settings)
        if settings.initial_weights is not None:
            load_weights(model, settings.initial_weights)
        self._model = self._fabric.to_device(model)
        described = describe(model)
        check(model, dataset.info)
        # Both keep what they learn of a model, and objectives are slowed; another training begins anew.
        self._objective = copy.deepcopy(objective)
        self._objective.prepare(len(dataset.train))
        self._fabric.to_device(self._objective)
        constraints = copy.deepcopy([*settings.constraints])
        for constraint in constraints:
            constraint.prepare(dataset.info.shape)
        self._fabric.to_device(nn.ModuleList(constraints))
        self._weights = weights_of(model, settings)
        optimizer = make_optimizer(settings, model, self._weights.parameters)
        self._learning_rates = [group["lr"] for group in optimizer.param_groups]
        self._optimizer = cast(torch.optim.Optimizer, self._fabric.setup_optimizers(optimizer))
        self._gradients = Gradients(self._fabric, model, self._objective, settings, self._weights)
        self._average = Average(settings.average, model, self._weights)
        precision = self._fabric.strategy.precision
        self._state = State(
            model, self._weights, self._average, self._objective, constraints, self._optimizer, precision
        )
        self._train = dataset.train.to(self._fabric.device)
        require_trainable(model, self._objective, self._train, settings)
        self._validation = dataset.validation.to(self._fabric.device)
        self._num_classes = dataset.info.num_classes
        self._settings = settings
        self._lr_factor: float | Schedule = settings.lr_factor
        self._plateau_factor = 1.0
        self._out = out
        self._seed = seed
        self._observers = observers
        self._position = Position()
        self._meter = self._new_meter()
        self._measure = partial(measured, settings.measures, model, self._train, _FEW)
        self._run = describe_run(model, dataset, objective, optimizer, settings) | {"seed": str(seed)}
        self._origin = Origin(out, described, model, objective, optimizer, settings)
        self._started = self._saved = time.monotonic()

    @property
    def _num_epochs(self) -> int:
        return self._settings.epochs + len(self._position.slowed_at)

    @property
    def _is_done(self) -> bool:
        return self._position.epoch >= self._num_epochs or self._stops_early

    @property
    def _stops_early(self) -> bool:
        patience = self._settings.early_stopping
        return patience is not None and num_bad_epochs(self._scores) >= patience

    @property
    def _scores(self) -> list[float]:
        return scores(self._position.rows, self._position.epoch)

    def run(self) -> TrainingResult:
        """All epochs that are left, and the weights at their end."""
        self._resume()
        begin(self._out, self._position, self._num_epochs, is_done=self._is_done)
        try:
            while not self._is_done:
                self._run_epoch()
                self._end_epoch()
            self._average.swap_()  # which is what training leaves
        finally:
            self._origin.leave()
        if is_first() and not self._out.best_weights.exists():  # no epoch was asked for, or each collapsed
            if self._position.best_score >= 0:
                _logger.warning("%s is gone; the last weights take its place.", self._out.best_weights)
            save_weights(self._model, self._out.best_weights)
        save_weights(self._model, self._out.last_weights)
        position = self._position
        has_collapsed = bool(position.rows) and bool(position.rows[-1]["collapsed"])
        return TrainingResult(
            position.rows, position.best_score, position.seconds, position.total_steps, has_collapsed
        )

    # -- one epoch ---------------------------------------------------------------------------------

    def _run_epoch(self) -> None:
        position, how = self._position, self._settings
        self._plateau_factor = 1.0 if how.plateau is None else how.plateau.factor_after(self._scores)
        if position.step == 0:
            torch.manual_seed(seed_of(self._seed, position.epoch))
        order, size = self._order(), how.batch_size
        left = order[position.step * size :]
        self._model.train()
        self._gradients.begin()
        drawn = batches(
            self._train, size, order=left, augment=how.augment, drop_last=how.drop_last, share_of=own_share
        )
        with self._weights.divided():
            for batch in drawn:
                self._step(batch, min(size, len(order) - position.step * size))
                if is_checked := position.step % _STEPS_BETWEEN_CHECKS == 0:
                    self._require_finite()
                if (num_processes() == 1 or is_checked) and self._is_due():
                    self._save("last.pt")
        self._require_finite()

    def _order(self) -> torch.Tensor:
        """The training images in the order in which the steps of this epoch take them."""
        order = epoch_order(len(self._train), seed=self._seed, epoch=self._position.epoch)
        return repeated(order, self._settings.batch_size, self._settings.batch_repeats)

    def _is_due(self) -> bool:
        """Whether it is time for a checkpoint, as the first process has it."""
        return from_first(time.monotonic() - self._saved > self._settings.checkpoint_seconds)

    def _step(self, batch: Batch, total: int) -> None:
        position = self._position
        progress = position.epoch + position.step / self._steps_per_epoch
        for group, rate in zip(self._optimizer.param_groups, self._learning_rates, strict=True):
            group["lr"] = rate * value_at(self._lr_factor, progress) * self._plateau_factor
        self._optimizer.zero_grad(set_to_none=True)
        result = self._gradients(batch, total, progress)
        self._optimizer.step()
        self._state.after_step_(position.total_steps + 1, progress)
        self._meter.record(position.step, result.loss, result.terms)
        position.step += 1
        position.total_steps += 1
        done = position.epoch * self._steps_per_epoch + position.step
        for observer in self._observers:
            observer.on_step(done, self._num_epochs * self._steps_per_epoch)

    def _require_finite(self) -> None:
        bad, total = self._meter.first_non_finite(self._position.step), self._steps_per_epoch
        if bad is not None:
            what = f"loss became NaN or infinite at step {bad + 1} of {total}"
            raise non_finite(self._out, self._position.epoch + 1, what)

    def _require_finite_weights(self) -> None:
        """The loss of a step says nothing of the weights after it; asked once an epoch."""
        if not all(bool(torch.isfinite(weight).all()) for weight in self._model.parameters()):
            what = f"weights became NaN or infinite after step {self._steps_per_epoch}"
            raise non_finite(self._out, self._position.epoch + 1, what)

    def _end_epoch(self) -> None:
        """Scores, logs and saves the epoch, or rolls it back."""
        position = self._position
        self._state.project_(position.epoch + 1)
        self._require_finite_weights()
        seen = self._train.subset(self._meter.tail_of(self._order(), self._settings.batch_size))
        means = self._meter.tail_means()
        collapsed, is_good = verdict(self._model, means, seen, self._validation, self._num_classes)
        with self._state.averaged(position.epoch + 1):
            row = self._row(collapsed)
        if is_good or not self._roll_back(row):
            position.rows.append(row)
            position.epoch += 1
            position.step = 0
            self._note_early_stop(row)
            self._meter = self._new_meter()
            if is_good:
                position.good_epoch = position.epoch
                self._save("good.pt")
            self._save("last.pt")  # after good.pt: what resumes from it reads the good.pt that belongs to it
        for observer in self._observers:
            observer.on_epoch(self._position.rows)

    def _row(self, collapsed: bool) -> Row:
        position = self._position
        now = time.monotonic()
        position.seconds, self._started = position.seconds + now - self._started, now
        row: Row = {
            "epoch": position.epoch + 1,
            "progress": position.epoch + 1,
            "seconds": position.seconds,
            "learning_rate": self._optimizer.param_groups[0]["lr"],
            **self._meter.means(),
        }
        row |= {**self._measure(), **self._validate(collapsed), "collapsed": int(collapsed)}
        row["note"] = "collapsed" if collapsed else ""
        return row

    def _validate(self, collapsed: bool) -> Row:
        """What the log says of validation images; keeps the weights where no epoch was better."""
        position, how = self._position, self._settings
        is_due = (position.epoch + 1) % how.validation_every == 0 or position.epoch + 1 >= self._num_epochs
        if len(self._validation) and not is_due:
            return dict(no_accuracies(how.selection))
        found = accuracies(self._model, self._validation, how.selection)
        # Without validation data the last good epoch is the best.
        score = found.get(ROBUST_ACCURACY, found.get(ACCURACY, position.best_score))
        if score >= position.best_score and not collapsed:
            position.best_score = score
            save_weights(self._model, self._out.best_weights)
        return dict(found)

    def _note_early_stop(self, row: Row) -> None:
        how = self._settings
        if self._stops_early and self._position.epoch < self._num_epochs:
            num, what = how.early_stopping, "epoch" if how.validation_every == 1 else "validation"
            why = f"stopped early: no better validation score for {num} {what}{'' if num == 1 else 's'}"
            row["note"] = "; ".join(text for text in (str(row["note"]), why) if text)

    def _roll_back(self, row: Row) -> bool:
        """Restores the last good epoch with the step halved that was too large; False where it cannot."""
        former, rollback = self._position, self._settings.rollback
        if rollback is None:
            return False
        at, what = former.good_epoch, row["note"] or "no better than a guess"
        if not rollback.allows(at, former.slowed_at):
            row["note"] = f"{what}; smaller steps of epsilon did not help, so training goes on"
            return False
        if not self._slow_down(at):
            row["note"] = f"{what}; no step of epsilon to halve"
            return False
        self._restore("good.pt")
        row["note"] = f"{what}; back to the end of epoch {at}, step of epsilon halved"
        now = self._position
        now.total_steps, now.seconds, now.rows = former.total_steps, former.seconds, [*former.rows, row]
        now.slowed_at, now.best_score = [*former.slowed_at, at], former.best_score
        self._save("last.pt")
        return True

    def _slow_down(self, at: int) -> bool:
        """Slows the objective down; learning rates follow their epochs. False where nothing got easier."""
        is_easier = self._objective.slow_down(at)
        if is_easier and isinstance(self._lr_factor, Schedule):
            self._lr_factor = Slowed(self._lr_factor, at, share=1.0)
        return is_easier

    # -- checkpoints -------------------------------------------------------------------------------

    def _resume(self) -> None:
        """Goes on from the newest checkpoint; from the start where there is none."""
        newest = from_first(newest_checkpoint(self._out))
        if newest is not None:
            self._restore(newest.name)
            for at in self._position.slowed_at:
                self._slow_down(at)
        if not self._is_done:
            self._measure()  # a measure that does not fit says so before an epoch's time
        if newest is None:
            self._save("good.pt")

    def _save(self, name: str) -> None:
        self._require_finite()
        now = time.monotonic()
        self._position.seconds += now - self._started
        self._started = self._saved = now
        state = self._state.content()
        if is_first():
            about = {"run": self._run, **self._origin.content(), "position": asdict(self._position)}
            write_checkpoint(self._out.checkpoints / name, about | state | {"meter": self._meter.state()})

    def _restore(self, name: str) -> None:
        path = self._out.checkpoints / name
        content = from_first(read_checkpoint(path) if is_first() else {})
        require_same_run(path, content["run"], self._run)
        self._origin.require_same(path, content)
        with fitting(path):
            self._state.restore_(content)
        self._position = Position(**content["position"])
        self._meter = self._new_meter(content["meter"])

    def _new_meter(self, recorded: dict[str, torch.Tensor] | None = None) -> EpochMeter:
        steps, how = self._steps_per_epoch, self._settings
        left = 1.0 if how.drop_last else len(self._train) / how.batch_size - (steps - 1)
        return EpochMeter(steps, self._fabric.device, recorded, last_share=left)
