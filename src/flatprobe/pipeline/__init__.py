"""Stages, their artifacts, and the runner that computes only what is missing."""
