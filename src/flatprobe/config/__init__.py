"""Reads YAML files into frozen models and gives the line of every problem. Independent of the study's schema."""
