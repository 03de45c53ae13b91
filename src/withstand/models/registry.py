"""Models by name: ``create("cnn-4c3f", dataset="mnist")``.

A user's own model is a function in a file or in an importable module.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import contextmanager
from difflib import get_close_matches
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, TypeAlias

from torch import nn

from withstand.core.dataset_info import KNOWN_DATASETS, DatasetInfo
from withstand.core.made import Made, remember
from withstand.core.named_values import LIBRARIES
from withstand.core.suggest import nearest
from withstand.models import sequences
from withstand.models.blocks import Shape
from withstand.models.layers import Normalize
from withstand.types import ModelError


def load_factory(name: str) -> Callable[..., Any]:
    """Finds what ``path/to/file.py:function`` or ``package.module:function`` names.

    A file may import its neighbours while it is loaded; its folder does not stay on the path.

    Args:
        name: Where the function is, a colon, and its name.

    Raises:
        ModelError: the file, module or function does not exist, fails to load, or cannot be called.
    """
    place, _, function = name.rpartition(":")
    module = _from_file(Path(place).expanduser()) if place.endswith(".py") else _from_path(place)
    return function_of(module, place, function)


def function_of(module: ModuleType, place: str, function: str) -> Callable[..., Any]:
    """A function of a module that was loaded.

    Args:
        module: It.
        place: What the person calls it.
        function: The name.

    Raises:
        ModelError: there is none.
    """
    members: dict[str, Callable[..., Any]] = {
        key: value for key, value in vars(module).items() if callable(value)
    }
    if function not in members:
        # A large package may have hundreds, so only the closest are shown.
        closest = get_close_matches(function, members, n=5, cutoff=0.0) or ["none"]
        raise ModelError(f"{place} has no function {function!r}; the nearest are: {', '.join(closest)}.")
    return members[function]


def _from_path(place: str) -> ModuleType:
    with loading(place):
        return importlib.import_module(place)


def _from_file(file: Path) -> ModuleType:
    if not file.is_file():
        raise ModelError(
            f"There is no file {file}; give the path of the Python file that makes the model, whole or "
            f"from the current folder, {Path.cwd()}."
        )
    spec = importlib.util.spec_from_file_location(module_name(file), file)
    if spec is None or spec.loader is None:
        raise ModelError(f"{file} cannot be loaded as a Python file.")
    module = importlib.util.module_from_spec(spec)
    with loading(str(file)), _on_path(file.resolve().parent), registered(module):
        spec.loader.exec_module(module)
    return module


def module_name(file: Path) -> str:
    """What the module of a file is called: dataclasses and pickles look it up, so it needs its own."""
    return f"withstand_user_{file.stem}_{sha256(str(file.resolve()).encode()).hexdigest()[:8]}"


@contextmanager
def loading(place: str) -> Iterator[None]:
    """Says of code that fails while it is loaded what it is.

    Raises:
        ModelError: it fails.
    """
    try:
        yield
    except (Exception, SystemExit) as error:
        raise ModelError(
            f"{place} could not be loaded, {type(error).__name__}: {' '.join(str(error).split())}. "
            "A model is named path/to/file.py:function or package.module:function."
        ) from error


@contextmanager
def _on_path(folder: Path) -> Iterator[None]:
    """Meanwhile imports find what lies in a folder, also where another file of the person has that name."""
    files = [*folder.glob("*.py"), *(file.parent for file in folder.glob("*/__init__.py"))]
    own = {file.stem for file in files}
    others = {name: sys.modules.pop(name) for name in list(sys.modules) if _is_elsewhere(name, own, folder)}
    before = list(sys.path)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path[:] = before
        sys.modules.update(others)


def _is_elsewhere(name: str, own: Set[str], folder: Path) -> bool:
    """Whether a module that was imported has the name of a file in a folder, but is of another folder."""
    top = name.partition(".")[0]
    file = str(getattr(sys.modules[name], "__file__", None) or "")
    is_of_library = top in sys.stdlib_module_names or not file or file.startswith(LIBRARIES)
    return top in own and not is_of_library and not Path(file).is_relative_to(folder)


@contextmanager
def registered(module: ModuleType) -> Iterator[None]:
    """Lets a module be found by its name, unless it fails to load."""
    sys.modules[module.__name__] = module
    try:
        yield
    except BaseException:
        del sys.modules[module.__name__]
        raise


Factory: TypeAlias = Callable[..., Any]

_BUILDERS: Mapping[str, Factory] = MappingProxyType(
    {
        "mlp": sequences.mlp,
        "lenet": sequences.lenet,
        "cnn-small": sequences.cnn_small,
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
    }
)

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
    """Builds a network that maps images (batch, channels, height, width) in [0, 1] to logits.

    ``torch.manual_seed`` fixes its weights. A user's own network is named by its factory,
    ``path/to/file.py:function`` or ``package.module:function``; the factory is called with the
    options, and with ``input_shape`` and ``num_classes`` where its signature names them.

    Args:
        name: One of ``MODEL_NAMES``, or a factory.
        dataset: A known data set's name, or what is to be known of another. It gives the shape,
            the classes, and mean and deviation to normalise by.
        input_shape: (channels, height, width); instead of, or other than, the data set's.
        num_classes: Logits per image; instead of, or other than, the data set's.
        normalize: Whether the first layer normalises by the data set's mean and deviation.
            Without a data set there is nothing to normalise by, and no such layer.
        **options: Of the network, such as ``batch_norm=True``.

    Returns:
        (batch, classes) logits of (batch, channels, height, width) images. With normalisation,
        a sequence of ``normalize`` and ``network``.

    Raises:
        ModelError: the name, the data set or an option does not exist; shape or classes are
            not known; the images are too small for the network; or a user's factory fails.
    """
    info = _known(dataset) if isinstance(dataset, str) else dataset
    shape, classes = _task(info, input_shape, num_classes)
    factory = load_factory(name) if ":" in name else _builder(name)
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
    if made.info is not None:
        network = nn.Sequential(
            OrderedDict(normalize=_normalize(made.info, made.input_shape), network=network)
        )
    return remember(network, made)


def _from_anywhere(name: str) -> str:
    """The name of a model with the whole path of its file, where it is of one."""
    place, _, function = name.rpartition(":")
    return f"{Path(place).expanduser().resolve()}:{function}" if place.endswith(".py") else name


def _known(dataset: str) -> DatasetInfo:
    if dataset not in KNOWN_DATASETS:
        raise ModelError(f"There is no data set {dataset!r}; {nearest(dataset, KNOWN_DATASETS)}")
    return KNOWN_DATASETS[dataset]


def _builder(name: str) -> Factory:
    if name not in _BUILDERS:
        raise ModelError(
            f"There is no model {name!r}; {nearest(name, _BUILDERS)} "
            "A model of your own is path/to/file.py:function or package.module:function."
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
    if len(shape) != 3 or min(shape) < 1:
        raise ModelError(f"input_shape must be positive (channels, height, width), but got {shape}.")
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
