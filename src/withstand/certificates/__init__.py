"""Proofs about a network, and what they are held against: attacks, themselves, and a net that is known."""

from withstand.certificates.bounding import METHODS, TIMEOUT, Method
from withstand.certificates.certify import Certification, Certifier, certified_radius, certify

__all__ = ["METHODS", "TIMEOUT", "Certification", "Certifier", "Method", "certified_radius", "certify"]
