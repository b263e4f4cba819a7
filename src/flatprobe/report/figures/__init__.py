"""Figures of the report. Each function makes one figure of an analysis, as SVG in a wide and a narrow version."""
