"""What each method of certificates proves of networks that were not trained for it, and in which time.

    python benchmarks/certify_methods.py RUN [RUN ...] --out RESULT.json --figure FIGURE.svg

Of the first test images of each run's data: those right as they are, those that PGD leaves, and those that
each method proves, with the seconds of processor time that it took, capture and operator norms among them.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import plotly.io
import torch
from torch import nn

from withstand.attacks import PGD
from withstand.certificates import METHODS, Certifier
from withstand.core.answers import is_correct
from withstand.data import batches
from withstand.reporting.figures import COLOURS
from withstand.runs.loading import load_run_model
from withstand.runs.run_parts import load_data, open_run
from withstand.types import Batch

BUDGETS = {"linf": (math.inf, 0.1), "l2": (2.0, 0.5)}


def left_by_pgd(model: nn.Module, batch: Batch, norm: float, epsilon: float, num_steps: int) -> float:
    """The share of images that PGD leaves right."""
    attack = PGD(norm=norm, epsilon=epsilon, num_steps=num_steps)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        attacked = attack.bind(model)(*batch)
    with torch.no_grad():
        is_left = is_correct(model(attacked), batch.labels) & is_correct(model(batch.images), batch.labels)
    return float(is_left.float().mean())


def proven(
    model: nn.Module, batch: Batch, norm: float, epsilon: float, method: Any, timeout: float
) -> dict[str, float]:
    """The share of images that a method proves, and its seconds of processor time."""
    started = time.process_time()
    certifier = Certifier(model, method=method, timeout=timeout)
    certified = certifier.certify(*batch, norm=norm, epsilon=epsilon).certified
    return {"proven": float(certified.double().mean()), "seconds": time.process_time() - started}


def entries_of(folder: Path, num_examples: int, num_steps: int, timeout: float) -> list[dict[str, Any]]:
    """All figures of a run's network, one entry a norm."""
    run, parsed = open_run(folder)
    batch = next(batches(load_data(parsed.recipe).test, num_examples))
    model = load_run_model(run, parsed.recipe).eval()
    with torch.no_grad():
        clean = float(is_correct(model(batch.images), batch.labels).float().mean())
    proven(model, Batch(batch.images[:1], batch.labels[:1]), 2.0, 0.1, "box", timeout)  # what is loaded once
    entries = []
    for name, (norm, epsilon) in BUDGETS.items():
        entry: dict[str, Any] = {"net": folder.name, "norm": name, "epsilon": epsilon, "clean": clean}
        entry["attacked"] = left_by_pgd(model, batch, norm, epsilon, num_steps)
        entry["methods"] = {}
        for method in METHODS:
            if method != "best":
                entry["methods"][method] = proven(model, batch, norm, epsilon, method, timeout)
        print(json.dumps(entry))
        entries.append(entry)
    return entries


def drawn(entries: list[dict[str, Any]], file: Path) -> None:
    """Bars of what is proven, one group a network and norm, with what PGD leaves above them."""
    groups = [f"{entry['net']}, {entry['norm']} {entry['epsilon']:g}" for entry in entries]
    bars = [
        {
            "type": "bar",
            "name": method,
            "x": groups,
            "y": [100 * entry["methods"][method]["proven"] for entry in entries],
            "marker": {"color": COLOURS[index % len(COLOURS)]},
            "text": [f"{100 * entry['methods'][method]['proven']:.0f}" for entry in entries],
            "textposition": "outside",
        }
        for index, method in enumerate(entries[0]["methods"])
    ]
    left = {
        "type": "scatter",
        "mode": "markers",
        "name": "left by PGD",
        "x": groups,
        "y": [100 * entry["attacked"] for entry in entries],
        "marker": {"symbol": "line-ew", "size": 120, "line": {"width": 2, "color": "#1b1f27"}},
    }
    layout = {
        "barmode": "group",
        "yaxis": {"title": {"text": "test images, %"}, "range": [0, 105], "gridcolor": "#d9dde4"},
        "paper_bgcolor": "#ffffff",
        "plot_bgcolor": "#ffffff",
        "font": {"color": "#1b1f27"},
        "margin": {"l": 50, "r": 20, "t": 20, "b": 40},
    }
    plotly.io.write_image({"data": [*bars, left], "layout": layout}, file, width=900, height=380)


def main() -> None:
    """Runs all, prints one entry a line, and writes the JSON and the figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("runs", type=Path, nargs="*", help="Run folders of trained networks.")
    parser.add_argument("--num-examples", type=int, default=200)
    parser.add_argument("--num-steps", type=int, default=50, help="Of PGD.")
    parser.add_argument("--timeout", type=float, default=10.0, help="Seconds an image of branch and bound.")
    parser.add_argument(
        "--out", type=Path, required=True, help="The JSON; drawn as it is where no run is named."
    )
    parser.add_argument("--figure", type=Path, default=None, help="An SVG.")
    values = parser.parse_args()
    if values.runs:
        result = {
            "num_examples": values.num_examples,
            "num_steps": values.num_steps,
            "timeout": values.timeout,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "entries": [
                entry
                for run in values.runs
                for entry in entries_of(run, values.num_examples, values.num_steps, values.timeout)
            ],
        }
        values.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    if values.figure is not None:
        drawn(json.loads(values.out.read_text(encoding="utf-8"))["entries"], values.figure)


if __name__ == "__main__":
    main()
