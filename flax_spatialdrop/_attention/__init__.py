"""Dropout of attention weights: of whole weights, and in blocks that never hold them all."""
