"""Sampling: one protocol, several engines, the same answers."""
