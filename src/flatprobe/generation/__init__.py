"""Sampling: one protocol, several engines."""
