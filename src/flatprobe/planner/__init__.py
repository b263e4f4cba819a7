"""What to compute: turns a study into stages."""
