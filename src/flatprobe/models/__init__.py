"""Where models come from, what identifies them, and how they are loaded."""
