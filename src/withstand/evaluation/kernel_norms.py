"""The bounds of a model's kernel norms, as ``metrics.json`` holds them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from torch import nn

from withstand.data import Split, batches
from withstand.kernel_norms import ClassBounds, KernelNorms, kernel_norm_bounds

__all__ = ["measure_kernel_norms"]


def measure_kernel_norms(
    model: nn.Module, test: Split, settings: KernelNorms, class_names: Sequence[str], *, seed: int
) -> dict[str, Any]:
    """Bounds the kernel norm of each class logit, from below and from above.

    Args:
        model: Maps images in [0, 1] to logits (batch, classes).
        test: Its first examples count, as many as the settings say.
        settings: How hard to seek.
        class_names: One a class, in label order.
        seed: Of the deformations.

    Returns:
        The entry ``kernel_norms`` of ``metrics.json``: all numbers finite, or None.

    Raises:
        ModelError: the model is no function of one image.
        CertificateError: a lower bound is above the upper one.
    """
    images = next(batches(test, settings.num_examples)).images
    found = kernel_norm_bounds(model, images, settings, class_names=class_names, seed=seed)
    classes = [_of_class(each) for each in found.classes]
    return {
        "num_examples": found.num_examples,
        "description": settings.describe(),
        "settings": asdict(settings),
        "classes": classes,
        "layers": [each._asdict() for each in found.layers],
        "summary": _largest(classes),
        "reason": found.reason,
    }


def _of_class(bounds: ClassBounds) -> dict[str, Any]:
    numbers = bounds._asdict()
    return {"class": numbers.pop("name"), **numbers}


def _largest(classes: Sequence[dict[str, Any]]) -> dict[str, float | None]:
    """The largest of each bound over the classes; None where some class has none."""
    names = [name for name in classes[0] if name != "class"]
    columns = {name: [each[name] for each in classes] for name in names}
    return {name: None if None in values else max(values) for name, values in columns.items()}
