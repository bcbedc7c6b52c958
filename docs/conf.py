"""The settings of the book. One command builds it, with warnings as errors:

pip install -e '.[docs]' && python -m sphinx -W --keep-going docs docs/_build
"""

import sys
from pathlib import Path

import flax_spatialdrop
import flax_spatialdrop.linen
import flax_spatialdrop.nnx

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "flax_spatialdrop"
release = version = flax_spatialdrop.__version__
copyright = "the flax_spatialdrop authors"

extensions = [
    "docstrings",  # docs/_ext/docstrings.py
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx_copybutton",
    "sphinx_design",
]
myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath", "fieldlist"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]

# Each reference to a name of the package must lead to the page that documents it. Types of JAX,
# Flax and Python have no page here.
nitpicky = True
nitpick_ignore_regex = [("py:.*", r"(?!flax_spatialdrop).*")]

add_module_names = False
add_function_parentheses = False
maximum_signature_line_length = 70
python_use_unqualified_type_names = True
smartquotes = False  # quotation marks here are code
toc_object_entries = False
copybutton_prompt_text = r">>> |\.\.\. "
copybutton_prompt_is_regexp = True

html_theme = "sphinx_book_theme"
html_title = "flax_spatialdrop"
html_static_path = ["_static"]
html_css_files = ["book.css"]
html_js_files = ["tabs.js"]
html_show_sourcelink = False
html_theme_options = {
    "logo": {"text": "flax_spatialdrop"},
    "navbar_persistent": [],  # the search field is in the side bar
    "show_toc_level": 2,
    "footer_content_items": ["copyright.html"],
    "use_download_button": False,
    "use_fullscreen_button": False,
}
