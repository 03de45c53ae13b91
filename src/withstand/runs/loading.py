"""The trained model of a run folder."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from withstand.core.dataset_info import KNOWN_DATASETS, DatasetInfo
from withstand.runs.run_parts import load_run_model, open_run


def load_run(folder: Path | str) -> nn.Module:
    """The trained model of a run folder, in eval mode: images in [0, 1] to logits (batch, classes)."""
    run, parsed = open_run(Path(folder))
    spec = run.read_json(run.model_spec)
    shape = tuple(spec["input_shape"])
    info = KNOWN_DATASETS.get(spec["dataset"]) or DatasetInfo(
        spec["dataset"],
        shape,
        [str(label) for label in range(spec["num_classes"])],
        [0.0] * shape[0],
        [1.0] * shape[0],
    )
    return load_run_model(run, parsed.recipe, info).eval()
