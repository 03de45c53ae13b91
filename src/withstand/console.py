"""What the command line shows: its consoles, a progress bar, and an evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

__all__ = ["ERRORS", "OUTPUT", "print_metrics", "progress_of"]

# No markup: what is printed holds names and paths of the user.
OUTPUT = Console(markup=False, highlight=False)
ERRORS = Console(stderr=True, markup=False, highlight=False)


@contextmanager
def progress_of(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar while something goes on, where there is a terminal.

    Args:
        what: What goes on.

    Yields:
        To be told how many examples are done, of how many.
    """
    with Progress(console=OUTPUT, disable=not OUTPUT.is_terminal, transient=True) as progress:
        task = progress.add_task(what, total=None)

        def tell(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        yield tell


def print_metrics(metrics: Mapping[str, Any]) -> None:
    """Prints accuracies with their intervals, a section an attack or certificate, and then the warnings.

    Args:
        metrics: As ``metrics.json`` holds them.
    """
    certificates = metrics.get("certificates", [])
    sampling = metrics.get("sampling")
    repeats = sampling["num_repeats"] if sampling else 1
    title = f"{metrics['dataset']}{f', {repeats} predictions an example' if repeats > 1 else ''}"
    table = Table("test data", "epsilon", "accuracy", "95 % interval", title=title)
    table.add_row("clean", "", *_cells(metrics["clean"], repeats))
    for curve in [*metrics["attacks"], *certificates]:
        table.add_section()
        for number, point in enumerate(curve["curve"]):
            name = "" if number else curve["name"]
            table.add_row(name, f"{point['epsilon']:.4g}", *_cells(point, repeats))
    OUTPUT.print(table)
    _print_descriptions([*metrics["attacks"], *certificates])
    for certificate in certificates:
        if "radius" in certificate:
            OUTPUT.print(f"{certificate['name']}: {_radii(certificate['radius'])}")
    _print_random(metrics)
    for key, (title, tell) in _MEASURED.items():
        if key in metrics:
            OUTPUT.print(f"{title}: {tell(metrics[key])}")
    _print_checks(metrics.get("checks", []))
    for warning in metrics["warnings"]:
        ERRORS.print(f"warning: {warning}", style="yellow")


def _print_descriptions(curves: Sequence[Mapping[str, Any]]) -> None:
    """What was measured by what, and what each stage of a suite felled."""
    for curve in curves:
        OUTPUT.print(f"{curve['name']}: {curve['description']}")
        for point in curve["curve"]:
            if "stages" in point:
                OUTPUT.print(f"  epsilon {point['epsilon']:.4g}: {_felled(point['stages'])}")


def _print_random(metrics: Mapping[str, Any]) -> None:
    """How random answers were scored, how sure they are, and what published protocols make of them."""
    if sampling := metrics.get("sampling"):
        OUTPUT.print(f"random weights: {_drawn(sampling)}")
    for each in (metrics.get("uncertainty") or {}).get("sets", []):
        OUTPUT.print(f"uncertainty, {each['name']}: {_unsure(each)}")
    for protocol in metrics.get("protocols") or []:
        _print_protocol(protocol)


def _cells(point: Mapping[str, Any], repeats: int = 1) -> tuple[str, str]:
    """Accuracy and interval; ``repeats`` predictions of each example were counted."""
    total = str(point["total"])
    if repeats > 1:
        total = f"{point['total'] // repeats} examples"
    return f"{point['accuracy']:.2%}", f"{point['lower']:.2%} to {point['upper']:.2%} of {total}"


def _drawn(sampling: Mapping[str, Any]) -> str:
    """How a network of random answers was scored and attacked, in one line."""
    times, draws, gradient = (sampling[key] for key in ("num_repeats", "num_samples", "attack_samples"))
    predictions = "1 prediction" if times == 1 else f"{times} predictions"
    mean = f"{'' if times == 1 else 'each '}the mean of {_draws(draws)}"
    after = "" if gradient is None else f"; gradients of {_draws(gradient)}"
    return f"{predictions} an image, {mean}{after}"


def _draws(number: int) -> str:
    return "1 draw" if number == 1 else f"{number} draws"


def _unsure(of_set: Mapping[str, Any]) -> str:
    entropy, mutual = (of_set[key]["mean"] for key in ("entropy", "mutual_information"))
    told = "" if of_set["auroc"] is None else f"; told from clean by entropy, AUROC {of_set['auroc']:.3f}"
    return f"mean entropy {entropy:.3f} nats, of which {mutual:.3f} from draws that disagree{told}"


def _print_protocol(protocol: Mapping[str, Any]) -> None:
    """What a published protocol measures, apart from what the attacks run here leave."""
    title = f"published protocol {protocol['name']}"
    table = Table("attack", "epsilon", "accuracy", "95 % interval", title=title)
    table.add_row("clean", "", *_cells(protocol["clean"]))
    for attack in protocol["attacks"]:
        table.add_section()
        for number, point in enumerate(attack["curve"]):
            table.add_row("" if number else attack["name"], f"{point['epsilon']:.4g}", *_cells(point))
    OUTPUT.print(table)


def _radii(radius: Mapping[str, float]) -> str:
    return "certified radius " + ", ".join(f"{name} {value:.4g}" for name, value in radius.items())


def _bounds(norms: Mapping[str, Any]) -> str:
    """The largest bounds over classes, in one line."""
    largest = {name: value for name, value in norms["summary"].items() if name != "deformation_change"}
    upper = largest.pop("spectral")
    lower = ", ".join(f"{name} {value:.4g}" for name, value in largest.items() if value is not None)
    above = "no upper bound" if upper is None else f"at most {upper:.4g}"
    return f"at least {lower}; {above} (logits a unit of l2 distance, the largest of all classes)"


def _felled(stages: Sequence[Mapping[str, Any]]) -> str:
    """What each stage of a suite felled, in one line."""
    return ", ".join(
        f"{stage['name']} felled {stage['num_felled']} of {stage['num_attacked']}" for stage in stages
    )


def _corrupted(found: Mapping[str, Any]) -> str:
    """The mean accuracy, and that at the kind that does worst."""
    means = {
        kind["title"]: sum(level["accuracy"] for level in kind["levels"]) / len(kind["levels"])
        for kind in found["kinds"]
    }
    worst = min(means, key=lambda title: means[title])
    return f"mean accuracy {found['mean']:.2%}; worst {worst.lower()}, {means[worst]:.2%}"


def _smoothed(found: Mapping[str, Any]) -> str:
    return (
        f"noise_std {found['noise_std']:g}, accuracy {found['accuracy']['accuracy']:.2%}, abstains from "
        f"{found['abstained']['accuracy']:.2%}, mean certified l2 radius {found['radius']['mean']:.4g}, each "
        f"with probability {1 - found['failure_probability']:g}"
    )


def _print_checks(checks: Sequence[Mapping[str, Any]]) -> None:
    """How many passed, which failed, and which were not run."""
    if not checks:
        return
    passed = sum(check["passed"] is True for check in checks)
    told = [f"{passed} passed"]
    for words, outcome in (("failed", False), ("not run", None)):
        names = [check["name"] for check in checks if check["passed"] is outcome]
        told += [f"{words}: {', '.join(names)}"] if names else []
    OUTPUT.print(f"checks for false robustness: {'; '.join(told)}")


def _under_noise(noise: Mapping[str, Any]) -> str:
    largest = noise["levels"][-1]["noise_std"]
    return (
        f"mean accuracy {100 * noise['mean']['accuracy']:.1f} % over noise_std 0 … {largest:.4g}; "
        f"agreement area {noise['area']['agreement']:.3f}"
    )


# What is said of each entry that is one line, in this order.
_MEASURED: dict[str, tuple[str, Callable[[Mapping[str, Any]], str]]] = {
    "kernel_norms": ("kernel norms", _bounds),
    "noise": ("noise", _under_noise),
    "corruptions": ("corruptions", _corrupted),
    "smoothing": ("smoothed classifier, another than the one above", _smoothed),
}


def print_results(results: object, table: object) -> None:
    """Stub."""
    OUTPUT.print(str(table))
