"""Whether a training that is gone on with is the one that was begun."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from withstand.core.identity import Reader
from withstand.core.network import changes, describe, in_words, without, written_by_forward
from withstand.core.processes import num_processes
from withstand.core.run_folder import RunFolder
from withstand.models.weight_files import read_weights
from withstand.training.settings import TrainingSettings
from withstand.types import CheckpointError

_CLOSE = 1e-3  # of a tensor's norm: what another number of threads may change when weights are made
_MODEL = "model"
_logger = logging.getLogger(__name__)

Parts = Mapping[str, Mapping[str, str]]
"""Description of each thing that a training is made of: of the model, the objective, ..."""
Sketch = dict[str, list[float]]
"""Name of a tensor -> two sums over it, which differ where the tensors do."""

_left: WeakKeyDictionary[nn.Module, tuple[Sketch, Sketch]] = WeakKeyDictionary()
"""Of a model that was trained in this process: its weights at the beginning, and as it was left."""


class Origin:
    """What a training is made of and begins with, as its checkpoints hold it.

    Args:
        run: The run folder.
        described: The model's description before anything ran.
        model: With its initial weights.
        objective: What is minimised.
        optimizer: Of the model.
        settings: Of the training.
    """

    def __init__(
        self,
        run: RunFolder,
        described: Mapping[str, str],
        model: nn.Module,
        objective: nn.Module,
        optimizer: torch.optim.Optimizer,
        settings: TrainingSettings,
    ) -> None:
        own = without(described, written_by_forward(described, describe(model)))
        self._parts = {_MODEL: own, **_describe_parts(model, objective, optimizer, settings)}
        self._initial = _sketch_of(model.state_dict())
        self._surroundings = _surroundings(next(iter(model.parameters()), torch.empty(0)).device)
        self._run, self._model = run, model

    def content(self) -> dict[str, Any]:
        """What a checkpoint holds of it."""
        return {"parts": self._parts, "initial": self._initial, "surroundings": self._surroundings}

    def require_same(self, path: Path, content: Mapping[str, Any]) -> None:
        """Accepts a checkpoint of a training of the same model, objective and settings, and of their code.

        Its model must have the weights that this training began with, or those that it has come to.
        Whether threads and device are others is logged.

        Args:
            path: Where the checkpoint is, for the message.
            content: What it holds.

        Raises:
            CheckpointError: they differ; the text says in what, and how to go on.
        """
        if "parts" not in content:
            _logger.warning(
                "%s was written by an older version, so whether model, objective and their code are still "
                "the same could not be compared.",
                path,
            )
            return
        _require_same_parts(path, content["parts"], self._parts)
        self._require_same_start(path, content)
        _warn_of_other_surroundings(content["surroundings"], self._surroundings)
        self._initial = content["initial"]

    def leave(self) -> None:
        """Notes the weights that the model is left with, so that the same object may go on with them."""
        _left[self._model] = (self._initial, _sketch_of(self._model.state_dict()))

    def _require_same_start(self, path: Path, content: Mapping[str, Any]) -> None:
        now, begun = self._initial, content["initial"]
        begun_before, left = _left.get(self._model, ({}, {}))
        if _is_close(now, left) and _is_close(begun_before, begun):
            return  # a training of this very object was interrupted
        if not any(_is_close(now, known) for known in (begun, _sketch_of(content["model"]), *self._stored())):
            best = self._run.best_weights
            raise CheckpointError(
                f"The initial weights of the model are not those that {path} began with. To go on, make it "
                "with the same seed as then (torch.manual_seed before it is made), or read what was trained "
                f"into it: ws.models.load_weights(model, {str(best)!r}). To train from other weights, choose "
                "another --out, or out= in Python."
            )

    def _stored(self) -> Iterator[Sketch]:
        """The weights that the run folder holds."""
        for file in (self._run.best_weights, self._run.last_weights):
            if file.exists():
                yield _sketch_of(read_weights(file))


def _describe_parts(
    model: nn.Module, objective: nn.Module, optimizer: torch.optim.Optimizer, settings: TrainingSettings
) -> dict[str, dict[str, str]]:
    """Layers, attributes and code of what decides, beside the model, what is trained."""
    reader = Reader(is_stateful=False, but=model)
    plain = {
        "optimizer": type(optimizer),
        "groups of the optimizer": [
            {key: len(value) if key == "params" else value for key, value in group.items()}
            for group in optimizer.param_groups
        ],
        "frozen weights": [name for name, weight in model.named_parameters() if not weight.requires_grad],
        "learning rate factor": settings.lr_factor,
        "augmentation": settings.augment,
        "selection": settings.selection,
        "rollback": settings.rollback,
        "plateau": settings.plateau,
        "drop_last": settings.drop_last,
        "precision": settings.precision,
        # Not of 1, which runs had before there was another.
        **({"batch_repeats": settings.batch_repeats} if settings.batch_repeats > 1 else {}),
    }
    words = {name: json.dumps(reader.plain(value), sort_keys=True) for name, value in plain.items()}
    return {
        "objective": describe(objective, is_stateful=False, but=model) | _values_in(objective, model),
        **{
            f"constraint {number}": describe(constraint, is_stateful=False, but=model)
            for number, constraint in enumerate(settings.constraints)
        },
        "settings": words | reader.entries,
    }


def _values_in(objective: nn.Module, model: nn.Module) -> dict[str, str]:
    """The weights that an objective brings, such as a teacher's or those of classes; training leaves them."""
    trained = {id(weight) for weight in model.parameters()}
    values = {name: weight for name, weight in objective.named_parameters() if id(weight) not in trained}
    for place, module in objective.named_modules():
        if type(module).__module__.startswith("torch.nn.modules.loss"):
            values |= {f"{place}.{name}": buffer for name, buffer in module.named_buffers(recurse=False)}
    return {f"weights {name}": str(Reader().plain(value.detach())) for name, value in values.items()}


def _require_same_parts(path: Path, saved: Parts, current: Parts) -> None:
    for name in {**current, **saved}:
        changed = changes(saved.get(name, {}), current.get(name, {}))
        if changed and name == _MODEL:
            raise CheckpointError(
                f"The model is not the one that {path} is of ({in_words(changed)}). To go on, make it as it "
                f"was; to train the new one, choose another --out, or out= in Python. {_from_weights(path)}"
            )
        if changed:
            raise CheckpointError(
                f"The checkpoint {path} belongs to another run (of the {name}, {in_words(changed)}). Make it "
                "as it was to go on, or choose another --out, or out= in Python."
            )


def _from_weights(path: Path) -> str:
    best = path.parent.parent / "model.safetensors"
    return f"There initial_weights={best} starts from the weights so far, where they fit."


def _sketch_of(state: Mapping[str, Any]) -> Sketch:
    """Two sums over each tensor of a state dict, in float64."""
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    longest = max((value.numel() * (1 + value.is_complex()) for value in tensors.values()), default=0)
    signs = torch.cos(torch.arange(longest, dtype=torch.float64))  # once for all: it takes the most time
    return {name: _sums(value, signs) for name, value in tensors.items()}


@torch.no_grad()
def _sums(tensor: Tensor, signs: Tensor) -> list[float]:
    values = tensor.detach().cpu().reshape(-1)
    values = (torch.view_as_real(values).reshape(-1) if values.is_complex() else values).double()
    return [float(values.square().sum().sqrt()), float((values * signs[: len(values)]).sum())]


def _is_close(one: Sketch, other: Sketch) -> bool:
    return one.keys() == other.keys() and all(
        abs(a - b) <= _CLOSE * max(first[0], other[name][0]) + 1e-12
        for name, first in one.items()
        for a, b in zip(first, other[name], strict=True)
    )


def _surroundings(device: torch.device) -> dict[str, str]:
    """What sums depend on beside the seed: the order in which they are added."""
    return {
        "threads": str(torch.get_num_threads()),
        "processes": str(num_processes()),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "torch": str(torch.__version__),
    }


def _warn_of_other_surroundings(then: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Logs where a training goes on with other threads, or on another device, than it was begun."""
    differing = [
        f"{name} {then[name]} then, {now[name]} now" for name in now if then.get(name, now[name]) != now[name]
    ]
    if differing:
        _logger.warning(
            "Training goes on under other conditions than it began (%s): sums are rounded otherwise, so the "
            "weights will not be exactly those of a run without an interruption.",
            "; ".join(differing),
        )
