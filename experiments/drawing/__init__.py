"""Draws the figures of the book and of the README."""
