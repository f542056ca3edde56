"""What a network costs: counted without allocating a weight, or measured."""
