"""What a report of a model is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Normalization:
    """Whether a model scales and shifts its pixels before its first layer with weights.

    Attributes:
        is_present: None where it cannot be told.
        by: What does it, such as ``Normalize at 'norm'``; empty where nothing does.
        mean: Of each channel what is taken away, in the units of the images.
        std: Of each channel what it is then divided by.
        evidence: What was seen, in a sentence.
    """

    is_present: bool | None
    by: str = ""
    mean: Sequence[float] = ()
    std: Sequence[float] = ()
    evidence: str = ""


@dataclass(frozen=True)
class Verdict:
    """Whether something can be done with a model, as one try has shown.

    Attributes:
        name: A family of training, or what is measured.
        works: Whether the try went through.
        cost: Of a training step, in plain steps; None where it was not measured.
        note: Why it does not work and what to do about it, or what to know where it does; may be empty.
    """

    name: str
    works: bool
    cost: float | None = None
    note: str = ""


@dataclass(frozen=True)
class LayerBound:
    """How far one layer can stretch: guaranteed upper bounds of its operator norms.

    Attributes:
        name: Of the layer.
        l2: The l2 norm; None where there is no bound.
        linf: The linf norm, likewise.
    """

    name: str
    l2: float | None
    linf: float | None


@dataclass(frozen=True)
class LipschitzBound:
    """How far any logit can change a unit of distance between two images.

    Attributes:
        l2: An upper bound for l2 distance; None where there is none.
        linf: For linf distance: the l2 bound times the root of the number of pixels.
        steepest: The l2 norm of the steepest gradient that was seen at an image: a lower bound of ``l2``.
        reason: Why there is no upper bound; empty where there is one.
    """

    l2: float | None = None
    linf: float | None = None
    steepest: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class Advice:
    """A way to go on.

    Attributes:
        goal: What for.
        how: The command, or the line of Python.
        why: What speaks for it, and what to know.
    """

    goal: str
    how: str
    why: str
