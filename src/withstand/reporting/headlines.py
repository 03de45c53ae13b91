"""The figures to see first: cards, and ours beside those that others published."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from withstand.reporting.certified import Certified, certified_at, telling_certificates
from withstand.reporting.protocols import is_of_protocol
from withstand.reporting.schema import Accuracy, Metrics, Published
from withstand.reporting.summary import Attacked, norms, strongest, strongest_at
from withstand.reporting.old_wording import budget, count, dataset_title, interval, percent

__all__ = ["Card", "PublishedRow", "cards", "published_rows", "telling_attacks"]

_MOST_CARDS = 6  # of one norm


@dataclass(frozen=True)
class Card:
    """One headline figure."""

    label: str
    value: str
    details: Sequence[str]


@dataclass(frozen=True)
class PublishedRow:
    """A published figure beside ours; ``ours`` is None where this run did not measure it.

    ``by`` names the attack or the certificate of ours.
    """

    measure: str
    ours: Accuracy | None
    by: str | None
    published: Published


def cards(metrics: Metrics) -> list[Card]:
    """The headline figures: clean, attacked, certified, and what they were measured on."""
    order = norms(metrics)
    measured: list[Attacked | Certified] = [*telling_attacks(metrics), *telling_certificates(metrics)]
    measured.sort(key=lambda each: (order.index(each.norm), each.point["epsilon"]))
    weights = metrics.get("weights")
    details = [f"{count(metrics['num_examples'])} test examples", f"{metrics['num_classes']} classes"]
    details += [f"{weights} weights"] if weights else []
    dataset = Card("Data set", dataset_title(metrics["dataset"]), details)
    right = "predictions right" if _is_repeated(metrics) else "right"
    shown = [_measured_card(each, right) for each in measured]
    return [_card("Clean accuracy", metrics["clean"], [], right), *shown, dataset]


def telling_attacks(metrics: Metrics) -> list[Attacked]:
    """The strongest attack at each norm and epsilon; some of the epsilons where they are many.

    Those beside which a certified accuracy is shown are always among them.
    """
    found = []
    for norm in norms(metrics):
        measured = [each for each in strongest(metrics) if each.norm == norm]
        shown = {each.point["epsilon"] for each in telling_certificates(metrics) if each.norm == norm}
        last = len(measured) - 1
        spread = {round(last * number / (_MOST_CARDS - 1)) for number in range(_MOST_CARDS)}
        found += [
            each
            for number, each in enumerate(measured)
            if number in spread or last < _MOST_CARDS or each.point["epsilon"] in shown
        ]
    return found


def _is_repeated(metrics: Metrics) -> bool:
    """Whether accuracies count several predictions of each example."""
    sampling = metrics.get("sampling")
    return bool(sampling and sampling["num_repeats"] > 1)


def _measured_card(each: Attacked | Certified, right: str) -> Card:
    at = budget(each.norm, each.point["epsilon"])
    if isinstance(each, Certified):
        return _card(f"Certified, {at}", each.point, [f"proven, method {each.method}"], "certified")
    return _card(f"Attacked, {at}", each.point, [f"under {each.attack}"], right)


def _card(label: str, accuracy: Accuracy, details: Sequence[str], counted_as: str) -> Card:
    counted = f"{count(accuracy['correct'])} of {count(accuracy['total'])} {counted_as}"
    value = percent(accuracy["accuracy"], accuracy["total"])
    return Card(label, value, [f"95 % interval {interval(accuracy)}", *details, counted])


def published_rows(metrics: Metrics) -> list[PublishedRow]:
    """Each published figure with ours at the same measure, norm and epsilon.

    Those that a section on their own protocol shows are left out.
    """
    return [
        _published_row(metrics, published)
        for published in metrics.get("published", [])
        if not is_of_protocol(metrics, published)
    ]


def _published_row(metrics: Metrics, published: Published) -> PublishedRow:
    measure, norm, epsilon = published["measure"], published.get("norm"), published.get("epsilon")
    if measure == "clean":
        return PublishedRow("clean", metrics["clean"], None, published)
    if norm is None or epsilon is None:
        return PublishedRow(measure, None, None, published)
    ours, by = _ours(metrics, measure, norm, epsilon)
    measure = f"{measure} by {published['attack']}" if published.get("attack") else measure
    return PublishedRow(f"{measure}, {budget(norm, epsilon)}", ours, by, published)


def _ours(metrics: Metrics, measure: str, norm: str, epsilon: float) -> tuple[Accuracy | None, str | None]:
    if measure == "attacked":
        attacked = strongest_at(metrics, norm, epsilon)
        return (attacked.point, attacked.attack) if attacked else (None, None)
    certified = certified_at(metrics, norm, epsilon) if measure == "certified" else None
    return (certified.point, certified.certificate) if certified else (None, None)
