"""The words that every part of the house shares: batches, losses, errors.

Nothing here computes. Whatever more than one family names lives here, so that families
never import each other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:  # reports are made without torch
    from torch import Tensor


class Batch(NamedTuple):
    """Images and their labels, on one device.

    Attributes:
        images: Float tensor (batch, channels, height, width), or (batch, …), in [0, 1].
        labels: Integer tensor (batch,), in 0 … classes - 1.
    """

    images: Tensor
    labels: Tensor


class LossTerms(NamedTuple):
    """What an objective returns: the scalar to minimise, and what it is made of.

    Attributes:
        loss: Scalar tensor with gradient: the weighted sum that training minimises.
        terms: Name -> detached scalar tensor, each term as its formula states it (before its
            weight). Diagnostics such as ``adversarial_accuracy`` stand here too.
    """

    loss: Tensor
    terms: dict[str, Tensor]


class ModelCard(str):
    """What is to be known of a trained model, as Markdown; what ``ws.load`` gives has it as ``card``.

    It is no part of what the model computes.
    """

    __slots__ = ()


class WithstandError(Exception):
    """An error of the user's input or surroundings; its text says what to do about it."""


class DataError(WithstandError, ValueError):
    """Data that is missing, damaged, outside [0, 1], or wrongly labelled."""


class ModelError(WithstandError, ValueError):
    """A model that does not fit its data or its use."""


class AttackError(WithstandError, RuntimeError):
    """An attack that broke its own rules: left its ball, or [0, 1]."""


class CertificateError(WithstandError, RuntimeError):
    """A certificate that an attack refuted, or that contradicts another."""


class RecipeError(WithstandError, ValueError):
    """A recipe, key or value that does not exist or does not fit."""


class UntrustedCodeError(RecipeError):
    """A recipe names code that is not run, since nobody here has said that who wrote it is trusted."""


class OutOfMemoryError(WithstandError, MemoryError):
    """The device's memory does not hold what a step needs."""


class RunFolderError(WithstandError, OSError):
    """A run folder that cannot be written, read, or resumed."""


class ClusterError(WithstandError, RuntimeError):
    """A cluster that cannot be reached, or whose workers end."""


class CheckpointError(RunFolderError):
    """A checkpoint that is damaged or belongs to another recipe."""


class ProcessError(WithstandError, RuntimeError):
    """Another process of the same job has ended, or cannot be reached."""


class NonFiniteLossError(WithstandError, ArithmeticError):
    """The training loss became NaN or infinite."""
