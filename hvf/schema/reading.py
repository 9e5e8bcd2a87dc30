"""JSON as it is read: parsed with a bound on its depth, and held to a type; one line says what is wrong, and where.

A type is a dataclass or `TypedDict` that stands where the file is written, or any annotation. Numbers are not taken for
text, nor the other way about (pydantic's strict mode).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from hvf.registry import HvfError

T = TypeVar("T")


def read_json(path: Path, again: str = "") -> Any:
    """Whatever JSON a file holds. HvfError if it is missing or holds none; ``again``: what to do then."""
    from pydantic_core import from_json

    return _read(path, from_json, again)


def read_as(kind: type[T], path: Path, again: str = "") -> T:
    """The JSON of a file in a type. HvfError if the file is missing, holds none, or something else than that."""
    return _read(path, lambda data: parse_as(kind, data), again)


def parse_json(text: str | bytes) -> Any:
    """JSON's value. Raises ValueError, in one line, for what is none."""
    from pydantic_core import from_json

    return from_json(text)


def parse_as(kind: type[T], text: str | bytes) -> T:
    """JSON's value in a type. Raises ValueError, in one line, for what is none or does not fit."""
    from pydantic import ValidationError

    try:
        return _adapter(kind).validate_json(text, strict=True)
    except ValidationError as error:
        raise ValueError(_first(error)) from None


def as_type(kind: type[T], value: Any) -> T:
    """A value that came from JSON in a type. Raises ValueError, in one line, if it does not fit."""
    from pydantic_core import to_json

    return parse_as(kind, to_json(value, inf_nan_mode="constants"))


def _read(path: Path, parse: Callable[[bytes], Any], again: str) -> Any:
    todo = f"; {again}" if again else ""
    try:
        return parse(path.read_bytes())
    except FileNotFoundError:
        raise HvfError(f"{path} is missing: {again or 'run the stage that writes it'}") from None
    except OSError as error:
        raise HvfError(f"{path} cannot be read: {error.strerror or error}{todo}") from error
    except ValueError as error:
        raise HvfError(f"{path} cannot be read as JSON: {error}{todo}") from error


def _first(error: Any) -> str:
    """The first thing that is wrong, and how many more there are."""
    errors = error.errors(include_url=False, include_context=False, include_input=False)
    place = ".".join(str(part)[:60] for part in errors[0]["loc"])
    words = " ".join(errors[0]["msg"].split()).removeprefix("Invalid JSON: ")[:200]
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    words = words[:1].lower() + words[1:] + more
    return f"{place}: {words}" if place else words


@cache
def _adapter(kind: Any) -> Any:
    """How a type is read: made once, for it takes as long as reading many files."""
    from pydantic import TypeAdapter

    return TypeAdapter(kind)
