"""Published evaluations, as published, so that published figures are compared with like.

What such a protocol measures is no robust accuracy. It is reported beside what attacks of the scored
predictor leave, and the difference is what the protocol hides.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from typing_extensions import override

from withstand import bayes
from withstand.core import norms
from withstand.core.answers import NO_ANSWER, predicted
from withstand.core.batch_shares import filled
from withstand.core.setting_rules import COUNT, POSITIVE, list_of, settle
from withstand.evaluation.meter import Gathered, Meter, PartResult, Summary
from withstand.evaluation.predictor import Predictor
from withstand.evaluation.unanswered import UNANSWERED, unanswered
from withstand.results import random_answers as results
from withstand.results.measurements import measured, protocol_measure
from withstand.results.shares import share_of
from withstand.types import Batch

_PROTOCOL = "sebr"
_CLEAN = "clean"
_CORRECT = "right"


@dataclass(frozen=True)
class SebrProtocol(Meter):
    """How SEBR was evaluated on MNIST (Zhang et al., CVPR 2021, from the published code).

    FGSM is one step of epsilon along the sign of the gradient. PGD starts uniformly within epsilon in each
    pixel and takes sign steps so long that each ends in a corner of the linf ball; the last corner counts.
    Both follow the gradient of the cross-entropy of the network at its mean weights, and no image is cut to
    [0, 1]. Scored is the largest of the mean logits over a few draws of the weights. A net without random
    weights answers by one pass.

    It flatters. The network attacked is not the one scored, and its gradient is averaged over no draws;
    hopping from corner to corner finds no maximum inside the ball, and neither the best corner is kept nor
    another start tried; where the mean network is so sure that its gradient is 0, nothing moves at all. In
    one point it is harder than the attacks of an evaluation: its images leave [0, 1]. So figures under this
    protocol compare with published ones alone.

    Args:
        fgsm: Epsilons of FGSM, in [0, 1] units; those published of an MLP on MNIST by default.
        pgd: Epsilons of PGD, likewise.
        num_samples: Draws of the weights a prediction.
        num_steps: Steps of PGD.
        step_size: Of PGD, in [0, 1] units.

    Raises:
        ValueError: a number is out of its range, an epsilon is given twice, or there is none at all.
    """

    name = f"protocol {_PROTOCOL}"
    fgsm: Sequence[float] = (0.04, 0.16, 0.3)
    pgd: Sequence[float] = (0.04, 0.16, 0.22)
    num_samples: int = 5
    num_steps: int = 15
    step_size: float = 1e5

    def __post_init__(self) -> None:
        several = list_of(POSITIVE, least=0)
        settle(self, fgsm=several, pgd=several, num_samples=COUNT, num_steps=COUNT, step_size=POSITIVE)
        for name, epsilons in (("fgsm", self.fgsm), ("pgd", self.pgd)):
            _require_epsilons(name, epsilons)
        if not self.fgsm and not self.pgd:
            raise ValueError(
                "Expected an epsilon of fgsm or of pgd, but got none of either: there is nothing to measure. "
                "Name at least one, or leave the protocol out."
            )

    def describe(self) -> str:
        """Sentences of its settings, for a report."""
        draws = "one draw" if self.num_samples == 1 else f"{self.num_samples} draws"
        return (
            "As Zhang et al., CVPR 2021, evaluated: attacks follow the gradient of the network at its mean "
            f"weights and are not cut to [0, 1]; the prediction is by the mean logits of {draws} of the "
            "weights, or of one pass where no weight is random"
        )

    @override
    def score(self, predictor: Predictor, batch: Batch, prediction: Tensor, *, seed: int) -> PartResult:
        model = predictor.model.model if isinstance(predictor.model, bayes.Predictor) else predictor.model
        torch.manual_seed(seed)
        answers = [self._answers(model, batch.images)]
        for attack, epsilon in self._targets():
            images = batch.images + self._perturbation(model, batch, attack, epsilon)
            answers.append(self._answers(model, images))
        correct = [int((given == batch.labels).sum()) for given in answers]
        none = (torch.stack(answers) == NO_ANSWER).sum(dim=0).cpu().numpy()
        return PartResult({}, {_CORRECT: np.array(correct)}, {UNANSWERED: none})

    @override
    def summary(self, gathered: Gathered) -> Summary:
        if not gathered.subject.predictor.is_random:
            warnings.warn(
                f"The protocol {_PROTOCOL} is for networks with random weights, which this one has not: "
                "its figures are those of one pass, and compare with none that are published.",
                stacklevel=2,
            )
        measure, total = protocol_measure(_PROTOCOL), len(gathered.rows)
        clean, *attacked = (share_of(int(correct), total) for correct in gathered.counts[_CORRECT])
        measurements = [
            measured(measure, clean, by=_CLEAN),
            *(
                measured(measure, accuracy, by=attack, norm="inf", level=epsilon)
                for (attack, epsilon), accuracy in zip(self._targets(), attacked, strict=True)
            ),
        ]
        attacks = {attack: self._describe(attack) for attack, _ in self._targets()}
        what = f"images of the protocol {_PROTOCOL}, clean and attacked,"
        parts = unanswered(gathered.state.get(UNANSWERED, 0), total * len(measurements), what)
        protocols = [results.ProtocolInfo(_PROTOCOL, self.describe(), attacks)]
        return Summary(measurements, parts | {"protocols": protocols})

    def _targets(self) -> list[tuple[str, float]]:
        """Each attack at each epsilon."""
        return [("fgsm", epsilon) for epsilon in self.fgsm] + [("pgd", epsilon) for epsilon in self.pgd]

    def _describe(self, attack: str) -> str:
        if attack == "fgsm":
            return "One step of epsilon along the gradient's sign, from the image itself"
        steps = f"{self.num_steps} sign steps of {self.step_size:g}"
        return f"{steps} from a random start, each cut back to epsilon; the last image counts"

    def _perturbation(self, model: nn.Module, batch: Batch, attack: str, epsilon: float) -> Tensor:
        """What an attack adds to the images, of their shape."""
        images, labels = batch
        if attack == "fgsm":
            return epsilon * _gradient_sign(model, images, labels)
        delta = filled(images, lambda rows: rows.uniform_(-epsilon, epsilon))
        for _ in range(self.num_steps):
            step = self.step_size * _gradient_sign(model, images + delta, labels)
            delta = (delta + step).clamp(-epsilon, epsilon)
        return delta

    @torch.no_grad()
    def _answers(self, model: nn.Module, images: Tensor) -> Tensor:
        """The classes (batch,) of images by the mean of the logits."""
        if bayes.is_stochastic(model):
            logits = bayes.sample_logits(model, images, self.num_samples).mean(dim=0)
        else:
            logits = model(images)
        return predicted(logits)


def _gradient_sign(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Of the cross-entropy at the mean weights: -1, 0 or 1 for each pixel; 0 where it does not matter."""
    images = images.detach().requires_grad_()
    with torch.enable_grad(), bayes.at_posterior_mean(model):
        # Summed, so that a batch's size scales no example's gradient towards 0.
        loss = cross_entropy(model(images), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, images)
    return gradient.sign()


def _require_epsilons(name: str, epsilons: Sequence[float]) -> None:
    for epsilon in epsilons:
        norms.warn_beyond_range(math.inf, epsilon)
    if len(set(epsilons)) < len(epsilons):
        raise ValueError(f"An epsilon of {name} is given twice: {', '.join(f'{e:g}' for e in epsilons)}.")
