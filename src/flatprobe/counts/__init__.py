"""Counts and completions from files that people bring."""
