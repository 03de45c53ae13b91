"""What ``check`` finds of a model, and as text of 80 columns."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from textwrap import fill
from typing import Any

from typing_extensions import override

from withstand.evaluation.model_report.report_parts import (
    Advice,
    LayerBound,
    LipschitzBound,
    Normalization,
    Verdict,
)

_WIDTH = 80
_LABEL = 12
_NAME = 46  # columns of what is tried
_SHOWN_LAYERS = 8
_SHOWN_CHANNELS = 4


@dataclass(frozen=True)
class ModelReport:
    """What a model is, and what can be done with it; printed it is a table.

    Attributes:
        model: Name of its class.
        data: Name of the data that it was tried on.
        problem: Why nothing can be done with it, and the remedy; None where something can.
        shape: Of one image, without the batch.
        pixels: The least and the largest value of the images that it was tried on.
        source: What these images were.
        trainable: How many parameters are trained.
        frozen: How many are not.
        dtype: Of its first weight.
        device: Of its first weight.
        mode: ``train``, ``eval`` or ``mixed``, as it was handed in.
        batch_norms: Layers of batch normalisation.
        dropouts: Layers of dropout.
        output: What it returns.
        num_classes: That its answers tell apart; None where it gave none.
        is_random: Whether answers differ when it is asked twice in eval mode; None where it was not asked.
        normalization: What comes before its first layer with weights.
        accuracy: Share of correct answers to the test images that were tried; None without data.
        num_scored: How many these were.
        seconds_per_image: Of a forward pass in eval mode.
        forward_batch: Images of that pass.
        batch_size: Images of the steps whose costs were measured.
        training: A verdict a family of training.
        measuring: A verdict a kind of measurement.
        layers: Bounds of each linear layer and convolution.
        lipschitz: Of the whole model.
        remarks: What to know, with the remedy where there is one.
        advice: How to go on, the best way first.
    """

    model: str
    data: str
    problem: str | None
    shape: Sequence[int]
    pixels: tuple[float, float]
    source: str
    trainable: int
    frozen: int
    dtype: str
    device: str
    mode: str
    batch_norms: int
    dropouts: int
    output: str = ""
    num_classes: int | None = None
    is_random: bool | None = None
    normalization: Normalization = field(default_factory=lambda: Normalization(is_present=None))
    accuracy: float | None = None
    num_scored: int = 0
    seconds_per_image: float | None = None
    forward_batch: int = 0
    batch_size: int = 0
    training: Sequence[Verdict] = ()
    measuring: Sequence[Verdict] = ()
    layers: Sequence[LayerBound] = ()
    lipschitz: LipschitzBound = field(default_factory=LipschitzBound)
    remarks: Sequence[str] = ()
    advice: Sequence[Advice] = ()

    def as_dict(self) -> dict[str, Any]:
        """All of it, as JSON can hold it."""
        return asdict(self)

    @override
    def __str__(self) -> str:
        return _text_of(self)


def _text_of(report: ModelReport) -> str:
    """The whole report, ending in what to do."""
    notes = _Notes()
    parts = [
        "\n".join(_facts(report)),
        "\n".join(_training(report, notes)),
        "\n".join(_measuring(report, notes)),
        "\n".join(_layers(report, notes)),
        "\n".join(notes.lines()),
        "\n".join(_remarks(report)),
        "\n".join(_advice(report)),
    ]
    return "\n\n".join(part for part in parts if part)


class _Notes:
    """Reasons and remedies, each numbered once."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def mark(self, text: str) -> str:
        if not text:
            return ""
        if text not in self.texts:
            self.texts.append(text)
        return f"[{self.texts.index(text) + 1}]"

    def lines(self) -> Iterator[str]:
        if self.texts:
            yield "Notes, with the way out"
        for number, text in enumerate(self.texts, start=1):
            mark = f"  [{number}] "
            lines = text.splitlines()
            yield _filled(mark, lines[0], len(mark))
            yield from (_filled(" " * len(mark), line, len(mark)) for line in lines[1:])


def _facts(report: ModelReport) -> Iterator[str]:
    yield _filled("", f"{report.model} on {report.data}", 0)
    yield ""
    if report.problem:
        yield _row("problem", report.problem)
    shape = " x ".join(map(str, report.shape))
    low, high = report.pixels
    yield _row("input", f"{shape}; tried on {report.source}, values {low:.3g} … {high:.3g}")
    if not report.problem:
        yield _row("normalised", _normalised(report.normalization))
        yield _row("output", report.output)
    yield _row("weights", _weights(report))
    yield _row("modes", _modes(report))
    if report.seconds_per_image is not None:
        pace, size = 1000 * report.seconds_per_image, report.forward_batch
        yield _row("forward", f"{pace:.3g} ms an image, in batches of {size} on {report.device}")
    if report.accuracy is not None:
        chance = f"; chance is {1 / report.num_classes:.0%}" if report.num_classes else ""
        yield _row("accuracy", f"{report.accuracy:.0%} of {report.num_scored} test images{chance}")


def _normalised(normalization: Normalization) -> str:
    if not normalization.is_present:
        return f"{'not known' if normalization.is_present is None else 'not found'}: {normalization.evidence}"
    mean, std = (_numbers(values) for values in (normalization.mean, normalization.std))
    return f"found: {normalization.by}; mean {mean}, std {std}"


def _numbers(values: Sequence[float]) -> str:
    shown = " ".join(f"{value:.3g}" for value in values[:_SHOWN_CHANNELS])
    return f"{shown} …" if len(values) > _SHOWN_CHANNELS else shown


def _weights(report: ModelReport) -> str:
    frozen = f", {report.frozen:,} frozen" if report.frozen else ""
    return f"{report.trainable:,} trainable{frozen}; {report.dtype} on {report.device}"


def _modes(report: ModelReport) -> str:
    layers = f"{report.batch_norms} BatchNorm, {report.dropouts} Dropout"
    asked = {None: "", True: "; answers differ when asked twice in eval mode", False: "; same answers twice"}
    return f"{report.mode} mode; {layers} layers{asked[report.is_random]}"


def _training(report: ModelReport, notes: _Notes) -> Iterator[str]:
    if report.training:
        yield f"{'Training':<{_NAME}} works  cost of a step"
        for verdict in report.training:
            cost = "" if verdict.cost is None else f"{verdict.cost:.1f}"
            yield _verdict(verdict, f"{cost:>6}", notes)
        yield _filled(
            "  ",
            f"Costs are in plain steps, measured here with {report.batch_size} images a step on "
            f"{report.device} (medians); they change with sizes and settings.",
            2,
        )


def _measuring(report: ModelReport, notes: _Notes) -> Iterator[str]:
    if report.measuring:
        yield f"{'Measuring':<{_NAME}} works"
        yield from (_verdict(verdict, "", notes) for verdict in report.measuring)


def _verdict(verdict: Verdict, cost: str, notes: _Notes) -> str:
    works = "yes" if verdict.works else "no"
    return f"  {verdict.name:<{_NAME - 2}} {works:<6} {cost:<6}  {notes.mark(verdict.note)}".rstrip()


def _layers(report: ModelReport, notes: _Notes) -> Iterator[str]:
    bound = report.lipschitz
    if report.problem:
        return
    yield "How far it can stretch (guaranteed upper bounds of operator norms)"
    if bound.l2 is None:
        yield f"  {'whole model':<{_NAME - 2}} no bound  {notes.mark(bound.reason)}"
    else:
        yield f"  {'whole model, logits a unit of distance':<{_NAME - 2}} {_pair(bound.l2, bound.linf)}"
    if bound.steepest is not None:
        yield f"  {'steepest gradient seen, a lower bound':<{_NAME - 2}} {_pair(bound.steepest, None)}"
    layers = sorted(report.layers, key=lambda layer: -(layer.l2 or math.inf))[:_SHOWN_LAYERS]
    shown = [layer for layer in report.layers if layer in layers]
    for layer in shown:
        yield f"  {_short(layer.name):<{_NAME - 2}} {_pair(layer.l2, layer.linf)}"
    if more := len(report.layers) - len(shown):
        yield f"  and {more} layers with smaller norms: --format=json, or report.layers"


def _pair(l2: float | None, linf: float | None) -> str:
    known = {"l2": l2, "linf": linf}
    return "  ".join(f"{norm} {value:<8.3g}" for norm, value in known.items() if value is not None).rstrip()


def _short(name: str) -> str:
    name = name or "the model itself"
    return name if len(name) <= _NAME - 2 else f"…{name[-(_NAME - 3) :]}"


def _remarks(report: ModelReport) -> Iterator[str]:
    if report.remarks:
        yield "To know"
        yield from (_filled("  - ", remark, 4) for remark in report.remarks)


def _advice(report: ModelReport) -> Iterator[str]:
    if report.advice:
        yield "Recommended"
    for number, advice in enumerate(report.advice, start=1):
        yield _filled(f"  {number}. ", f"{advice.goal}. {advice.why}", 5)
        yield f"     {advice.how}"  # in one line, to be copied


def _row(label: str, text: str) -> str:
    return _filled(f"{label:<{_LABEL}} ", text, _LABEL + 1)


def _filled(start: str, text: str, indent: int) -> str:
    return fill(
        text,
        _WIDTH,
        initial_indent=start,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
