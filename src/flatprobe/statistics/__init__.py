"""Estimates, gates and the verdict. Reads tables and arrays only, so inference can be redone without
torch."""
