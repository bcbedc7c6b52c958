"""Tools: descriptions and pictures of noise shapes, and Monte Carlo dropout."""
