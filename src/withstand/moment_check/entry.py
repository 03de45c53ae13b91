"""What was found, as ``metrics.json`` holds it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from withstand.moment_check.check import LevelResult, MomentResults
from withstand.moment_check.comparison import MethodResult
from withstand.moment_check.layers import LayerResult
from withstand.moment_check.settings import MomentCheck

__all__ = ["entry_of"]


def entry_of(results: MomentResults, settings: MomentCheck) -> dict[str, Any]:
    """The entry ``moments`` of ``metrics.json``: all numbers finite, or None.

    Args:
        results: What was found.
        settings: How.
    """
    return {
        "num_examples": results.num_examples,
        "num_samples": settings.num_samples,
        "standard_error": settings.num_samples**-0.5,
        "description": settings.describe(),
        "settings": asdict(settings),
        "levels": [_level(level) for level in results.levels],
    }


def _level(level: LevelResult) -> dict[str, Any]:
    return {
        "noise_std": level.noise_std,
        "sample_seconds": level.sample_seconds,
        "methods": [_method(method) for method in level.methods],
        "layers": [_layer(layer) for layer in level.layers],
    }


def _method(method: MethodResult) -> dict[str, Any]:
    ratio = None if method.std_ratio is None else method.std_ratio._asdict()
    return {**vars(method), "std_ratio": ratio, "points": [list(point) for point in method.points]}


def _layer(layer: LayerResult) -> dict[str, Any]:
    forms = {
        name: {"accumulated": cost.accumulated._asdict(), "own": cost.own._asdict(), "samples": cost.samples}
        for name, cost in layer.forms.items()
    }
    return {"operation": layer.operation, "count": layer.count, "forms": forms}
