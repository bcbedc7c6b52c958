"""Sensors: recordings of a watch, a network that names the exercise, and sensors that fail."""
