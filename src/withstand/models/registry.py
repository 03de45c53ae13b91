"""Models by name: ``create("cnn-4c3f", dataset="mnist")``.

A user's own model is a function in a file or in an importable module.
"""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

from torch import nn

from withstand.core.dataset_info import KNOWN_DATASETS, DatasetInfo, form_of
from withstand.core.made import Made, remember
from withstand.core.suggest import nearest
from withstand.core.user_code import load_function
from withstand.models import sequences
from withstand.models.blocks import Shape
from withstand.models.hosted import is_hosted, is_onnx
from withstand.models.hub import HubFactory
from withstand.models.layers import Normalize
from withstand.models.liresnet import liresnet
from withstand.models.onnx import OnnxFactory, OnnxNetwork
from withstand.models.timm import TimmFactory
from withstand.types import ModelError


def load_factory(name: str) -> Callable[..., Any]:
    """Finds what ``path/to/file.py:function`` or ``package.module:function`` names.

    Raises:
        ModelError: the file, module or function does not exist, fails to load, or cannot be called.
    """
    return load_function(name, "model", ModelError)


Factory: TypeAlias = Callable[..., Any]

_BUILDERS: Mapping[str, Factory] = MappingProxyType(
    {
        "mlp": sequences.mlp,
        "lenet": sequences.lenet,
        "cnn-small": sequences.cnn_small,
        "cnn-medium": sequences.cnn_medium,
        "cnn-3c2f": sequences.cnn_3c2f,
        "cnn-4c3f": sequences.cnn_4c3f,
        "cnn-6c2f": sequences.cnn_6c2f,
        "cnn-8c2f": sequences.cnn_8c2f,
        "cnn-large-epsilon": sequences.cnn_large_epsilon,
        "alexnet": sequences.alexnet,
        "vgg5-stable": sequences.vgg5_stable,
        "vgg11": sequences.vgg11,
        "vgg16": sequences.vgg16,
        "resnet18": sequences.resnet18,
        "resnet50": sequences.resnet50,
        "liresnet": liresnet,
    }
)

_HOSTS: Mapping[str, Callable[[str, DatasetInfo | None, bool], Factory]] = MappingProxyType(
    {"hub": HubFactory, "timm": TimmFactory}
)
_OF_ANY_SHAPE = "mlp"

MODEL_NAMES: tuple[str, ...] = tuple(_BUILDERS)
"""The names that ``create`` knows."""

# What tells a model its task; the rest of a factory's arguments are the user's options.
_TASK = ("input_shape", "num_classes")


def create(
    name: str,
    *,
    dataset: str | DatasetInfo | None = None,
    input_shape: Shape | None = None,
    num_classes: int | None = None,
    normalize: bool = True,
    **options: Any,
) -> nn.Module:
    """Builds a network that maps images (batch, channels, height, width), or other data, in [0, 1] to logits.

    ``mlp`` takes examples of every shape: vectors (features,), series (channels, length), volumes. The other
    networks of the package are for images.

    ``torch.manual_seed`` fixes its weights. A user's own network is named by its factory,
    ``path/to/file.py:function`` or ``package.module:function``; the factory is called with the
    options, and with ``input_shape`` and ``num_classes`` where its signature names them. An image
    classifier of Hugging Face transformers is ``hub:OWNER/NAME`` or ``hub:./folder``, a network of
    timm ``timm:NAME``; their own normalisation, and where it must be a layer that resizes, goes in
    front (``models.hosted``). The path of an ONNX file ends in ``.onnx``; the file says itself what it takes
    and gives, and nothing is put in front (``models.onnx``).

    Args:
        name: One of ``MODEL_NAMES``, a factory, or a network that others keep.
        dataset: A known data set's name, or what is to be known of another. It gives the shape,
            the classes, and mean and deviation to normalise by.
        input_shape: Of one example, such as (channels, height, width); instead of, or other than, the data
            set's.
        num_classes: Logits per image; instead of, or other than, the data set's.
        normalize: Whether the first layer normalises by the data set's mean and deviation.
            Without a data set there is nothing to normalise by, and no such layer.
        **options: Of the network, such as ``batch_norm=True``.

    Returns:
        (batch, classes) logits of images (batch, channels, height, width), or of what the shape says. With
        normalisation, a sequence of ``normalize`` and ``network``.

    Raises:
        ModelError: the name, the data set or an option does not exist; shape or classes are
            not known; the images are too small for the network; or a user's factory fails.
    """
    info = _known(dataset) if isinstance(dataset, str) else dataset
    if is_onnx(name):
        return _of_file(_from_anywhere(name), info, input_shape, num_classes, options)
    shape, classes = _task(info, input_shape, num_classes)
    factory = _factory(name, info, shape, normalize=normalize)
    made = Made(_from_anywhere(name), shape, classes, info if normalize else None, options)
    return assemble(factory, made)


def assemble(factory: Factory, made: Made) -> nn.Module:
    """A network by its factory, with normalisation in front where that is asked for.

    Args:
        factory: Of the network.
        made: How it is made, which it remembers.

    Raises:
        ModelError: the factory fails.
    """
    task = {"input_shape": made.input_shape, "num_classes": made.num_classes}
    network = _built(made.name, factory, task, made.options)
    if made.info is not None and not is_hosted(made.name):  # which has its own in front
        if made.name in _BUILDERS and made.options.get("stretch") is not None:
            raise ModelError(
                "option 'stretch' names pixels in [0, 1], but normalisation would move them before they are "
                "stretched; set normalize=False (--model.normalize=false)."
            )
        network = nn.Sequential(
            OrderedDict(normalize=_normalize(made.info, made.input_shape), network=network)
        )
    return remember(network, made)


def _of_file(
    name: str,
    info: DatasetInfo | None,
    input_shape: Shape | None,
    num_classes: int | None,
    options: Mapping[str, Any],
) -> nn.Module:
    """The network of an ONNX file, for the data where these are known."""
    shape = info.shape if input_shape is None and info else input_shape
    classes = info.num_classes if num_classes is None and info else num_classes
    factory = OnnxFactory(Path(name).name, info, normalize=True, file=Path(name))
    network = _built(name, factory, {"input_shape": shape, "num_classes": classes}, options)
    (own,) = (module for module in network.modules() if isinstance(module, OnnxNetwork))
    made = Made(name, own.input_shape, classes or max(2, own.num_outputs), None, options)
    return remember(network, made)


def _from_anywhere(name: str) -> str:
    """The name of a model with the whole path of its file or folder, where it is of one."""
    place, _, last = name.rpartition(":")
    if is_onnx(name):
        return str(Path(name).expanduser().resolve())
    if place == "hub" and last.startswith((".", "~")):
        return f"{place}:{Path(last).expanduser().resolve()}"
    return f"{Path(place).expanduser().resolve()}:{last}" if place.endswith(".py") else name


def _known(dataset: str) -> DatasetInfo:
    if dataset not in KNOWN_DATASETS:
        raise ModelError(f"There is no data set {dataset!r}; {nearest(dataset, KNOWN_DATASETS)}")
    return KNOWN_DATASETS[dataset]


def _factory(name: str, info: DatasetInfo | None, shape: Shape, *, normalize: bool) -> Factory:
    if is_hosted(name):
        return _HOSTS[name.partition(":")[0]](name, info, normalize)
    return load_factory(name) if ":" in name else _builder(name, shape)


def _builder(name: str, shape: Shape) -> Factory:
    if name not in _BUILDERS:
        raise ModelError(
            f"There is no model {name!r}; {nearest(name, _BUILDERS)} "
            "A model of your own is path/to/file.py:function or package.module:function, one of Hugging Face "
            "hub:OWNER/NAME, one in a file net.onnx."
        )
    if len(shape) != 3 and name != _OF_ANY_SHAPE:
        raise ModelError(
            f"Model {name!r} takes images (channels, height, width), but the data are {form_of(shape)}. Take "
            f"{_OF_ANY_SHAPE!r}, which takes every shape, or a network of your own, path/to/file.py:function."
        )
    return _BUILDERS[name]


def _task(info: DatasetInfo | None, input_shape: Shape | None, num_classes: int | None) -> tuple[Shape, int]:
    shape = info.shape if input_shape is None and info else input_shape
    classes = info.num_classes if num_classes is None and info else num_classes
    if shape is None or classes is None:
        raise ModelError(
            "A model needs a data set, or both input_shape and num_classes, "
            f"but got input_shape {input_shape} and num_classes {num_classes}."
        )
    if not shape or min(shape) < 1:
        raise ModelError(
            "input_shape must be positive, such as (features,) or (channels, height, width), but got "
            f"{tuple(shape)}."
        )
    if classes < 2:
        raise ModelError(f"A classifier needs at least 2 classes, but got num_classes {classes}.")
    return shape, classes


def _built(name: str, factory: Factory, task: Mapping[str, Any], options: Mapping[str, Any]) -> nn.Module:
    parameters = _parameters(factory)
    _require_options(name, parameters, options)
    arguments = {key: value for key, value in task.items() if key in parameters}
    try:
        network = factory(**arguments, **options)
    except (Exception, SystemExit) as error:
        shown = f" with options {dict(options)}" if options else ""
        said = " ".join(str(error).partition("Exception raised from")[0].split())  # there torch lists its C++
        reason = f"it ended by sys.exit({said})" if isinstance(error, SystemExit) else said
        if isinstance(error, TypeError) and "required" in said:
            reason += ". Give it what it needs by --model.options={KEY: VALUE}, or give that a default."
        raise ModelError(f"Model {name!r} could not be built{shown}: {reason}") from error
    if not isinstance(network, nn.Module):
        raise ModelError(
            f"Model {name!r} must be made as a torch.nn.Module, but its factory returned "
            f"{network!r}; return the network itself."
        )
    return network


def _parameters(factory: Factory) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(factory).parameters
    except ValueError:  # some callables written in C do not tell theirs
        return {"options": inspect.Parameter("options", inspect.Parameter.VAR_KEYWORD)}


def _require_options(
    name: str, parameters: Mapping[str, inspect.Parameter], options: Mapping[str, Any]
) -> None:
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    known = [key for key in parameters if key not in _TASK]
    for option in options:
        if option not in known:
            raise ModelError(f"Model {name!r} has no option {option!r}; {nearest(option, known)}")


def _normalize(info: DatasetInfo, shape: Shape) -> Normalize:
    if len(info.mean) != shape[0]:
        raise ModelError(
            f"Data set {info.name!r} has mean and deviation for {len(info.mean)} channels, but "
            f"the model takes {shape[0]}; set normalize=False or fit input_shape {shape} to the data."
        )
    return Normalize(info.mean, info.std)
