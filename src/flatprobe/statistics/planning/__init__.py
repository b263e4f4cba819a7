"""Power, detectable effects and expected errors of a design, before any run."""
