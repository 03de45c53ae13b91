"""What passes through a network: boxes, balls, both at once, and normal distributions.

A layer of one's own takes one rule, by ``register``, that says what it is made of: linear operators
of ``withstand.operators``, and ``Elementwise``, ``Unimodal`` (with their ``Curvature``) and ``Rearrange``.
"""

from withstand.domains.gaussians.diagonal import Gaussian
from withstand.domains.gaussians.factored import FactoredGaussian
from withstand.domains.gaussians.full import CorrelatedGaussian
from withstand.domains.linear.linear import Linear
from withstand.domains.sets.ball import Ball
from withstand.domains.sets.box import Box
from withstand.domains.sets.box_ball import BoxBall
from withstand.domains.sets.input_sets import DOMAINS, DomainName, input_set, require_set
from withstand.graph import rules
from withstand.graph.calls import Call
from withstand.graph.domain import Domain, LastLayer, Moments, Region
from withstand.graph.primitives import Curvature, Elementwise, Rearrange, Unimodal
from withstand.graph.program import Program, propagate, unsupported
from withstand.graph.program_cache import ProgramCache
from withstand.graph.rule_registry import Site, UnsupportedOperationError, register

__all__ = [
    "DOMAINS",
    "Ball",
    "Box",
    "BoxBall",
    "Call",
    "CorrelatedGaussian",
    "Curvature",
    "Domain",
    "DomainName",
    "Elementwise",
    "FactoredGaussian",
    "Gaussian",
    "LastLayer",
    "Linear",
    "Moments",
    "Program",
    "ProgramCache",
    "Rearrange",
    "Region",
    "Site",
    "Unimodal",
    "UnsupportedOperationError",
    "input_set",
    "propagate",
    "register",
    "require_set",
    "rules",
    "unsupported",
]
