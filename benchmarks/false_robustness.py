"""Whether an evaluation catches defences that are broken on purpose, and certificates that are wrong.

    python benchmarks/false_robustness.py --plain RUN --certified RUN --out RESULT.json

Two defences are put in front of the plain run's net: input rounded to a few grey levels, and logits scaled so
far that the cross-entropy has no gradient. Neither makes it robust; noted is which check of the suite shows
so, beside the same net without them. Then the certified run's bounds are tightened beyond what is true, to
0.9 of how far margins can decrease and radii to 1 / 0.9, and noted is whether the evaluation stops.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from typing_extensions import override

from withstand import evaluate
from withstand.certificates import Certification, Certifier
from withstand.data import Dataset
from withstand.evaluation import proofs
from withstand.evaluation.meters import Certificate, Suite
from withstand.reporting.table import one
from withstand.results.measurements import ATTACKED, CLEAN
from withstand.runs.loading import load_run_model
from withstand.runs.run_parts import load_data, open_run
from withstand.types import CertificateError

FACTOR = 0.9


class Defended(nn.Module):
    """A net behind what some took for a defence.

    Args:
        model: Maps images in [0, 1] to logits (batch, classes).
        levels: Grey levels that pixels are rounded to; None leaves them.
        scale: Of the logits.
    """

    def __init__(self, model: nn.Module, *, levels: int | None = None, scale: float = 1.0) -> None:
        super().__init__()
        self.model, self.levels, self.scale = model, levels, scale

    @override
    def forward(self, images: Tensor) -> Tensor:
        if self.levels is not None:
            images = (images * (self.levels - 1)).round() / (self.levels - 1)
        logits: Tensor = self.model(images)
        return self.scale * logits


class Boastful(Certifier):
    """Certifies as if margins decreased a tenth less than they can, and radii larger by as much."""

    @override
    def certify(
        self, images: Tensor, labels: Tensor, *, norm: float, epsilon: float | Tensor
    ) -> Certification:
        true = super().certify(images, labels, norm=norm, epsilon=epsilon)
        logits = self.predict(images.double())
        true_logit = logits.gather(1, labels[:, None]).squeeze(1)
        clean = true_logit - logits.scatter(1, labels[:, None], -math.inf).amax(dim=1)
        margin = clean - FACTOR * (clean - true.margin)
        return true._replace(margin=margin, certified=margin > 0)

    @override
    def radius(self, images: Tensor, labels: Tensor, *, norm: float, tolerance: float = 1e-3) -> Tensor:
        return super().radius(images, labels, norm=norm, tolerance=tolerance) / FACTOR


def defence(name: str, model: nn.Module, dataset: Dataset, epsilon: float, number: int) -> dict[str, Any]:
    """What the suite makes of a defence."""
    evaluation = evaluate(model, dataset, [Suite("standard", [epsilon])], num_examples=number)
    clean, left = one(evaluation.table, CLEAN), one(evaluation.table, ATTACKED)
    assert clean is not None
    assert left is not None
    (attack,) = evaluation.results.attacks
    (counts,) = attack.counts
    stages = zip(attack.stages, counts.attacked, counts.broken, strict=True)
    failed = [check.name for check in evaluation.results.checks if check.passed is False]
    entry = {
        "defence": name,
        "clean": clean.value,
        "accuracy": left.value,
        "stages": [
            {"name": stage.name, "num_attacked": attacked, "num_broken": broken}
            for stage, attacked, broken in stages
        ],
        "failed": failed,
        "warnings": evaluation.results.warnings,
    }
    print(f"{name}: clean {entry['clean']:.1%}, attacked {entry['accuracy']:.1%}, failed checks {failed}")
    return entry


def wrong_certificate(
    model: nn.Module, dataset: Dataset, number: int, certificate: Certificate
) -> dict[str, Any]:
    """Whether a certificate that proves too much stops the evaluation, and one that does not goes through."""
    entry: dict[str, Any] = {"certificate": certificate.certificate_name, "epsilons": certificate.epsilons}
    for name, certifier in (("true", Certifier), ("wrong", Boastful)):
        try:
            with patch.object(proofs, "Certifier", certifier):
                evaluate(model, dataset, [certificate], num_examples=number)
            entry[name] = None
        except CertificateError as error:
            entry[name] = str(error)
        print(f"{certificate.certificate_name}, {name}: {'stopped' if entry[name] else 'went through'}")
    return entry


def main() -> None:
    """Runs it all and writes what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--plain", type=Path, required=True, help="A run folder of a net without a defence.")
    parser.add_argument("--certified", type=Path, required=True, help="One of a net trained to be certified.")
    parser.add_argument("--epsilon", type=float, default=0.1, help="In linf, for the defences.")
    parser.add_argument(
        "--certified-epsilons", type=float, nargs="+", default=[0.1, 0.5, 1.58], help="In l2."
    )
    parser.add_argument("--num-examples", type=int, default=500)
    parser.add_argument("--out", type=Path, default=None)
    values = parser.parse_args()
    torch.manual_seed(0)
    run, parsed = open_run(values.plain)
    dataset = load_data(parsed.recipe)
    plain = load_run_model(run, parsed.recipe).eval()
    defences = {
        "none": Defended(plain),
        "input rounded to 8 grey levels": Defended(plain, levels=8),
        "logits times 1000": Defended(plain, scale=1000.0),
    }
    number = values.num_examples
    entries = [defence(name, model, dataset, values.epsilon, number) for name, model in defences.items()]
    run, parsed = open_run(values.certified)
    dataset = load_data(parsed.recipe)
    certified = load_run_model(run, parsed.recipe).eval()
    epsilons = list(values.certified_epsilons)
    certificates = [
        wrong_certificate(certified, dataset, number, Certificate(norm=2, method=method, epsilons=epsilons))
        for method in ("best", "ball", "box_ball", "box")
    ]
    result = {
        "dataset": dataset.info.name,
        "num_examples": number,
        "epsilon": values.epsilon,
        "plain": str(values.plain),
        "certified": str(values.certified),
        "defences": entries,
        "factor": FACTOR,
        "certificates": certificates,
    }
    if values.out is not None:
        values.out.parent.mkdir(parents=True, exist_ok=True)
        values.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
