"""The variational objective of networks with random weights: the negative evidence lower bound."""

from __future__ import annotations

import math
from dataclasses import replace

from torch import Tensor
from typing_extensions import override

from withstand import bayes
from withstand.bayes.priors import a_prior
from withstand.core.schedules import Schedule, scheduled, value_at
from withstand.core.setting_rules import AT_LEAST_0, COUNT, optional, settle
from withstand.loss.passes import Pass
from withstand.loss.terms import Objective, OnePass
from withstand.objectives.cross_entropy import CrossEntropy
from withstand.types import LossTerms


class Variational(OnePass):
    """The mean loss over draws of the weights, plus the divergence from the prior divided by ``num_data``.

    That is the negative evidence lower bound an example, so its scale does not depend on the batch size
    (Blundell et al., ICML 2015, eq. 2; the published sum over a batch of CVPR 2021 is ``batch_size`` times
    this). All draws of a step are made in one pass. With ``Adversarial`` as likelihood this is adversarial
    training of a Bayesian network: each draw is attacked with draws of its own.

    Args:
        num_data: Examples in the training set. Training tells it where it is None.
        num_samples: Draws of the weights a step, independent for each example where the estimators are.
        kl_weight: Of the divergence: 1 is Bayes' rule, less is a tempered posterior, and at 0 it is not
            computed; a float or a schedule.
        likelihood: The loss of one draw: cross-entropy, whose sum is the negative log-likelihood, or any
            other objective. An adversarial one makes what is minimised a bound of no evidence.
        prior: Of all random weights, such as ``bayes.LaplacePrior(0.1)``; it takes the place of the
            ``prior_std`` of posteriors, which counts where None.

    Raises:
        TypeError: the prior is none.
        ValueError: a number is out of its range.
    """

    def __init__(
        self,
        num_data: int | None = None,
        num_samples: int = 1,
        kl_weight: float | Schedule = 1.0,
        likelihood: Objective | None = None,
        prior: bayes.Prior | None = None,
    ) -> None:
        super().__init__()
        self.num_data = num_data
        self.num_samples = num_samples
        self.kl_weight = kl_weight
        settle(self, num_data=optional(COUNT), num_samples=COUNT, kl_weight=scheduled(AT_LEAST_0))
        self.likelihood = CrossEntropy() if likelihood is None else likelihood
        self.prior: bayes.Prior | None = a_prior("prior", prior)

    @override
    def prepare(self, num_data: int) -> None:
        self.likelihood.prepare(num_data)
        if self.prior is not None:
            self.prior.prepare()
        if self.num_data is None:
            self.num_data = num_data

    @override
    def of_pass(self, passed: Pass, labels: Tensor, *, progress: float = math.inf) -> LossTerms:
        if self.num_data is None:
            raise ValueError(
                "Variational needs num_data, the number of training examples that its divergence is divided "
                "by: Variational(num_data=60_000). Only training tells it by itself."
            )
        weight = value_at(self.kl_weight, progress)
        with bayes.sharing_deviations(passed.model, passed.shared(bayes.Deviations, bayes.Deviations)):
            loss, terms = self._likelihood(passed, labels, progress)
            if weight == 0:  # a deviation of 0, whose divergence is infinite, is then allowed
                return LossTerms(loss, terms)
            divergence = bayes.kl(passed.model, self.prior)
        total = loss + weight / self.num_data * divergence
        return LossTerms(total, {**terms, "kl": divergence.detach()})

    def _likelihood(self, passed: Pass, labels: Tensor, progress: float) -> LossTerms:
        if self.num_samples == 1:
            return self.likelihood.of_pass(passed, labels, progress=progress)
        images, how = bayes.in_blocks(passed.images, self.num_samples)
        if not isinstance(self.likelihood, CrossEntropy):  # an attack has gradients of its own for each copy
            how = replace(how, copies=None)
        with bayes.drawing(passed.model, how):
            result: LossTerms = self.likelihood(
                passed.model, images, labels.repeat(self.num_samples), progress=progress
            )
        return result

    @override
    def differentiates_images(self, progress: float = math.inf) -> bool:
        return self.num_samples == 1 and self.likelihood.differentiates_images(progress)

    @override
    def slow_down(self, at: float) -> bool:
        return self.likelihood.slow_down(at)

    @override
    def extra_repr(self) -> str:
        return f"num_data={self.num_data}, num_samples={self.num_samples}, kl_weight={self.kl_weight}"
