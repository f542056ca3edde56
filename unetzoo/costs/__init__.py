"""The costs of a network: counted without allocating a weight, or measured."""
