"""The rules, a file a kind of operator; importing this registers them."""

from withstand.graph.rules import (
    activation_rules,
    arithmetic_rules,
    comparison_rules,
    convolution_rules,
    matrix_rules,
    norm_rules,
    normalization_rules,
    picking_rules,
    reduction_rules,
    resampling_rules,
    shape_rules,
)

__all__ = [
    "activation_rules",
    "arithmetic_rules",
    "comparison_rules",
    "convolution_rules",
    "matrix_rules",
    "norm_rules",
    "normalization_rules",
    "picking_rules",
    "reduction_rules",
    "resampling_rules",
    "shape_rules",
]
