"""The rules, a file a kind of operation; importing this registers them."""

from withstand.graph.rules import activation_rules, linear_rules, shape_rules

__all__ = ["activation_rules", "linear_rules", "shape_rules"]
