"""What is studied: schema, loading, panel, questions, registration."""
