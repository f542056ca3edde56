"""Networks of other programs: which of ours they are, and their weights under our names."""
