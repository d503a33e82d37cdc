"""Sphinx configuration. Build with: python -m sphinx -W -b html docs docs/_build/html

Nothing is fetched: mathematics becomes MathML at build time (`_ext/mathml.py`), there is no intersphinx, and no page
refers to another host for a script, a style or a font.
"""

from __future__ import annotations

import os
import sys
import warnings
from importlib.metadata import version as installed_version
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "agg")
# Gallery pages show what their own lines print, not how the libraries load a model.
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

project = "unlearning-duality"
author = "The unlearning-duality developers"
copyright = author
version = release = installed_version("unlearning-duality")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.doctest",
    "sphinx_gallery.gen_gallery",
    "mathml",
    "complete",
    "links",
]
source_suffix = {".rst": "restructuredtext", ".md": "markdown"}
exclude_patterns = ["_build", "gallery/*.rst", "gallery/*.md", "sg_execution_times.rst", "gallery_built/*.ipynb"]
suppress_warnings = ["config.cache"]
nitpicky = False

myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath", "fieldlist"]
myst_dmath_double_inline = True
myst_heading_anchors = 3
html_math_renderer = "mathml"

default_role = "code"  # names in docstrings stand in single backticks, or in double ones
add_module_names = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_type_aliases = {"ArrayLike": "ArrayLike", "Array": "Array"}
napoleon_use_rtype = False
napoleon_use_ivar = True

html_theme = "furo"
html_title = "unlearning-duality"
html_static_path = ["_static"]
html_css_files = ["own.css"]
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {"source_edit_link": "", "top_of_page_buttons": []}

sphinx_gallery_conf = {
    "examples_dirs": "gallery",
    "gallery_dirs": "gallery_built",
    "filename_pattern": r"plot_",
    "within_subsection_order": "order.GalleryOrder",
    "download_all_examples": False,
    "show_memory": False,
    "show_signature": False,
    "min_reported_time": 1000,
    "write_computation_times": False,
    "abort_on_example_error": True,
    "image_scrapers": ("matplotlib",),
    "matplotlib_animations": False,
    "remove_config_comments": True,
    "reset_modules": ("matplotlib",),
}
# The gallery pickles part of the configuration to see whether it has changed; Sphinx warns that functions cannot be.
warnings.filterwarnings("ignore", message="The config value .* cannot be pickled")
