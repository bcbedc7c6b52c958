"""The settings of the book; `python -m sphinx -W --keep-going docs docs/_build` builds it."""

import flax_spatialdrop

project = "flax_spatialdrop"
release = version = flax_spatialdrop.__version__
copyright = "the flax_spatialdrop authors"

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "sphinx_copybutton",
    "sphinx_design",
]
myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]

html_theme = "sphinx_book_theme"
html_title = "flax_spatialdrop"
html_static_path = ["_static"]
