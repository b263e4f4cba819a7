"""The two probes, leakage and geometry, and the manipulation check."""
