"""Draws bits, Bernoulli masks and noise from a key and a shape."""
