"""Image classifiers of Hugging Face transformers, from a repository or a folder."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from typing_extensions import override

from withstand.core.outputs import taken_out
from withstand.models.blocks import Shape
from withstand.models.hosted import Hosted, HostedFactory, as_image_shape, as_size, imported, require_head
from withstand.types import ModelError

_LEVELS = 255  # of a pixel, which the files count in
_REPOSITORY = re.compile(r"[\w.-]+(/[\w.-]+)?")
_HERE = (".", "/", "~")
_COMMAND = "pip install 'withstand[hub]'"
_GENERIC = "LABEL_0"  # of class names that nobody gave


class Logits(nn.Module):
    """A network whose answer holds logits, as one that gives them.

    Args:
        model: Its answer has them as ``logits``.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    @override
    def forward(self, images: Tensor) -> Tensor:
        """Logits (batch, classes) of images (batch, …)."""
        return taken_out(self.model(images))


@dataclass(frozen=True)
class HubFactory(HostedFactory):
    """Makes an image classifier of transformers, from a repository or a folder.

    Args:
        settings: The folder of what ``settings_of`` gave, to build the network by these, with random weights,
            in the place of what the name leads to.
    """

    settings: Path | None = None

    def __call__(
        self,
        input_shape: Shape,
        num_classes: int,
        *,
        pretrained: bool = True,
        new_head: bool = False,
        image_size: int | Sequence[int] | None = None,
        revision: str | None = None,
    ) -> nn.Module:
        """A network of transformers.

        Args:
            input_shape: (channels, height, width) of the data.
            num_classes: Of the data.
            pretrained: Whether its weights are read; else they are random, and it is built for the data's
                channels and classes.
            new_head: Whether its head is made anew, with random weights, for the data's classes.
            image_size: To resize images to, in the place of what the checkpoint says; a network with random
                weights is built for it.
            revision: Branch, tag or commit of the repository.

        Raises:
            ModelError: transformers is not installed, there is no such network, it is no image classifier of
                transformers itself, or it does not fit the data.
        """
        transformers = imported("transformers", "hub:", _COMMAND)
        wanted = _Wanted(as_image_shape(input_shape), num_classes, pretrained, new_head, image_size)
        where = _where(self.name, revision) if self.settings is None else _whole(self.settings)
        hosted, class_names = _from_hub(transformers, where, wanted, reads=self.settings is None)
        self._require_order(class_names)
        return self.prepared(hosted, input_shape, image_size)

    def _require_order(self, names: Sequence[str]) -> None:
        """Says where the network has the classes of the data in another order."""
        own, others = (
            [name.lower() for name in part] for part in (names, self.info.class_names if self.info else ())
        )
        if own != others and sorted(own) == sorted(others):
            self.say(
                f"its classes are those of {self.info.name if self.info else 'the data'} in another order, "
                f"{', '.join(names[:3])} …, so its predictions will be wrong unless it is trained on"
            )


class _Wanted(NamedTuple):
    """What is asked of a network, as ``HubFactory`` has it."""

    shape: tuple[int, int, int]
    num_classes: int
    pretrained: bool
    new_head: bool
    image_size: int | Sequence[int] | None


def settings_of(name: str, revision: str | None = None) -> dict[str, bytes]:
    """What a network is built by, without its weights.

    Args:
        name: ``hub:OWNER/NAME`` or ``hub:./folder``.
        revision: Branch, tag or commit of the repository.

    Returns:
        Name of a file -> its content, in JSON.
    """
    transformers, where = imported("transformers", "hub:", _COMMAND), _where(name, revision)
    with _quiet(transformers):
        config, _ = transformers.PretrainedConfig.get_config_dict(**where)
        files = {"config.json": config, "preprocessor_config.json": _processor(transformers, where)}
    return {file: json.dumps(values, indent=2).encode() for file, values in files.items() if values}


def _from_hub(
    transformers: Any, where: Mapping[str, str], wanted: _Wanted, *, reads: bool
) -> tuple[Hosted, Sequence[str]]:
    """A network, what is to be done to its images, and its class names, where it has any."""
    with _quiet(transformers):
        config = _configuration(transformers, where)
        processor = _processor(transformers, where)
        names = [str(config.id2label[key]) for key in sorted(config.id2label)]
        if wanted.pretrained and wanted.new_head:
            config.num_labels = wanted.num_classes
        if wanted.pretrained and not reads:
            network = _built(transformers, config)
        elif wanted.pretrained:
            network = _pretrained(transformers, config, where, wanted)
        else:
            network = _random(transformers, config, wanted)
    for part in network.modules():  # where it was read from is no part of what it is
        if "name_or_path" in vars(part):
            vars(part)["name_or_path"] = ""
    if _GENERIC in names or wanted.new_head or not wanted.pretrained:
        names = []
    sizes = (_size_of(processor), getattr(config, "image_size", None))
    size = next((as_size(size) for size in sizes if size is not None), None)
    channels = getattr(config, "num_channels", 3)
    normalize = None if processor is None else _normalization(processor, channels)
    if normalize is None and wanted.pretrained and processor is None:
        raise ModelError(
            "it has no preprocessor_config.json, so how its images are to be normalised is not known. Add "
            'it, {"image_mean": […], "image_std": […], "size": …}, or build it in a model file of your own.'
        )
    reverses = bool(processor and processor.get("do_flip_channel_order"))
    return Hosted(Logits(network), channels, size, normalize, reverses), names


def _where(name: str, revision: str | None) -> dict[str, str]:
    """What transformers is asked for, where it exists."""
    place = name.partition(":")[2]
    folder = Path(place).expanduser()
    if place and folder.is_dir():
        return _whole(folder)
    if place.startswith(_HERE) or not _REPOSITORY.fullmatch(place):
        raise ModelError(
            f"there is no folder {folder}; a network of transformers is hub:OWNER/NAME, or hub:./folder with "
            "config.json, model.safetensors and preprocessor_config.json."
        )
    return {"pretrained_model_name_or_path": place, "revision": revision or "main"}


def _whole(folder: Path) -> dict[str, str]:
    return {"pretrained_model_name_or_path": str(folder)}


def _configuration(transformers: Any, where: Mapping[str, str]) -> Any:
    values, _ = transformers.PretrainedConfig.get_config_dict(**where)
    kind = values.get("model_type")
    if kind not in transformers.CONFIG_MAPPING:
        reason = (
            "its code lies in the repository, which is not run" if "auto_map" in values else "it names none"
        )
        raise ModelError(
            f"transformers {transformers.__version__} has no model {kind!r}, and {reason}. Build it in a "
            "file of your own: --model.name=path/to/file.py:function."
        )
    config = transformers.AutoConfig.from_pretrained(**where, trust_remote_code=False)
    if type(config) not in transformers.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING:
        raise ModelError(
            f"{kind!r} is no image classifier of transformers (AutoModelForImageClassification)."
        )
    return config


def _processor(transformers: Any, where: Mapping[str, str]) -> Mapping[str, Any] | None:
    """What stands in ``preprocessor_config.json``; None where there is none."""
    try:
        values, _ = transformers.ImageProcessingMixin.get_image_processor_dict(**where)
    except OSError:
        return None
    result: Mapping[str, Any] = values
    return result


def _pretrained(transformers: Any, config: Any, where: Mapping[str, str], wanted: _Wanted) -> nn.Module:
    require_head(config.num_labels, wanted.num_classes)
    network, report = transformers.AutoModelForImageClassification.from_pretrained(
        **where,
        config=config,
        dtype=torch.float32,
        trust_remote_code=False,
        ignore_mismatched_sizes=wanted.new_head,
        output_loading_info=True,
    )
    fresh = sorted({*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])})
    inner = [name for name in fresh if name.startswith(f"{network.base_model_prefix}.")]
    if inner or (fresh and not wanted.new_head):
        remedy = (
            "Take whole weights."
            if inner
            else "--model.options={new_head: true} makes a head of random weights."
        )
        raise ModelError(f"its weights have no {', '.join((inner or fresh)[:3])}. {remedy}")
    if wanted.new_head and not fresh:
        raise ModelError(
            f"its head is for {wanted.num_classes} classes, as the data are, and trained; leave new_head out."
        )
    result = _built(transformers, config)  # has no marks of having been read, by which a run would differ
    result.load_state_dict(network.state_dict())
    return result


def _built(transformers: Any, config: Any) -> nn.Module:
    """A network of random weights."""
    network: nn.Module = transformers.AutoModelForImageClassification.from_config(
        config, dtype=torch.float32, trust_remote_code=False
    )
    return network


def _random(transformers: Any, config: Any, wanted: _Wanted) -> nn.Module:
    if wanted.new_head:
        raise ModelError(
            "with pretrained: false all weights are random, those of the head too; leave new_head out."
        )
    config.num_labels = wanted.num_classes
    if hasattr(config, "num_channels"):
        config.num_channels = wanted.shape[0]
    if wanted.image_size is not None and hasattr(config, "image_size"):
        height, width = as_size(wanted.image_size)
        config.image_size = height if height == width else [height, width]
    return _built(transformers, config)


def _size_of(processor: Mapping[str, Any] | None) -> int | Sequence[int] | None:
    """What a processor makes of an image's size: that of its crop, or what it resizes to."""
    if processor is None:
        return None
    size = processor.get("crop_size" if processor.get("do_center_crop") else "size")
    if not isinstance(size, Mapping):
        return size
    return size["shortest_edge"] if "shortest_edge" in size else (size["height"], size["width"])


def _normalization(
    processor: Mapping[str, Any], channels: int
) -> tuple[()] | tuple[list[float], list[float]]:
    """Mean and deviation of images in [0, 1], from those of a processor; an empty tuple for 0 and 1.

    A processor takes levels of 0 to 255, scales them, sometimes moves them by -1, and then normalises.
    """
    scale, offset = float(_LEVELS), 0.0
    if processor.get("do_rescale", True):
        scale = float(_LEVELS * processor.get("rescale_factor", 1 / _LEVELS))
        offset = float(bool(processor.get("rescale_offset", False)))
    # A processor of transformers that does not say that it normalises does not; a file without one may.
    is_on = processor.get("do_normalize", "image_processor_type" not in processor)
    mean, std = ((processor.get(key) if is_on else None) for key in ("image_mean", "image_std"))
    means, stds = ([0.0] * channels if mean is None else mean), ([1.0] * channels if std is None else std)
    moved = (
        [round((value + offset) / scale, 9) for value in means],
        [round(value / scale, 9) for value in stds],
    )
    return () if set(moved[0]) == {0.0} and set(moved[1]) == {1.0} else moved


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Keeps bars and reports of loading from users, who get one clear error."""
    said = transformers.utils.logging
    level, shows = said.get_verbosity(), said.is_progress_bar_enabled()
    said.set_verbosity_error()
    said.disable_progress_bar()
    try:
        yield
    finally:
        said.set_verbosity(level)
        if shows:
            said.enable_progress_bar()
