"""Trained networks as files that other tools read: ONNX, compared with the network before it is there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import override

from withstand._version import __version__
from withstand.core.answers import predicted
from withstand.core.contract import adapted
from withstand.core.dataset_info import DatasetInfo
from withstand.core.folder_path import as_folder_path
from withstand.core.modes import eval_mode
from withstand.core.run_folder import RunFolder, replaced
from withstand.data import Dataset, as_dataset, few
from withstand.graph.onnx_graph import INPUT, OUTPUT, onnx_bytes
from withstand.recipes.schema import Recipe
from withstand.runs.loading import data_or_info, load_run_model, weights_file
from withstand.runs.run_parts import open_run
from withstand.runs.sharing import run_folder
from withstand.training.run_record import digest
from withstand.types import DataError, ModelError, RunFolderError

_SUFFIX = ".onnx"
_MARK = "withstand_version"  # in the metadata of each file
_COMPARED = 200  # images
_BATCH = 50
_SAME = 1e-4  # of the size of the logits: what single precision may round in a deep network


@dataclass(frozen=True)
class Network:
    """A network that is to be written.

    Attributes:
        model: Maps images in [0, 1] to logits.
        data: What it is for.
        about: Where it comes from, for the file's ``metadata_props``.
    """

    model: nn.Module
    data: Dataset | DatasetInfo
    about: Mapping[str, str] = field(default_factory=dict)

    @property
    def info(self) -> DatasetInfo:
        """What is known of the data."""
        return self.data.info if isinstance(self.data, Dataset) else self.data


@dataclass(frozen=True)
class Exported:
    """An ONNX file, and how what onnxruntime makes of it compares with the network.

    Attributes:
        path: The file.
        num_images: How many images were compared.
        images: What they are: ``test images of mnist``.
        largest_difference: Of any logit, absolute.
        same_answers: On how many of the images both answer the same class.
    """

    path: Path
    num_images: int
    images: str
    largest_difference: float
    same_answers: int

    @override
    def __str__(self) -> str:
        same = "all" if self.same_answers == self.num_images else f"{self.same_answers} of"
        return (
            f"{self.path}: the same answers on {same} {self.num_images} {self.images}, logits differ by at "
            f"most {self.largest_difference:.1e}"
        )


def export(source: str | Path | nn.Module, out: str | Path, *, dataset: Any = None) -> Exported:
    """Writes a trained network as ONNX, for onnxruntime, verifiers and whatever else reads that.

    The file's input ``input`` is a batch of any size in the units of this package, images in [0, 1]:
    normalisation is inside. Its output is ``logits`` (batch, classes). BatchNorm, and weights that are
    computed of others, are as in eval mode. ``metadata_props`` say so, with class names, data and origin.
    onnxruntime must give what the network gives, on test images where they are here; else nothing is
    written.

    Args:
        source: A run folder, or the name of one below ``runs/``; or a network.
        out: The file to write, ending in ``.onnx``. One that this function wrote is replaced.
        dataset: What a network is for: a ``DatasetInfo``, or whatever ``ws.data.as_dataset`` takes. Of a run
            its own where None.

    Returns:
        The file, and how it compares.

    Raises:
        ModelError: the network has operators that ONNX has not or random weights, or the file computes
            something else; or what reads and writes ONNX is not installed.
        RunFolderError: there is no run, or the file is there and another's, or cannot be written.
        DataError: a network comes without ``dataset``.
    """
    return write_onnx(network_of(source, dataset), out)


def network_of(source: str | Path | nn.Module, dataset: Any = None) -> Network:
    """What ``export`` is given as one thing.

    Args:
        source: A run folder, or a network.
        dataset: What it is for.

    Raises:
        WithstandError: as ``export``.
    """
    data = dataset if isinstance(dataset, DatasetInfo | None) else as_dataset(dataset)
    if isinstance(source, nn.Module):
        if data is None:
            raise DataError(
                'Say what the network is for, by which its inputs are known: dataset="mnist", a DatasetInfo, '
                "or data of yours."
            )
        return Network(source, data)
    run, parsed = open_run(run_folder(str(source)) or Path(source))
    return network_of_run(run, parsed.recipe, data)


def network_of_run(run: RunFolder, recipe: Recipe, data: Dataset | DatasetInfo | None = None) -> Network:
    """The trained network of a run, with what is known of it.

    Args:
        run: The run folder.
        recipe: Its recipe.
        data: What to compare on; where None its own, or random pixels where those are not here, which is
            logged.

    Raises:
        WithstandError: as ``loading.load_run_model``.
    """
    about = {"run": run.path.resolve().name, "weights_sha256": digest(weights_file(run, recipe).read_bytes())}
    model = load_run_model(run, recipe)
    return Network(model, data_or_info(recipe, run) if data is None else data, about)


def write_onnx(network: Network, out: str | Path) -> Exported:
    """Writes a network as ONNX, once onnxruntime gives what the network gives.

    Args:
        network: What to write.
        out: The file.

    Raises:
        WithstandError: as ``export``.
    """
    target = _target(out)
    images, kind = _images(network.data)
    expected = logits_of(network.model, images)
    content = onnx_bytes(network.model, network.info.shape, _metadata(network))
    given = _as_onnxruntime(content, images)
    exported = Exported(
        target,
        len(images),
        kind,
        _difference(given, expected, type(network.model).__name__),
        int((predicted(given) == predicted(expected)).sum()),
    )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunFolderError(f"Cannot make the folder {target.parent}: {error.strerror}.") from error
    with replaced(target) as temporary:
        temporary.write_bytes(content)
    return exported


def _target(out: str | Path) -> Path:
    """The file to write, where it may be written."""
    target = as_folder_path(out)
    if target.suffix != _SUFFIX or target.is_dir():
        raise RunFolderError(f"Name a file that ends in {_SUFFIX} to write the network to, not {target}.")
    if target.is_file() and _MARK.encode() not in target.read_bytes():
        raise RunFolderError(
            f"{target} was not written by this package and would be replaced. Name another file."
        )
    return target


def _metadata(network: Network) -> dict[str, str]:
    info = network.info
    about = {
        _MARK: __version__,
        **network.about,
        "dataset": info.name,
        "class_names": json.dumps(list(info.class_names)),
        "input": f"{info.form} in [0, 1], a batch of them; what the network normalises by is inside",
    }
    if info.input_range is not None:
        about["input_range"] = json.dumps(info.input_range)
        about["input"] += "; 0 and 1 stand for the ends of input_range, in the units of the data"
    return about


def _images(data: Dataset | DatasetInfo) -> tuple[Tensor, str]:
    """On what to compare, and what that is."""
    if isinstance(data, Dataset) and len(data.test):
        return few(data.test, _COMPARED).images.cpu(), f"test images of {data.info.name}"
    shape = data.info.shape if isinstance(data, Dataset) else data.shape
    return torch.rand(_COMPARED, *shape, generator=torch.Generator().manual_seed(0)), "random images"


def logits_of(model: nn.Module, images: Tensor) -> Tensor:
    """What a network gives in eval mode, on the device that it is on.

    Args:
        model: Maps images in [0, 1] to logits.
        images: Float32 tensor (batch, …) on the CPU.

    Returns:
        (batch, classes), on the CPU.
    """
    device = next((weight.device for weight in model.parameters()), torch.device("cpu"))
    network = adapted(model, images[:2].to(device))
    with torch.no_grad(), eval_mode(network):
        return torch.cat([network(part.to(device)).cpu() for part in _parts(images)])


def _as_onnxruntime(content: bytes, images: Tensor) -> Tensor:
    """What onnxruntime gives of an ONNX file.

    Raises:
        ModelError: it cannot read the file, or is not installed.
    """
    try:
        import onnxruntime  # here, since it is an extra
    except ImportError as error:
        raise ModelError("Comparing ONNX needs onnxruntime: pip install 'withstand[onnx]'.") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what it would say of faults it raises
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        precision = {"tensor(float16)": np.float16, "tensor(double)": np.float64}.get(
            session.get_inputs()[0].type, np.float32
        )
        outputs = [
            session.run([OUTPUT], {INPUT: part.numpy().astype(precision)})[0] for part in _parts(images)
        ]
    except Exception as error:  # of its own, which have no public class
        first = str(error).splitlines()[0]
        raise ModelError(
            f"onnxruntime {onnxruntime.__version__} does not take the network as ONNX, so it is not written: "
            f"{first}"
        ) from error
    return torch.cat([torch.from_numpy(output) for output in outputs])


def _parts(images: Tensor) -> tuple[Tensor, ...]:
    """The first image alone, and the others in batches: a file that holds for one size alone fails on one."""
    return (images[:1], *torch.split(images[1:], _BATCH))


def _difference(given: Tensor, expected: Tensor, name: str) -> float:
    """The largest difference of a logit.

    Raises:
        ModelError: it is more than precision explains.
    """
    if given.shape == expected.shape and given.isnan().equal(expected.isnan()):
        unequal = (given - expected).abs().where(given != expected, 0).nan_to_num(nan=0, posinf=torch.inf)
        size = expected.abs().where(expected.isfinite(), 0).amax()
        largest = float(unequal.amax())
        if largest <= _SAME * (1 + float(size)):
            return largest
        about = f"logits of up to {float(size):.3g} differ by {largest:.2g}"
    else:
        about = "NaN, or another number of logits, on one side alone"
    raise ModelError(
        f"The network {name} as ONNX does not give what it gives itself in eval mode ({about}), so it is not "
        "written. A network in half precision is compared after model.float()."
    )
