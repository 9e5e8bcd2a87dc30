"""Sphinx: the pages of this folder as a site (`make docs`, written to docs/_build/html). Warnings are errors there.

The pages are Markdown that a code host shows as it is; what Sphinx needs beside it is decided here.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pygments.lexers.special import TextLexer
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("HVF_QUIET", "1")
os.environ["COLUMNS"] = "80"  # of the help that commands and settings print

import hvf  # noqa: E402

project = "hvf"
author = copyright = "The hvf contributors"  # noqa: A001 (Sphinx's name)
version = release = hvf.__version__
extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "examples", "gallery/*.ipynb", "gallery/*.py", "**sg_execution_times.rst"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
highlight_language = "text"  # fences without a language are drawings
nitpicky = False  # numpydoc types are words ("ndarray (N, C, T)"), not always names

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
# $ stands for shells and environment variables on these pages, not for formulas.
myst_dmath_allow_digits = False
myst_dmath_double_inline = False

templates_path = ["_templates"]
default_role = "literal"  # `x` in a docstring is code
autosummary_generate = True
autodoc_typehints = "none"  # numpydoc's Parameters say them, with shapes and units
numpydoc_show_class_members = False  # the template lists them, with what they say

sphinx_gallery_conf = {
    "examples_dirs": "examples",
    "gallery_dirs": "gallery",
    "filename_pattern": r"/plot_",
    "capture_repr": ("_repr_html_", "__repr__"),
    "image_scrapers": ("matplotlib",),
    "first_notebook_cell": "%matplotlib inline",  # so that a figure that is returned is shown
    "download_all_examples": False,
    "show_memory": False,
    "min_reported_time": 1e9,
    "remove_config_comments": True,
}

html_theme = "pydata_sphinx_theme"
html_title = f"hvf {release}"
html_static_path = ["_static"]
html_css_files = ["hvf.css"]
html_show_sourcelink = False
html_theme_options = {
    "navbar_align": "left",
    "header_links_before_dropdown": 6,
    "show_toc_level": 2,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "navigation_with_keys": False,
    "pygments_dark_style": "github-dark",
}
html_sidebars = {page: [] for page in ("index", "glossary", "reference/commands", "reference/settings")}

# Files beside this folder that pages link to, and the page that shows each.
BESIDE = {"../CONTRIBUTING.md": "contributing.md", "../SECURITY.md": "security.md", "../CHANGELOG.md": "changes.md"}


def _beside(_: Sphinx, __: str, source: list[str]) -> None:
    """Links to files beside docs/ lead to the pages that show them."""
    for path, page in BESIDE.items():
        source[0] = source[0].replace(f"]({path})", f"]({page})").replace(f"]({path}#", f"]({page}#")


def _help(*words: str) -> list[str]:
    """A block with what a command prints when it is asked for help."""
    from hvf import cli

    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        cli.main(list(words))
    return ["```text", said.getvalue().strip(), "```", ""]


COMMANDS = """# Commands

What `hvf COMMAND --help` says. Every [setting](settings.md) is an option of `train`, `retrieve` and `reconstruct`, too.
"""
SETTINGS = """# Settings

All settings of a configuration, with the defaults of the preset `mini`: what `hvf train --help-settings` says. In
Python: `hvf.with_settings(hvf.presets.mini(), {"align.epochs": 5})`.
"""


def _write_reference(_: Sphinx) -> None:
    """Write reference/commands.md and settings.md: what the command line itself says of commands and settings."""
    from hvf import cli
    from hvf.cli import data

    lines = [COMMANDS]
    for words in [[name] for name in cli.COMMANDS] + [["data", name] for name in data.COMMANDS]:
        lines += [f"## hvf {' '.join(words)}", "", *_help(*words, "--help")]
    settings = [SETTINGS, *_help("train", "--help-settings")]
    for name, text in (("commands", lines), ("settings", settings)):
        (ROOT / "docs" / "reference" / f"{name}.md").write_text("\n".join(text), encoding="utf-8")


class _Page(HTMLParser):
    """What a page links to, and the anchors that it has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = dict(attrs)
        self.anchors.update(name for name in (known.get("id"), known.get("name")) if name)
        self.links += [link for link in (known.get("href"), known.get("src")) if link]


def _check_links(app: Sphinx, error: Exception | None) -> None:
    """Hold every link inside the site to what was built: the file is there, and the anchor in it."""
    if error is not None or app.builder.format != "html":
        return
    root = Path(app.outdir)
    pages = {file: _Page(file.read_text(encoding="utf-8")) for file in root.rglob("*.html")}
    wrong = []
    for file, page in pages.items():
        if file.relative_to(root).parts[0] in ("_modules", "_static"):  # viewcode's own way back, and the theme's
            continue
        for link in page.links:
            address = urlsplit(link)
            if address.scheme or address.netloc:
                continue
            target = (file.parent / unquote(address.path)).resolve() if address.path else file
            anchor = unquote(address.fragment)
            if not target.exists() or (anchor and target in pages and anchor not in pages[target].anchors):
                wrong.append(f"{file.relative_to(root)}: {link}")
    if wrong:
        raise ExtensionError("links that lead nowhere:\n" + "\n".join(sorted(set(wrong))))


def setup(app: Sphinx) -> None:
    app.add_lexer("import-order", TextLexer)  # the block of architecture.md that a test reads
    app.connect("source-read", _beside)
    app.connect("builder-inited", _write_reference)
    app.connect("build-finished", _check_links)
