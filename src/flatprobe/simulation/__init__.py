"""Simulated studies with a known truth: what every estimator and the joint verdict are worth."""
