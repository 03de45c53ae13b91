"""Sets of tensors that pass through a network: boxes, balls, and both at once."""

from withstand.domains import activation_rules, linear_rules, shape_rules
from withstand.domains.ball import Ball
from withstand.domains.base import Domain
from withstand.domains.box import Box
from withstand.domains.box_ball import BoxBall
from withstand.domains.input_sets import DOMAINS, input_set
from withstand.domains.interpreter import LastLayer, Program, propagate, unsupported
from withstand.domains.registry import Site, UnsupportedOperationError, register

__all__ = [
    "DOMAINS",
    "Ball",
    "Box",
    "BoxBall",
    "Domain",
    "LastLayer",
    "Program",
    "Site",
    "UnsupportedOperationError",
    "activation_rules",
    "input_set",
    "linear_rules",
    "propagate",
    "register",
    "shape_rules",
    "unsupported",
]
