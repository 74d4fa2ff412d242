"""How Sphinx makes the site (`make site`): README, docs, outputs and the notebooks with the outputs that they are committed with.

Nothing is executed and nothing is fetched, neither while the site is made nor while it is read.
"""

from importlib.util import find_spec
from pathlib import Path

import oefsmc_lib

project, author = "OE-FSMC", "OE-FSMC reproducibility package contributors"
version = release = oefsmc_lib.__version__
html_title = f"OE-FSMC {release}"

root_doc = "README"
include_patterns = ["README.md", "docs/*.md", "notebooks/README.md", "notebooks/0*.ipynb", "outputs/README.md"]
exclude_patterns = [".*", "oefsmc_lib", "tests", "outputs/*/**"]  # folders that hold no page need no walk
extensions = ["myst_nb", "sphinx.ext.mathjax"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"
# Sliders need a kernel, and their scripts a network; the picture beside them stays.
nb_ipywidgets_js = {}
nb_mime_priority_overrides = [("html", "application/vnd.jupyter.widget-view+json", None)]

html_theme = "furo"
# MathJax as one file, which sphinx-mathjax-offline carries; the usual address of MathJax is on the network.
MATHJAX = Path(find_spec("sphinx-mathjax-offline").origin).parent / "static" / "mathjax" / "tex-svg.js"
html_static_path = ["site.css", str(MATHJAX)]
mathjax_path = MATHJAX.name
html_css_files = ["site.css"]
html_copy_source = html_show_sourcelink = html_show_copyright = False

# The sidebar. GitHub shows the README without it, so it is added while Sphinx reads the README.
SIDEBAR = """
```{toctree}
:hidden:
:caption: What was found
docs/results
outputs/README
```
```{toctree}
:hidden:
:caption: Notebooks
:glob:
notebooks/0*
notebooks/README
```
```{toctree}
:hidden:
:caption: Use it
:glob:
docs/[!r]*
```
"""


def with_sidebar(app, name, source):
    if name == root_doc:
        source[0] += SIDEBAR


def setup(app):
    app.connect("source-read", with_sidebar)
