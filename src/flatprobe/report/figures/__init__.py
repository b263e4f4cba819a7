"""Figures of the report: each function turns an analysis into one figure, as static SVG in a wide and a
narrow cut."""
