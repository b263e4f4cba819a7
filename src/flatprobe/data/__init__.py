"""From conversations, questions and rows to tokens with their loss terms."""
