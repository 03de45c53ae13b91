"""Recipes: a run in one typed configuration, read, varied, and a library of them."""
