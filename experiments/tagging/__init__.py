"""Part-of-speech tagging: a treebank, networks that tag its words, and their accuracy."""
