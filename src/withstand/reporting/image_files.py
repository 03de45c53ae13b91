"""Figures as files."""

from __future__ import annotations

from withstand.reporting.old_image_files import ImageFormat, export_figures

__all__ = ["ImageFormat", "export_figures"]
