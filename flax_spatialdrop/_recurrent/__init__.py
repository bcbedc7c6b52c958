"""Dropout in recurrent networks: the masks, and the loop over a sequence."""
