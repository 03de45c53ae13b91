"""Means and variances of functions of normal variables: the mathematics, of tensors alone."""

from withstand.moments.hinges import RECTIFIER, Hinges, hinged, hinged_gain
from withstand.moments.maximum import Larger, larger
from withstand.moments.normal import cdf, pdf, std_of
from withstand.moments.quadrature import nodes_and_weights, quadrature, quadrature_gain
from withstand.moments.rectified import rectified, rectified_mean

__all__ = [
    "RECTIFIER",
    "Hinges",
    "Larger",
    "cdf",
    "hinged",
    "hinged_gain",
    "larger",
    "nodes_and_weights",
    "pdf",
    "quadrature",
    "quadrature_gain",
    "rectified",
    "rectified_mean",
    "std_of",
]
