"""The machine: its file, and what stage functions may read of it."""
