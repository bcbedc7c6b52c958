"""The regularizers, a file a family: each chooses a noise shape, a draw and what is dropped."""
