"""Means and variances of functions of normal variables: the mathematics, of tensors alone."""

from withstand.moments.closed_forms import EXPONENTIAL, LOGARITHM, SQUARED, ClosedMoments, power_moments
from withstand.moments.covariance import (
    cross_rectified_covariance,
    expanded_covariance,
    hermite_coefficients,
    hinged_covariance,
    rectified_covariance,
)
from withstand.moments.hinges import RECTIFIER, Hinges, hinged, hinged_gain
from withstand.moments.maximum import larger, share_of_first
from withstand.moments.normal import cdf, pdf, rectified, rectified_and_mean, std_of
from withstand.moments.quadrature import nodes_and_weights, quadrature, quadrature_gain

__all__ = [
    "EXPONENTIAL",
    "LOGARITHM",
    "RECTIFIER",
    "SQUARED",
    "ClosedMoments",
    "Hinges",
    "cdf",
    "cross_rectified_covariance",
    "expanded_covariance",
    "hermite_coefficients",
    "hinged",
    "hinged_covariance",
    "hinged_gain",
    "larger",
    "nodes_and_weights",
    "pdf",
    "power_moments",
    "quadrature",
    "quadrature_gain",
    "rectified",
    "rectified_and_mean",
    "rectified_covariance",
    "share_of_first",
    "std_of",
]
