"""Hidden states: packing rows, recording block outputs, and the token positions at which states are read."""
