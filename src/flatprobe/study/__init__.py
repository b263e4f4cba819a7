"""The study: schema, loading, panel, questions, checks and registration."""
