"""``check``: tries everything on a model and two images, and says what works, at what cost, and what next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from withstand.core.contract import contract_of, outside_inference_mode, require_module
from withstand.core.dataset_info import DatasetInfo
from withstand.core.numerics import numerics, without_autocast
from withstand.core.wrappers import unwrapped
from withstand.data import Dataset, few
from withstand.evaluation.model_report.advising import Advised, advised
from withstand.evaluation.model_report.answers_of_model import (
    Scores,
    layer_bounds,
    lipschitz_of,
    look_at_answers,
    problem_of,
    remarks_on,
    scores_of,
)
from withstand.evaluation.model_report.bench import Bench, held_still
from withstand.evaluation.model_report.first_layer import find_normalization
from withstand.evaluation.model_report.model_report import ModelReport
from withstand.evaluation.model_report.trials import try_families, try_meters
from withstand.evaluation.run import device_of_model
from withstand.graph.program_cache import sharing_programs
from withstand.types import DataError, ModelError

_NUM_IMAGES = 64
_NUM_RANDOM = 8
_NUM_DATA = 1000  # of a Bayesian objective, where there are no data


@outside_inference_mode()
@without_autocast()
def check(
    model: nn.Module,
    data: Dataset | DatasetInfo | Sequence[int],
    *,
    name: str | None = None,
    options: Sequence[str] = (),
) -> ModelReport:
    """Says what a model is, what can be done with it, what that costs, and how to go on.

    All is found out by trying it on two images: a step of each family of training, each kind of measurement.
    The model stays as it was. A small net takes some seconds, a ResNet-18 on 32 x 32 images some fifteen.

    Args:
        model: Any module that takes such images.
        data: A data set, of which test images are taken; or what is known of one, or the shape of an image,
            of which random ones are taken.
        name: How commands name the model, for those that the report recommends; lines of Python without.
        options: What these commands must have beside it, such as ``--data.name=mnist``.

    Returns:
        A report, which prints as a table. Where nothing can be done with the model its ``problem`` says why.

    Raises:
        ModelError: it is no module, or has weights without a shape.
        DataError: the shape is none, or the data set has no images.
    """
    require_module(model)
    bench, source, num_train = _bench_of(model, data)
    with numerics("fp32"), sharing_programs():
        with held_still(model):
            problem = problem_of(bench)
            report = _first_look(bench, source, problem)
            if problem is not None:
                return report
            report = look_at_answers(report, bench)
            report = replace(report, normalization=find_normalization(model, bench.images))
            scores = scores_of(bench, report) if isinstance(data, Dataset) else Scores()
        training, size = try_families(bench)
        measuring = try_meters(bench)
        with held_still(model):
            report = replace(
                report,
                accuracy=scores.as_given,
                num_scored=scores.number,
                training=training,
                measuring=measuring,
                batch_size=size,
                lipschitz=lipschitz_of(bench),
                remarks=remarks_on(report, bench, scores),
            )
    return replace(report, advice=advised(report, Advised(num_train, name, options)))


def _bench_of(model: nn.Module, data: Dataset | DatasetInfo | Sequence[int]) -> tuple[Bench, str, int | None]:
    """What to try things on, what its images are in words, and how many there are to train on."""
    device = device_of_model(model)
    if isinstance(data, Dataset):
        split = data.test if len(data.test) else data.train
        if not len(split):
            raise DataError(f"{data.info.name} has no images to try the model on.")
        images, labels = few(split, _NUM_IMAGES)
        name = "test" if split is data.test else "training"
        source = f"{len(images)} {name} images"
        return (
            Bench(model, data.info, images.to(device), labels.to(device), len(data.train)),
            source,
            len(data.train),
        )
    info = data if isinstance(data, DatasetInfo) else _info_of(model, data)
    images = torch.rand(_NUM_RANDOM, *info.shape, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(_NUM_RANDOM) % info.num_classes
    bench = Bench(model, info, images.to(device), labels.to(device), _NUM_DATA)
    return bench, "random pixels", None


def _info_of(model: nn.Module, shape: Sequence[int]) -> DatasetInfo:
    """Of images of that shape, in as many classes as the model has."""
    sizes: Any = tuple(shape)
    if isinstance(shape, str) or not sizes or not all(isinstance(size, int) and size > 0 for size in sizes):
        raise DataError(
            f"Expected a data set or the shape of one image, such as (3, 32, 32), but got {shape!r}."
        )
    images = torch.rand(2, *sizes, device=device_of_model(model))
    try:
        with held_still(model):
            classes = contract_of(model, images).num_classes
    except ModelError:
        classes = 2  # any: what fails is said where it is tried
    zeros, ones = [0.0] * sizes[0], [1.0] * sizes[0]
    return DatasetInfo(
        f"images {' x '.join(map(str, sizes))}", sizes, [str(k) for k in range(classes)], zeros, ones
    )


def _first_look(bench: Bench, source: str, problem: str | None) -> ModelReport:
    """What shows without running the model."""
    model, parameters = bench.model, list(bench.model.parameters())
    modules = list(model.modules())
    sizes = {
        trained: sum(p.numel() for p in parameters if p.requires_grad is trained) for trained in (True, False)
    }
    state = next(chain(parameters, model.buffers()), bench.images)
    modes = {module.training for module in modules}
    return ModelReport(
        model=type(unwrapped(model)).__name__,
        data=bench.info.name,
        problem=problem,
        shape=tuple(bench.info.shape),
        pixels=(bench.images.min().item(), bench.images.max().item()),
        source=source,
        trainable=sizes[True],
        frozen=sizes[False],
        dtype=str(state.dtype).removeprefix("torch."),
        device=str(state.device),
        mode="mixed" if len(modes) > 1 else "train" if modes.pop() else "eval",
        batch_norms=sum(isinstance(module, _BatchNorm) for module in modules),
        dropouts=sum(isinstance(module, _DropoutNd) for module in modules),
        layers=layer_bounds(bench),
    )
