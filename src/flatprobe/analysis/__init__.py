"""From artifacts to tables, estimates and the verdict."""
