"""Sphinx: these pages as a site (`make docs`)."""

project = "ram_backend"
extensions = ["myst_parser", "sphinxcontrib.mermaid"]
html_theme = "furo"
myst_heading_anchors = 3
myst_fence_as_directive = ["mermaid"]
