"""Networks with random weights: mean-field Gaussian layers, their divergence, and what they predict."""

from withstand.bayes.convert import convert, mean_network
from withstand.bayes.expected_maximum import expected_maximum, fluctuation
from withstand.bayes.expected_norm_bounds import expected_norm_bound, noise_bounds
from withstand.bayes.kinds import (
    Conv1d,
    Conv2d,
    Conv3d,
    ConvTranspose1d,
    ConvTranspose2d,
    ConvTranspose3d,
    Linear,
)
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
from withstand.bayes.norm_kinds import BatchNorm1d, BatchNorm2d, BatchNorm3d, GroupNorm, LayerNorm, RMSNorm
from withstand.bayes.posterior import Normal, Posterior
from withstand.bayes.priors import GaussianPrior, LaplacePrior, MixturePrior, Prior, TrainedPrior
from withstand.bayes.sampled_norms import confidence_bound
from withstand.bayes.sampling import Predictor, in_blocks, sample_logits
from withstand.bayes.whole_kinds import (
    GRU,
    LSTM,
    RNN,
    Bilinear,
    GRUCell,
    LSTMCell,
    MultiheadAttention,
    OutputProjection,
    PReLU,
    RNNCell,
)

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "Bilinear",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "Deviations",
    "Drawing",
    "GRUCell",
    "GaussianPrior",
    "GroupNorm",
    "LSTMCell",
    "LaplacePrior",
    "LayerNorm",
    "Linear",
    "MixturePrior",
    "MultiheadAttention",
    "Normal",
    "OutputProjection",
    "PReLU",
    "Posterior",
    "Predictor",
    "Prior",
    "RMSNorm",
    "RNNCell",
    "TrainedPrior",
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
