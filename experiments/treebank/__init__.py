"""Treebanks: reads CoNLL-U files, and splits their sentences by document."""
