"""What a training set teaches: its masks, token contexts and asserted invariants."""
