"""Networks with random weights: mean-field Gaussian layers, their divergence, and what they predict."""

from withstand.bayes.convert import convert, mean_network
from withstand.bayes.expected_maximum import expected_maximum, fluctuation
from withstand.bayes.expected_norm_bounds import expected_norm_bound, noise_bounds
from withstand.bayes.kinds import BatchNorm1d, BatchNorm2d, Conv1d, Conv2d, GroupNorm, LayerNorm, Linear
from withstand.bayes.layer import (
    Deviations,
    Drawing,
    VariationalLayer,
    at_posterior_mean,
    drawing,
    is_stochastic,
    is_variational,
    kl,
    require_certain,
    sharing_deviations,
    variational_layers,
)
from withstand.bayes.posterior import Normal, Posterior
from withstand.bayes.sampled_norms import confidence_bound
from withstand.bayes.sampling import Predictor, in_blocks, sample_logits

__all__ = [
    "BatchNorm1d",
    "BatchNorm2d",
    "Conv1d",
    "Conv2d",
    "Deviations",
    "Drawing",
    "GroupNorm",
    "LayerNorm",
    "Linear",
    "Normal",
    "Posterior",
    "Predictor",
    "VariationalLayer",
    "at_posterior_mean",
    "confidence_bound",
    "convert",
    "drawing",
    "expected_maximum",
    "expected_norm_bound",
    "fluctuation",
    "in_blocks",
    "is_stochastic",
    "is_variational",
    "kl",
    "mean_network",
    "noise_bounds",
    "require_certain",
    "sample_logits",
    "sharing_deviations",
    "variational_layers",
]
