"""The documentation, built by `make docs`."""

import os
import posixpath
import re
from importlib.metadata import metadata

os.environ.setdefault("OMP_NUM_THREADS", "2")

ABOUT = metadata("pyg-match")
SOURCE = next(url.split(", ")[1] for url in ABOUT.get_all("Project-URL") if url.startswith("Source, "))

project = "pyg_match"
author = ABOUT["Author"]
copyright = f"2026, {author}"
release = version = ABOUT["Version"]
html_title = f"pyg_match {version}"
html_theme = "furo"
html_theme_options = {"source_repository": SOURCE, "source_branch": "main", "source_directory": "docs/"}

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.intersphinx",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
exclude_patterns = ["_build", "ablation/*"]
copybutton_exclude = ".linenos, .gp, .go"
myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 3

# Notebooks are stored without their outputs.
nb_execution_mode = os.environ.get("DOCS_NOTEBOOKS", "cache")
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_merge_streams = True

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_custom_sections = [("Shapes", "notes_style"), ("Source", "notes_style")]

# Offline builds leave the references to other packages as plain text.
intersphinx_mapping = {
    "python": ("https://docs.python.org/3", None),
    "torch": ("https://docs.pytorch.org/docs/stable", None),
    "torch_geometric": ("https://pytorch-geometric.readthedocs.io/en/latest", None),
}
if os.environ.get("DOCS_OFFLINE"):
    intersphinx_mapping = {}


def _source_links(app, docname, source):
    """Files outside of this folder are linked where they are published, in the state of this version."""
    folder = posixpath.join("docs", posixpath.dirname(docname))
    state = "main" if "dev" in version else f"v{version}"

    def published(link):
        path = posixpath.normpath(posixpath.join(folder, link[1]))
        return link[0] if path.startswith("docs/") else f"]({SOURCE}/blob/{state}/{path})"

    source[0] = re.sub(r"\]\((\.\./[^)]+)\)", published, source[0])


def setup(app):
    app.connect("source-read", _source_links)
