"""Comparison of networks by their costs, counted or measured."""
