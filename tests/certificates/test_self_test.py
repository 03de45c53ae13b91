"""Certificates that prove a tenth too much are caught, however wide the gap to what attacks reach."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

from withstand.attacks import PGD
from withstand.certificates import METHODS, Certification, Certifier, Method
from withstand.certificates.self_test import RADIUS, known_net
from withstand.core.run_folder import RunFolder
from withstand.data import Dataset
from withstand.evaluation import evaluate
from withstand.evaluation.meters import Attacks, Certificate
from withstand.evaluation.proofs import Prover
from withstand.types import CertificateError

FACTOR = 0.9


class Tight(Certifier):
    """Has margins decrease by nine tenths of what they may."""

    @override
    def certify(
        self, images: Tensor, labels: Tensor, *, norm: float, epsilon: float | Tensor
    ) -> Certification:
        certification = super().certify(images, labels, norm=norm, epsilon=epsilon)
        logits = self.predict(images)
        true = logits.gather(1, labels[:, None]).squeeze(1)
        clean = true - logits.scatter(1, labels[:, None], -math.inf).amax(dim=1)
        margin = clean - FACTOR * (clean - certification.margin)
        return Certification(margin, margin > 0, torch.zeros_like(margin), "float32")


class Far(Certifier):
    """Has radii a ninth too large."""

    @override
    def radius(self, images: Tensor, labels: Tensor, *, norm: float, tolerance: float = 1e-3) -> Tensor:
        return super().radius(images, labels, norm=norm, tolerance=tolerance) / FACTOR


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Callable[[type[Certifier]], None]:
    """Puts another certifier in the place of the correct one."""
    return lambda certifier: monkeypatch.setattr("withstand.evaluation.proofs.Certifier", certifier)


@pytest.fixture
def net() -> nn.Module:
    """Wide and deep enough for bounds to be far from the truth."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 24), nn.ReLU(), nn.Linear(24, 3)
    )


@pytest.mark.parametrize("norm", [1.0, 2.0, math.inf])
@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("method", METHODS)
def test_known_net_is_bounded_exactly_by_every_method(method: Method, clip: bool, norm: float) -> None:
    images, labels = torch.full((1, 1, 4, 4), 0.5), torch.zeros(1, dtype=torch.int64)
    certifier = Certifier(known_net(16, norm), method=method, clip=clip)
    for epsilon in (0.05, 0.25):
        margin = float(certifier.certify(images, labels, norm=norm, epsilon=epsilon).margin[0])
        assert RADIUS - epsilon - 1e-4 < margin < RADIUS - epsilon + 1e-6
    radius = float(certifier.radius(images, labels, norm=norm)[0])
    assert 0.998 * RADIUS < radius < RADIUS + 1e-6


@pytest.mark.parametrize("norm", [2.0, math.inf])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("certifier", "what"), [(Tight, "bounds the margin"), (Far, "radius of a net")])
def test_require_known_answers_catches_a_tenth_too_much(
    certifier: type[Certifier],
    what: str,
    method: Method,
    norm: float,
    net: nn.Module,
    tiny_dataset: Dataset,
    use: Callable[[type[Certifier]], None],
    tmp_path: Path,
) -> None:
    certificate = Certificate(norm=norm, method=method, epsilons=[0.01])
    evaluate(net, tiny_dataset, [certificate], num_examples=10)
    use(certifier)
    # Linear bounds of this net are so close that an attack may show it, too.
    either = (
        "|bounded above the margin" if method in ("linear", "linear-optimised", "branch-and-bound") else ""
    )
    with pytest.raises(
        CertificateError, match=f"{certificate.certificate_name}.* ({what}.* which is too much{either})"
    ):
        evaluate(net, tiny_dataset, [certificate], num_examples=10, out=tmp_path)
    assert RunFolder(tmp_path).examples.exists()
    assert not RunFolder(tmp_path).metrics.exists()


@pytest.fixture
def linear() -> nn.Module:
    """Of it bounds are as low as attacks go."""
    layer = nn.Linear(16, 3)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(4).repeat(1, 4)[:3])
        layer.bias.zero_()
    return nn.Sequential(nn.Flatten(), layer)


@pytest.fixture
def unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """No net is known, so that the data must decide."""
    monkeypatch.setattr(Prover, "require_known_answers", lambda *_: None)


ATTACK = Attacks([PGD(norm=2, num_steps=5)], [0.1])
CERTIFICATE = Certificate(norm=2, epsilons=[0.1])


@pytest.mark.usefixtures("unknown")
def test_evaluate_checks_new_bounds_against_earlier_attacks(
    linear: nn.Module, tiny_dataset: Dataset, use: Callable[[type[Certifier]], None], tmp_path: Path
) -> None:
    evaluate(linear, tiny_dataset, [ATTACK], out=tmp_path)
    use(Tight)
    for _ in range(2):  # what was wrong once is not stored
        with pytest.raises(CertificateError, match="bounded above the margin that pgd-20-margin-l2 reaches"):
            evaluate(linear, tiny_dataset, [ATTACK, CERTIFICATE], out=tmp_path)


def test_evaluate_checks_a_joining_certificate_on_the_known_net(
    net: nn.Module, tiny_dataset: Dataset, use: Callable[[type[Certifier]], None], tmp_path: Path
) -> None:
    evaluate(net, tiny_dataset, [ATTACK], out=tmp_path)
    use(Far)
    with pytest.raises(CertificateError, match="which is too much"):
        evaluate(net, tiny_dataset, [ATTACK, CERTIFICATE], out=tmp_path)


class Boastful(Certifier):
    """Certifies everything, by no margin to speak of."""

    @override
    def certify(
        self, images: Tensor, labels: Tensor, *, norm: float, epsilon: float | Tensor
    ) -> Certification:
        margin = torch.full((len(images),), -1e9, dtype=torch.float64)
        return Certification(margin, margin < 0, torch.zeros_like(margin), "float32")


@pytest.mark.usefixtures("unknown")
def test_evaluate_repeats_that_an_example_is_broken(
    linear: nn.Module, tiny_dataset: Dataset, use: Callable[[type[Certifier]], None], tmp_path: Path
) -> None:
    lucky = PGD(norm=2, num_steps=1, step_size=1e-3)
    attack = Attacks([lucky], [1.5])
    rows = evaluate(linear, tiny_dataset, [attack], out=tmp_path).rows
    broken = rows["index"][(rows["clean"] == 1) & (rows[f"{lucky.name}@1.5"] == 0)]
    assert 3 < len(broken) < 30
    use(Boastful)
    with pytest.raises(
        CertificateError, match=f"{len(broken)} rows are certified but broken by {lucky.name}"
    ):
        evaluate(linear, tiny_dataset, [attack, Certificate(norm=2, epsilons=[1.5])], out=tmp_path)
