"""Does the marker follow the system prompt or the answer's text?"""
