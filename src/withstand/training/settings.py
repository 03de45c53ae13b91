"""How to train, apart from what to minimise."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import nn

from withstand.attacks import Attack
from withstand.attacks.attack import an_attack
from withstand.constraints import Constraint
from withstand.constraints.spectral_ball import a_constraint
from withstand.core.numerics import Precision
from withstand.core.schedules import Schedule, scheduled
from withstand.core.setting_rules import (
    AT_LEAST_0,
    COUNT,
    POSITIVE,
    Whole,
    flag,
    instance_of,
    list_of,
    optional,
    settle,
)
from withstand.data import Augment, Deform
from withstand.training.collapse import Rollback
from withstand.training.measure import Measure
from withstand.training.validation import Plateau
from withstand.training.weight_average import WeightAverage

Strategy = Literal["ddp", "fsdp"]
OptimizerFactory = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


def adam(parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """Adam with a learning rate of 0.001: what training uses by default."""
    return torch.optim.Adam(parameters, lr=1e-3)


def a_factory(name: str, value: Any) -> OptimizerFactory:
    """The rule (``core.setting_rules``) of what makes an optimiser."""
    if not callable(value):
        kind = type(value).__name__
        got = f"the optimiser {kind} itself" if isinstance(value, torch.optim.Optimizer) else repr(value)
        raise TypeError(
            f"Expected {name} as a function that makes one of the parameters, such as lambda parameters: "
            f"torch.optim.SGD(parameters, lr=0.1), but got {got}."
        )
    factory: OptimizerFactory = value
    return factory


@dataclass(frozen=True)
class TrainingSettings:
    """How to train.

    An epoch is scored by its validation accuracy: clean, or under the attack ``selection``. By it the best
    epoch is chosen, the learning rate cut (``plateau``) and training stopped (``early_stopping``). The code
    of arXiv 1904.11005 goes by the total validation loss, whose scale depends on the weights of its terms.

    Args:
        epochs: Passes over the training data; 0 leaves the model as it is.
        batch_size: Images a step.
        optimizer: Makes the optimiser from the parameters; in a recipe a class_path such as
            ``torch.optim.Adam`` with its init_args.
        lr_factor: Factor of the optimiser's learning rate, a float or a schedule of one.
        plateau: Another factor, smaller each time that validation scores rise no more; none where None.
        early_stopping: Stop after so many validations in a row without a better score, at least 1; never
            where None.
        augment: Random crops and flips, or deformations, of each training batch.
        constraints: What holds the weights in a set after each step, such as ``SpectralBall``.
        average: Average the weights over the steps, by which epochs are scored, and which are what
            training leaves; optimiser and attacks go on with the weights themselves. None averages nothing.
        drop_last: Leave out the last batch of an epoch where it is smaller.
        batch_repeats: Steps in a row on each batch, for ``FreeAdversarial``; above 1 only with ``drop_last``.
            An epoch has that many times the steps; what augments a batch is drawn anew for each of them.
        selection: The attack by whose validation accuracy the best epoch is chosen; by clean
            validation accuracy where None.
        validation_every: Epochs from one validation to the next, since attacks cost time; the last epoch has
            one always. Others have no score: they are never the best, and ``plateau`` and ``early_stopping``
            count validations.
        rollback: What to do when adversarial training collapses; it is only reported where None.
        initial_weights: A ``.safetensors`` or state-dict file to start from.
        accelerator: Where to train, as Lightning Fabric names it (``auto``, ``cpu``, ``cuda``, …).
        devices: Processes on each machine, each with a device of its own (of ``cpu``: with its share of the
            cores) and its share of the batch. The result is that of one process, up to rounding; what a
            network of one's own draws at random, other than by Dropout, is not.
        num_nodes: Machines, each of which runs the same command under ``torchrun`` or SLURM.
        strategy: ``ddp``: each process keeps all weights. ``fsdp``: each keeps its part of them, of their
            gradients and of what the optimiser keeps, and has weights whole in the step, for scores and for
            constraints alone; the optimiser is given tensors of ``torch.distributed.tensor``. The result is
            the same. Not with fp16.
        sync_batch_norm: Whether BatchNorm goes by the statistics of the whole batch, as one process does,
            or each process by those of its share; running statistics are averaged then.
        micro_batches: Parts of a process's share of the batch that are computed one after another, to save
            memory: gradients are added up. Doubled by itself where memory runs out in one process. What is
            largest over a batch, and statistics of BatchNorm, are then those of a part.
        channels_last: Store images and kernels with the channels of a pixel side by side, which is faster
            for convolutions on some devices.
        precision: ``fp32``; or, for training alone, ``tf32``, ``bf16`` or ``fp16`` (with a scaled loss) on
            hardware that has it. Bounds, moments and gradients of images are in float32 all the same.
        compile: Run the model through ``torch.compile``; how often that breaks the graph is logged.
        checkpoint_seconds: Time between checkpoints inside an epoch; each epoch ends with one.
        measures: What to look at at the end of each epoch, for columns of the log.
        tensorboard: Log for TensorBoard too, into the run folder.

    Raises:
        TypeError: a setting is of the wrong type.
        ValueError: a number is out of its range, or fp16 is asked for with fsdp.
    """

    epochs: int = 10
    batch_size: int = 128
    optimizer: OptimizerFactory = adam
    lr_factor: float | Schedule = 1.0
    plateau: Plateau | None = None
    early_stopping: int | None = None
    augment: Augment | Deform | None = None
    constraints: Sequence[Constraint] = ()
    average: WeightAverage | None = None
    drop_last: bool = False
    batch_repeats: int = 1
    selection: Attack | None = None
    validation_every: int = 1
    rollback: Rollback | None = None
    initial_weights: str | None = None
    accelerator: str = "auto"
    devices: int = 1
    num_nodes: int = 1
    strategy: Strategy = "ddp"
    sync_batch_norm: bool = False
    micro_batches: int = 1
    channels_last: bool = False
    precision: Precision = "fp32"
    compile: bool = False
    checkpoint_seconds: float = 60.0
    measures: Sequence[Measure] = ()
    tensorboard: bool = False

    def __post_init__(self) -> None:
        settle(
            self,
            epochs=Whole(least=0),
            batch_size=COUNT,
            optimizer=a_factory,
            lr_factor=scheduled(POSITIVE),
            plateau=optional(instance_of(Plateau, "a plateau, such as Plateau(factor=0.5)")),
            early_stopping=optional(COUNT),
            constraints=list_of(a_constraint, least=0),
            average=optional(instance_of(WeightAverage, "an average, such as WeightAverage(decay=0.999)")),
            drop_last=flag,
            batch_repeats=COUNT,
            selection=optional(an_attack),
            validation_every=COUNT,
            rollback=optional(instance_of(Rollback, "a rollback, such as Rollback()")),
            devices=COUNT,
            num_nodes=COUNT,
            sync_batch_norm=flag,
            micro_batches=COUNT,
            channels_last=flag,
            compile=flag,
            checkpoint_seconds=AT_LEAST_0,
            measures=list_of(instance_of(Measure, "a measure of withstand.training"), least=0),
            tensorboard=flag,
        )
        for name, known in (("precision", get_args(Precision)), ("strategy", get_args(Strategy))):
            if getattr(self, name) not in known:
                got = getattr(self, name)
                raise ValueError(f"Expected a {name} of {', '.join(known)}, but got {got!r}.")
        if self.batch_repeats > 1 and not self.drop_last:
            raise ValueError(
                f"Expected drop_last=True with batch_repeats={self.batch_repeats}: only batches of one size "
                "are repeated."
            )
        if self.strategy == "fsdp" and self.precision == "fp16":
            raise ValueError(
                "Expected strategy ddp with precision fp16, or bf16 with fsdp: of a part of a scaled "
                "gradient it is not known whether the rest is infinite."
            )
