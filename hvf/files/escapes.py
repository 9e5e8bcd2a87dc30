"""Text as text: names that come from anybody, as Markdown and LaTeX show them letter by letter.

A page needs none of it: its templates escape everything (`hvf.report.pages`).
"""

from __future__ import annotations

import re

from hvf.progress import one_line

# What Markdown takes as markup: entities and tags, spans, links and pictures, cells, formulas; addresses become links.
_MARKDOWN = re.compile(r"[\\`*\[\]|~$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|(?<=:)//|(?<=\bwww)\.", re.IGNORECASE)
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_LATEX = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--", "−": "$-$",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': "''",  # the last is a command in German
    "[": "{[}", "]": "{]}", "*": "{*}",  # after the end of a row they would be its argument
    "↑": r"$\uparrow$", "↓": r"$\downarrow$", **{char: rf"\{char}" for char in "&%$#_{}"},
}  # fmt: skip


def plain_markdown(text: object) -> str:
    r"""The text, no part of which is markup.

    >>> plain_markdown("<b> | my_run [x](y)")
    '&lt;b&gt; \\| my_run \\[x\\](y)'
    """
    entities = "".join(_ENTITIES.get(char, char) for char in one_line(text))
    return _MARKDOWN.sub(lambda match: "\\" + match[0], entities)


def plain_latex(text: str) -> str:
    r"""The text, no part of which is a command.

    >>> plain_latex("50 % of a_b")
    '50 \\% of a\\_b'
    """
    return "".join(_LATEX.get(char, char) for char in one_line(text))
