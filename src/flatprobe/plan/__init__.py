"""What to compute: a study as stages, in the order of the science."""
