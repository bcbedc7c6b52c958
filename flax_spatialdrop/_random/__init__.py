"""The only place that draws: bits, masks and noise, from a key and a shape."""
