"""Simulated studies with a known truth: size, power and coverage of every estimator and of the joint verdict."""
