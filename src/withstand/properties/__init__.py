"""Properties of networks: boxes of inputs and what outputs must not be there; read, written, made."""

from withstand.properties.property import Case, Property, robustness
from withstand.properties.vnnlib_text import parse_vnnlib, read_vnnlib
from withstand.properties.vnnlib_writing import to_vnnlib

__all__ = ["Case", "Property", "parse_vnnlib", "read_vnnlib", "robustness", "to_vnnlib"]
