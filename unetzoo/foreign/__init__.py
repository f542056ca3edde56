"""Networks that other programs made: which of ours they are, and their weights under our names."""
