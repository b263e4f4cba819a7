"""Estimators of the difference in leakage between two conditions."""
