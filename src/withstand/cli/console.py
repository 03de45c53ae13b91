"""What the command line shows of an evaluation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pandas as pd
from rich.table import Table

from withstand.cli.terminal import ERRORS, OUTPUT, say
from withstand.core.writing import epsilon_text, percent
from withstand.reporting.formatting import count, interval
from withstand.reporting.signs import Write, signs_of_results
from withstand.reporting.table import area_over_levels, corruption_mean, mean_over_levels, one, rows, select
from withstand.results import measurements
from withstand.results.analytic import KernelNorms
from withstand.results.measurements import Measurement
from withstand.results.random_answers import Sampling
from withstand.results.results import Check, Results


def print_results(results: Results, table: pd.DataFrame) -> None:
    """Prints accuracies with their intervals, a section an attack or certificate, and then the warnings.

    Args:
        results: Of an evaluation.
        table: Its measurements.
    """
    repeats = results.num_repeats
    drawn = f", {repeats} predictions an example" if repeats > 1 else ""
    sample = f", {results.scored}" if results.is_sample else ""
    title = f"{results.dataset}{drawn}{sample}"
    measured = [
        select(table, measurements.CLEAN).assign(by="clean"),
        select(table, measurements.ATTACKED),
        select(table, measurements.CERTIFIED),
    ]
    write = signs_of_results(results, table)
    OUTPUT.print(_accuracies("test data", title, pd.concat(measured), write, repeats))
    for line in [*_descriptions(results, table), *_random_answers(results)]:
        say(write(line))
    for protocol in results.protocols:
        title = f"published protocol {protocol.name}"
        measured_so = select(table, measurements.protocol_measure(protocol.name))
        OUTPUT.print(_accuracies("attack", title, measured_so, write))
    for name, words in _one_liners(results, table).items():
        say(f"{name}: {words}")
    _print_checks(results.checks)
    for warning in results.warnings:
        ERRORS.print(f"warning: {write(warning)}", style="yellow")


def _accuracies(of: str, title: str, measured: pd.DataFrame, write: Write, repeats: int = 1) -> Table:
    """A section an attack or certificate, clean first."""
    shown = Table(of, "ε", "accuracy", "95 % interval", title=title)
    former = "clean"
    for row in rows(measured):
        if row.by != former:
            shown.add_section()
        name = row.by if row.by != former or row.by == "clean" else ""
        epsilon = "" if row.by == "clean" else epsilon_text(row.level)
        shown.add_row(write(name), epsilon, *_cells(row, repeats))
        former = row.by
    return shown


def _cells(row: Measurement, repeats: int) -> tuple[str, str]:
    """Accuracy and interval; ``repeats`` predictions of each example were counted."""
    total = f"{count((row.total or 0) // repeats)} examples" if repeats > 1 else count(row.total or 0)
    return percent(row.value), f"{interval(row)} of {total}"


def _descriptions(results: Results, table: pd.DataFrame) -> Iterator[str]:
    """What was measured by what, what each stage of a suite broke, and certified radii."""
    for attack in results.attacks:
        yield f"{attack.name}: {attack.description}"
        for at in attack.counts:
            counts = zip(attack.stages, at.broken, at.attacked, strict=True)
            parts = [f"{stage.name} broke {broken} of {number}" for stage, broken, number in counts if number]
            if parts:  # else all were broken at a smaller epsilon
                yield f"  ε = {epsilon_text(at.epsilon)}: {', '.join(parts)}"
    for certificate in results.certificates:
        yield f"{certificate.name}: {certificate.described}"
        if certificate.arithmetic:
            yield f"{certificate.name}: {certificate.arithmetic}"
    names = {
        measurements.MEAN_RADIUS: "mean",
        measurements.MEDIAN_RADIUS: "median",
        measurements.LARGEST_RADIUS: "largest",
    }
    for certificate in results.certificates:
        radii = {name: one(table, measure, by=certificate.name) for measure, name in names.items()}
        known = ", ".join(f"{name} {row.value:.4g}" for name, row in radii.items() if row)
        if known:
            yield f"{certificate.name}: certified radius {known}"


def _random_answers(results: Results) -> Iterator[str]:
    """How random answers were scored, and how sure they are."""
    if results.sampling:
        yield f"random weights: {_drawn(results.sampling)}"
    for images in results.uncertainty.sets if results.uncertainty else []:
        auroc = "" if images.auroc is None else f"; separated from clean by entropy, AUROC {images.auroc:.3f}"
        entropy, mutual = images.means["entropy"], images.means["mutual_information"]
        yield (
            f"uncertainty, {images.name}: mean entropy {entropy:.3f} nats, of which {mutual:.3f} from draws "
            f"that disagree{auroc}"
        )


def _drawn(sampling: Sampling) -> str:
    """How a network of random answers was scored and attacked, in one line."""
    times = sampling.num_repeats
    predictions = "1 prediction" if times == 1 else f"{times} predictions"
    mean = f"{'' if times == 1 else 'each '}the mean of {_draws(sampling.num_samples)}"
    after = "" if sampling.attack_samples is None else f"; gradients of {_draws(sampling.attack_samples)}"
    return f"{predictions} an image, {mean}{after}"


def _draws(number: int) -> str:
    return "1 draw" if number == 1 else f"{number} draws"


def _one_liners(results: Results, table: pd.DataFrame) -> dict[str, str]:
    """What is reported in one line, by its name."""
    lines = {}
    if results.kernel_norms:
        lines["kernel norms"] = _bounds(results.kernel_norms)
    noisy = select(table, measurements.NOISE_ACCURACY, by="unclipped")
    if len(noisy):
        mean = mean_over_levels(table, measurements.NOISE_ACCURACY, "unclipped") or 0.0
        area = area_over_levels(table, measurements.NOISE_AGREEMENT, "unclipped") or 0.0
        lines["noise"] = (
            f"mean accuracy {percent(mean)} over noise_std 0 … {noisy.level.max():.4g}; "
            f"agreement area {area:.3f}"
        )
    corrupted = select(table, measurements.CORRUPTED).groupby("by", sort=False).value.mean()
    if results.corruptions and len(corrupted):
        titles = {kind.name: kind.title for kind in results.corruptions.kinds}
        worst = str(corrupted.idxmin())
        lines["corruptions"] = (
            f"mean accuracy {percent(corruption_mean(table) or 0.0)}; worst "
            f"{titles.get(worst, worst).lower()}, {percent(corrupted.min())}"
        )
    if results.smoothing:
        accuracy, abstained, radius = (
            row.value if (row := one(table, measure)) else 0.0
            for measure in (measurements.SMOOTHED, measurements.ABSTENTION, measurements.MEAN_SMOOTHED_RADIUS)
        )
        lines["smoothed classifier, another than the one above"] = (
            f"noise_std {results.smoothing.noise_std:g}, accuracy {percent(accuracy)}, abstains from "
            f"{percent(abstained)}, mean certified ℓ₂ radius {radius:.4g}, each with probability "
            f"{1 - results.smoothing.failure_probability:g}"
        )
    return lines


def _bounds(norms: KernelNorms) -> str:
    """The largest bounds over classes, in one line."""
    largest = norms.largest
    known = {name: getattr(largest, name) for name in ("gradient", "perturbation", "deformation")}
    lower = ", ".join(f"{name} {value:.4g}" for name, value in known.items() if value is not None)
    above = "no upper bound" if largest.spectral is None else f"at most {largest.spectral:.4g}"
    return f"at least {lower}; {above} (logits a unit of ℓ₂ distance, the largest of all classes)"


def _print_checks(checks: Sequence[Check]) -> None:
    """How many passed, which failed, and which were not run, and why."""
    if not checks:
        return
    outcomes = [f"{sum(check.passed is True for check in checks)} passed"]
    for outcome in dict.fromkeys(["failed", *(check.outcome for check in checks if check.passed is None)]):
        names = [check.name for check in checks if check.outcome == outcome]
        outcomes += [f"{outcome}: {', '.join(names)}"] if names else []
    say(f"checks for false robustness: {'; '.join(outcomes)}")
