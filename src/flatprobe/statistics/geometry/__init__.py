"""Geometric measures of personas' hidden states, with intervals over questions and personas."""
