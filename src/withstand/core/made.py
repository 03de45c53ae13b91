"""By which name and options a network was made, for as long as nothing else was changed on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from torch import nn

from withstand.core.dataset_info import DatasetInfo
from withstand.core.identity import MADE, digest_of
from withstand.core.network import describe

_Module = TypeVar("_Module", bound=nn.Module)


@dataclass(frozen=True)
class Made:
    """What makes a network anew, as a recipe's ``model`` says it.

    Attributes:
        name: Of the model, or of its factory with the whole path of its file.
        input_shape: Of one example.
        num_classes: Logits an image.
        info: Of the data that its first layer normalises by, unless it has a normalisation of its own; None
            where it does neither, or the data are not known.
        options: Of the network.
        parametrize: How its weights are computed, if so.
        bayes: ``posterior`` and ``layers`` of ``bayes.convert``, where its weights are random.
    """

    name: str
    input_shape: tuple[int, ...]
    num_classes: int
    info: DatasetInfo | None
    options: Mapping[str, Any] = field(default_factory=dict)
    parametrize: str | None = None
    bayes: Mapping[str, Any] | None = None


def remember(network: _Module, made: Made) -> _Module:
    """Notes on a network how it was made; what is changed on it later shows (``made_of``)."""
    network.__dict__[MADE] = (made, _digest(network))
    return network


def made_of(network: nn.Module) -> Made | None:
    """How a network was made; None where that is not known, or layers or hooks are no longer as they were."""
    made, digest = network.__dict__.get(MADE, (None, None))
    return made if digest == _digest(network) else None


def changed_by(before: Made | None, network: nn.Module, **parts: Any) -> None:
    """Notes how a network was changed, where it is known how it was made until then."""
    if before is not None:
        remember(network, replace(before, **parts))


def _digest(network: nn.Module) -> str:
    return digest_of(describe(network))
