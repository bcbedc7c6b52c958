"""Treebanks: a CoNLL-U file becomes sentences, divided into parts by document."""
