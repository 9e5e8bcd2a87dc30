"""Templates of pages: HTML that holds everything, in which every name is escaped and only our own script runs."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

import jinja2
from markupsafe import Markup


def environment() -> jinja2.Environment:
    """Where this room's templates are; a name that they lack is an error."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals["policy"] = policy
    return made


def policy(style: str, *scripts: str) -> Markup:
    """The element that lets a browser apply this style, run these scripts, and fetch nothing, whatever a name says."""
    run = f"; script-src {' '.join(map(_hash, scripts))}" if scripts else ""
    rules = f"default-src 'none'; img-src data:; style-src {_hash(style)}{run}; base-uri 'none'; form-action 'none'"
    return Markup(f'<meta http-equiv="Content-Security-Policy" content="{rules}">')


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
