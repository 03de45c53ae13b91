"""Proofs about a network, and what they are held against: attacks, themselves, and a net that is known."""

from withstand.certificates.bounding import METHODS, TIMEOUT, Method, require_method
from withstand.certificates.certify import Certification, Certifier, certified_radius, certify
from withstand.certificates.unproven import Unproven

__all__ = [
    "METHODS",
    "TIMEOUT",
    "Certification",
    "Certifier",
    "Method",
    "Unproven",
    "certified_radius",
    "certify",
    "require_method",
]
