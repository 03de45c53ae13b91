"""What passes through a network: boxes, balls, both at once, and normal distributions.

A layer of one's own takes one rule, by ``register``, that says what it is made of: linear operators
of ``withstand.spectral``, and ``Elementwise``, ``Valley`` and ``Rearrange``.
"""

from withstand.domains import activation_rules, linear_rules, shape_rules
from withstand.domains.ball import Ball
from withstand.domains.base import Domain, LastLayer, Moments, Region
from withstand.domains.box import Box
from withstand.domains.box_ball import BoxBall
from withstand.domains.calls import Call
from withstand.domains.correlated_gaussian import CorrelatedGaussian
from withstand.domains.factored_gaussian import FactoredGaussian
from withstand.domains.gaussian import Gaussian
from withstand.domains.input_sets import DOMAINS, DomainName, input_set, require_set
from withstand.domains.interpreter import KeptProgram, Program, propagate, unsupported
from withstand.domains.operations import Elementwise, Rearrange, Valley
from withstand.domains.registry import Site, UnsupportedOperationError, register
from withstand.domains.sizes import batch_norm_factors

__all__ = [
    "DOMAINS",
    "Ball",
    "Box",
    "BoxBall",
    "Call",
    "CorrelatedGaussian",
    "Domain",
    "DomainName",
    "Elementwise",
    "FactoredGaussian",
    "Gaussian",
    "KeptProgram",
    "LastLayer",
    "Moments",
    "Program",
    "Rearrange",
    "Region",
    "Site",
    "UnsupportedOperationError",
    "Valley",
    "activation_rules",
    "batch_norm_factors",
    "input_set",
    "linear_rules",
    "propagate",
    "register",
    "require_set",
    "shape_rules",
    "unsupported",
]
