"""The regularizers, one file for each family."""
