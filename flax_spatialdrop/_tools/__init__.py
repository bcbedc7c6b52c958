"""Looking at dropout: what a noise shape does, and many passes with dropout on."""
