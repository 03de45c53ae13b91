"""What a model answers: whether it can be used, in which form, how fast, how correctly; what bounds it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, product
from statistics import median

import torch
from torch import Tensor

from withstand import bayes
from withstand.core.answers import predicted
from withstand.core.contract import adapted, contract_of, try_out
from withstand.core.modes import eval_mode
from withstand.core.outputs import has_others
from withstand.core.wrappers import unwrapped
from withstand.evaluation.model_report.bench import NORMS, Bench, seconds
from withstand.evaluation.model_report.first_layer import is_for_bytes
from withstand.evaluation.model_report.model_report import ModelReport
from withstand.evaluation.model_report.report_parts import LayerBound, LipschitzBound
from withstand.models import check
from withstand.operators import LinearOperator, Shape, places
from withstand.types import ModelError

_SIDES = (28, 32, 64, 96, 128, 224, 256, 299)
_SAME = 1e-3  # of the largest logit: what the order of additions may change
_TWO, _TIMED, _BATCH = 2, 3, 8
_SECONDS_OF_SCORING = 1.0
_GOOD, _BETTER = 0.8, 0.2  # shares of correct answers


@dataclass(frozen=True)
class Scores:
    """How correct answers to test images are.

    Attributes:
        as_given: Share of those that are correct.
        number: Of images.
        otherwise: In another range, if they are far better there: how they were made -> share.
    """

    as_given: float | None = None
    number: int = 0
    otherwise: Mapping[str, float] = field(default_factory=dict)


def problem_of(bench: Bench) -> str | None:
    """Why nothing can be done with the model, and the remedy; None where something can."""
    try:
        check(bench.model, bench.info)
    except ModelError as error:
        return f"{error}{_fitting_shape(bench)}" if "fails on images" in str(error) else str(error)
    except (Exception, SystemExit) as error:
        return f"It fails: {type(error).__name__}: {' '.join(str(error).split())}"
    return None


def _fitting_shape(bench: Bench) -> str:
    """Images of another usual shape that the model takes, in words."""
    shape = tuple(bench.images.shape[1:])
    if len(shape) != 3:
        return ""
    sides = [shape[1:], *((side, side) for side in _SIDES)]
    channels = dict.fromkeys((shape[0], 1, 3))
    for number, size in product(channels, sides):
        try:
            try_out(bench.model, torch.rand(2, number, *size).to(bench.images))
        except (Exception, SystemExit):
            continue
        return f" It takes images {number} x {size[0]} x {size[1]}."
    return ""


@torch.no_grad()
def look_at_answers(report: ModelReport, bench: Bench) -> ModelReport:
    """The report with what the model returns, whether it does so again, and how fast."""
    model, images = adapted(bench.model, bench.images), bench.images
    contract = contract_of(bench.model, images)
    with eval_mode(model):
        few = images[:_TWO]
        first, second = model(few), model(few)
        batch = images[:_BATCH]
        taken = median(seconds(lambda: model(batch), images.device) for _ in range(_TIMED))
    largest = first.abs().amax().item()
    is_same = torch.allclose(first, second, rtol=0.0, atol=_SAME * max(largest, 1e-12), equal_nan=True)
    return replace(
        report,
        num_classes=contract.num_classes,
        output=_output(bench, contract.num_outputs),
        is_random=bayes.is_stochastic(model) or not is_same,
        seconds_per_image=taken / len(batch),
        forward_batch=len(batch),
    )


def _output(bench: Bench, num_outputs: int) -> str:
    if num_outputs == 1:
        return f"1 logit an image, of class 1 against 0; {_form(_raw(bench))}"
    return f"{num_outputs} logits an image; {_form(_raw(bench))}"


def _form(raw: object) -> str:
    if isinstance(raw, Tensor):
        return f"a tensor of {str(raw.dtype).removeprefix('torch.')}"
    if has_others(raw):
        return f"the first of a {type(raw).__name__} of several like it"
    return f"taken out of a {type(raw).__name__}"


def _raw(bench: Bench) -> object:
    """What the model itself returns, in eval mode."""
    model, images = bench.model, bench.images[:2].clone()
    if contract_of(model, images).converts:
        like = next(chain(model.parameters(), model.buffers()))
        images = images.to(device=like.device, dtype=like.dtype)
    with eval_mode(unwrapped(model)):
        raw: object = model(images)
    return raw


@torch.no_grad()
def scores_of(bench: Bench, report: ModelReport) -> Scores:
    """How correct answers are, and whether they would be far more so if pixels were in another range."""
    pace = max(report.seconds_per_image or 0.0, 1e-6)
    number = max(2, min(len(bench.images), int(_SECONDS_OF_SCORING / pace)))
    images, labels = bench.images[:number], bench.labels[:number]
    model = adapted(bench.model, images)

    def share(given: Tensor) -> float:
        return float((predicted(model(given)) == labels).double().mean())

    with eval_mode(model):
        as_given = share(images)
        if as_given >= _GOOD:
            return Scores(as_given, number)
        others = {how: share(given) for how, given in _other_ranges(bench, images).items()}
    best = max(others, key=lambda how: others[how])
    is_better = others[best] > as_given + _BETTER
    return Scores(as_given, number, {best: others[best]} if is_better else {})


def _other_ranges(bench: Bench, images: Tensor) -> dict[str, Tensor]:
    ranges = {"levels of 0 … 255": 255 * images, "pixels in [-1, 1]": 2 * images - 1}
    if len(bench.info.mean) in (1, images.shape[1]):
        shape = (1, -1, *[1] * (images.dim() - 2))
        mean, std = (
            images.new_tensor(list(values)).view(shape) for values in (bench.info.mean, bench.info.std)
        )
        ranges["pixels normalised by the data's mean and deviation"] = (images - mean) / std
    return ranges


def layer_bounds(bench: Bench) -> list[LayerBound]:
    """Of each linear layer and convolution; none where these are not known."""
    try:
        copied = bench.copied
        known = places(copied, bench.images[:1].double())
    except Exception:
        return []
    return [
        LayerBound(
            place.name,
            _or_none(partial(NORMS.of, place.operator, place.input_shape, place.name)),
            _or_none(partial(_linf, place.operator, place.input_shape)),
        )
        for place in known
    ]


def lipschitz_of(bench: Bench) -> LipschitzBound:
    """Bounds of the whole model, or why there are none."""
    try:
        return bench.lipschitz
    except Exception as error:
        return LipschitzBound(reason=" ".join(str(error).split()))


def _linf(operator: LinearOperator, input_shape: Shape) -> Tensor:
    """The largest sum of absolute values in a row."""
    rows = operator.entrywise(torch.abs).apply(operator.entries.new_ones((1, *input_shape)))
    return rows.max()


def _or_none(bound: Callable[[], Tensor]) -> float | None:
    try:
        value = float(bound())
    except Exception:
        return None
    return value if math.isfinite(value) else None


def remarks_on(report: ModelReport, bench: Bench, scores: Scores) -> list[str]:
    """What to know of the model, with the remedy where there is one."""
    contract, remarks = contract_of(bench.model, bench.images), list[str]()
    if is_for_bytes(report.normalization):
        remarks.append(
            "Its mean and deviation are those of levels of 0 … 255, but images are handed over in [0, 1]: "
            "divide them by 255, or multiply the images by 255 in its forward."
        )
    for how, share in scores.otherwise.items():
        remarks.append(
            f"Of {scores.number} test images {share:.0%} are answered correctly as {how}, "
            f"{scores.as_given:.0%} in [0, 1]: its weights were likely trained so. Make that its first "
            "layer, by ws.models.Normalize(mean, std), or by --model.normalize=true for those of the data."
        )
    if report.is_random and not bayes.is_stochastic(bench.model):
        remarks.append(
            "Its answers are drawn also in eval mode, as with F.dropout(x) without training=self.training. "
            "Accuracies then are means over draws, attacks average gradients, and nothing can be proven."
        )
    if not bench.has_gradients:
        remarks.append(
            "Its answers have no gradients with respect to the images, so that PGD and most of AutoAttack "
            "find nothing: do not count accuracies under them, and attack without gradients too (a Suite of "
            "the level thorough)."
        )
    if contract.num_outputs == 1:
        remarks.append("Its one logit is taken for class 1 against a logit of 0 for class 0.")
    if contract.writes:
        remarks.append("It writes to the images that it is given; withstand hands it copies.")
    if contract.converts:
        remarks.append(f"It takes {report.dtype} images alone; withstand hands them over so.")
    return remarks
