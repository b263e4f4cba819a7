"""The report's tables: rows of text from the analysis folder."""
