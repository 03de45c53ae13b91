"""Proofs about a network, and what they are held against: attacks, themselves, and a net that is known."""

from withstand.certificates.certify import (
    METHODS,
    Certification,
    Certifier,
    Method,
    certified_radius,
    certify,
)

__all__ = ["METHODS", "Certification", "Certifier", "Method", "certified_radius", "certify"]
