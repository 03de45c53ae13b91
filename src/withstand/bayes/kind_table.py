"""Which layers of torch can have random weights, and what they become."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.nn.utils import parametrize

from withstand.bayes import kinds, norm_kinds, transformers, whole_kinds
from withstand.bayes.layer import VariationalLayer

RANDOM: Mapping[type[nn.Module], type[VariationalLayer]] = MappingProxyType(
    {
        nn.Linear: kinds.Linear,
        nn.Conv1d: kinds.Conv1d,
        nn.Conv2d: kinds.Conv2d,
        nn.Conv3d: kinds.Conv3d,
        nn.ConvTranspose1d: kinds.ConvTranspose1d,
        nn.ConvTranspose2d: kinds.ConvTranspose2d,
        nn.ConvTranspose3d: kinds.ConvTranspose3d,
        nn.BatchNorm1d: norm_kinds.BatchNorm1d,
        nn.BatchNorm2d: norm_kinds.BatchNorm2d,
        nn.BatchNorm3d: norm_kinds.BatchNorm3d,
        nn.GroupNorm: norm_kinds.GroupNorm,
        nn.LayerNorm: norm_kinds.LayerNorm,
        nn.RMSNorm: norm_kinds.RMSNorm,
        nn.MultiheadAttention: whole_kinds.MultiheadAttention,
        NonDynamicallyQuantizableLinear: whole_kinds.OutputProjection,
        nn.RNN: whole_kinds.RNN,
        nn.LSTM: whole_kinds.LSTM,
        nn.GRU: whole_kinds.GRU,
        nn.RNNCell: whole_kinds.RNNCell,
        nn.LSTMCell: whole_kinds.LSTMCell,
        nn.GRUCell: whole_kinds.GRUCell,
        nn.Bilinear: whole_kinds.Bilinear,
        nn.PReLU: whole_kinds.PReLU,
    }
)
AROUND: Mapping[type[nn.Module], type[nn.Module]] = MappingProxyType(
    {
        nn.TransformerEncoder: transformers.TransformerEncoder,
        nn.TransformerEncoderLayer: transformers.TransformerEncoderLayer,
    }
)
PLAIN: Mapping[type[nn.Module], type[nn.Module]] = MappingProxyType(
    {random: plain for plain, random in [*RANDOM.items(), *AROUND.items()]}
)


def can_be_random(layer: nn.Module) -> bool:
    """Whether a layer is of a kind that can be random and has parameters; also where it must be refused."""
    if parametrize.is_parametrized(layer):  # its class is another, and it is refused, not passed over
        return isinstance(layer, tuple(RANDOM))
    has_some = any(parameter is not None for parameter in layer._parameters.values())
    return type(layer) in RANDOM and has_some  # a normalisation layer may have no scale
