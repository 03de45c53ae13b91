"""How long a report of many examples takes, and how large its page is.

    make benchmark

A run of 10,000 test examples with twenty curves: ten attacks, and ten certificates that know each
example's radius. The time is that of the whole report, from the files of the folder to the page.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import tempfile
import time
from pathlib import Path

from withstand.core.run_folder import RunFolder
from withstand.reporting import report
from withstand.reporting.page import plotly_script
from withstand.results.measurements import ATTACKED, CERTIFIED, CLEAN, Measurement, table_of
from withstand.results.results import AttackInfo, CertificateInfo, Results
from withstand.results.results_file import write_results

NUM_EPSILONS = 20


def write_run(folder: RunFolder, num_examples: int, num_curves: int) -> None:
    """Fills a run folder with an evaluation of made-up figures."""
    folder.create()
    draws = random.Random(0)
    names = [f"l2-{number}" for number in range(num_curves // 2)]
    epsilons = [0.1 * (number + 1) for number in range(NUM_EPSILONS)]

    def accuracy(measure: str, by: str = "", norm: str = "", level: float = 0.0) -> Measurement:
        return Measurement(measure, by, norm, level, 0.9, 0.89, 0.91, 9 * num_examples // 10, num_examples)

    measurements = [accuracy(CLEAN)]
    measurements += [
        accuracy(measure, f"{kind}-{name}", "2", epsilon)
        for measure, kind in ((ATTACKED, "pgd"), (CERTIFIED, "certified"))
        for name in names
        for epsilon in epsilons
    ]
    results = Results(
        "mnist",
        num_examples,
        10,
        attacks=[AttackInfo(f"pgd-{name}", "2") for name in names],
        certificates=[CertificateInfo(f"certified-{name}", "2", "best") for name in names],
    )
    write_results(folder, results, table_of(measurements))
    attacked = [f"pgd-{name}@{epsilon:.1f}" for name in names for epsilon in epsilons]
    with folder.examples.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["index", "label", *(f"radius-{name}" for name in names), *attacked])
        for index in range(num_examples):
            radii = [f"{draws.expovariate(1.0):.9f}" for _ in names]
            rows.writerow([index, index % 10, *radii, *(draws.randrange(2) for _ in attacked)])


def report_cost(num_examples: int, num_curves: int, rounds: int) -> dict[str, float]:
    """Seconds of the fastest round, and bytes of the page in all and without plotly's script."""
    with tempfile.TemporaryDirectory() as path:
        folder = RunFolder(Path(path) / "run")
        write_run(folder, num_examples, num_curves)
        seconds = []
        for _ in range(rounds):
            started = time.perf_counter()
            page = report(folder.path)
            seconds.append(time.perf_counter() - started)
        size = page.stat().st_size
    return {
        "examples": num_examples,
        "curves": num_curves,
        "seconds": min(seconds),
        "seconds_first": seconds[0],
        "bytes": size,
        "bytes_without_plotly": size - len(plotly_script().encode()),
    }


def main() -> None:
    """Runs all and prints one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--examples", type=int, default=10_000)
    parser.add_argument("--curves", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=None, help="write the JSON here too")
    arguments = parser.parse_args()
    text = json.dumps(report_cost(arguments.examples, arguments.curves, arguments.rounds), indent=2)
    print(text)
    if arguments.out is not None:
        arguments.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
