"""Quantised weights: how each scheme is recognised, and how it is read."""
