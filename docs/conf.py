"""Settings of the site; `sphinx-build` reads them. Nothing of it needs a network, neither to build nor to be read."""

import os
import re
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # examples are small, and gain nothing from threads
os.environ["MPLBACKEND"] = "agg"
sys.path.insert(0, str(Path(__file__).parent / "_extensions"))

import skdpq

project = "skdpq"
author = "The skdpq developers"
version = release = skdpq.__version__
html_title = "skdpq"

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
    "sphinx_gallery.gen_gallery",
    "sphinx_copybutton",
    "sphinx_design",
    "mathml",
    "readable",
]
templates_path = ["_templates"]
exclude_patterns = ["_build", "**sg_execution_times.rst", "search.md", "gallery/*.md5", "gallery/*.ipynb"]
default_role = "code"  # docstrings quote code by single backticks, as scikit-learn's do

myst_enable_extensions = ["dollarmath", "colon_fence", "deflist", "attrs_inline"]
myst_heading_anchors = 3
myst_links_external_new_tab = False

autodoc_typehints = "none"  # the docstrings have them, in words
toc_object_entries_show_parents = "hide"
autodoc_member_order = "bysource"
autosummary_generate = True
numpydoc_show_class_members = False  # autodoc lists them
numpydoc_class_members_toctree = False

copybutton_exclude = ".linenos, .gp, .go"

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "gallery",
    "filename_pattern": "/plot_",
    "ignore_pattern": r"(serve|watch_grid_search)\.py",
    "example_extensions": {".py"},
    "abort_on_example_error": True,
    "capture_repr": (),
    "download_all_examples": False,
    "parallel": 2,
    "show_memory": False,
    "show_signature": False,
    "doc_module": ("skdpq",),
    "backreferences_dir": "api/backreferences",
    "image_srcset": ["2x"],
    "min_reported_time": 0,
}

html_theme = "pydata_sphinx_theme"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "show_prev_next": True,
    "navbar_persistent": ["search-button"],
    "navigation_with_keys": False,  # arrow keys are those of the reader's browser
    "secondary_sidebar_items": ["page-toc"],
    "header_links_before_dropdown": 6,
    "footer_start": ["copyright"],
    "footer_end": ["theme-version"],
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
html_sidebars = {"index": [], "getting_started": [], "guide": [], "changelog": [], "citation": []}
copyright = "The skdpq developers, BSD-3-Clause"


def skip_what_scikit_learn_documents(app, what, name, obj, skip, options):
    """Leave out members that scikit-learn has written, as get_params: its documentation tells of them."""
    function = getattr(obj, "fget", obj)
    return True if (getattr(function, "__module__", None) or "").startswith("sklearn.") else skip


def escape_trailing_underscores(app, what, name, obj, options, lines):
    """Let names such as n_samples_fit_ stand in the text of docstrings, where RST would take them for links."""
    lines[:] = [re.sub(r"(?<![`\w.])(\w+)_(?=[,)])", r"\1\\_", line) for line in lines]


def lead_around_the_search_page(app, docname, source):
    """Let links to search.md lead to searching.md, which includes it: Sphinx's own page of hits is search.html."""
    source[0] = re.sub(r"\((\.\./|docs/)?search\.md", r"(\1searching.md", source[0])


def setup(app):
    """Connect what the settings cannot say."""
    app.connect("autodoc-process-docstring", escape_trailing_underscores, priority=900)  # after numpydoc
    app.connect("source-read", lead_around_the_search_page)
    app.connect(
        "include-read", lambda app, relative, docname, content: lead_around_the_search_page(app, docname, content)
    )
    app.connect("autodoc-skip-member", skip_what_scikit_learn_documents)
