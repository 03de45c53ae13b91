"""Robust training for PyTorch."""
