"""What passes through a network: boxes, balls, both at once, and normal distributions.

A layer of one's own takes one rule, by ``register``, that says what it is made of: linear operators
of ``withstand.operators``, and ``Elementwise``, ``Unimodal`` and ``Rearrange``.
"""

from withstand.domains.gaussians.diagonal import Gaussian
from withstand.domains.gaussians.factored import FactoredGaussian
from withstand.domains.gaussians.full import CorrelatedGaussian
from withstand.domains.sets.ball import Ball
from withstand.domains.sets.box import Box
from withstand.domains.sets.box_ball import BoxBall
from withstand.domains.sets.input_sets import DOMAINS, DomainName, input_set, require_set
from withstand.graph.calls import Call
from withstand.graph.domain import Domain, LastLayer, Moments, Region
from withstand.graph.primitives import Elementwise, Rearrange, Unimodal
from withstand.graph.program import Program, ProgramCache, propagate, unsupported
from withstand.graph.rule_registry import Site, UnsupportedOperationError, register
from withstand.graph.rules import activation_rules, linear_rules, shape_rules
from withstand.graph.rules.sizes import batch_norm_factors

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
    "LastLayer",
    "Moments",
    "Program",
    "ProgramCache",
    "Rearrange",
    "Region",
    "Site",
    "Unimodal",
    "UnsupportedOperationError",
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
