"""Proofs about a network, and what holds them to account: consistency with attacks, and a net that is known."""

from withstand.certificates.certify import (
    METHODS,
    Certification,
    Certifier,
    Method,
    certified_radius,
    certify,
)

__all__ = ["METHODS", "Certification", "Certifier", "Method", "certified_radius", "certify"]
