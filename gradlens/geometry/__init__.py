"""What a network's architecture says about its checkerboards, before any training and without data."""
