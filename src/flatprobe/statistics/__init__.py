"""Estimators and their inference. Reads tables and arrays only; imports no torch."""
