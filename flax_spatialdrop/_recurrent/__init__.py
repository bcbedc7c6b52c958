"""Dropout in recurrent networks: its masks, and the loop over a sequence."""
