"""What a setting or an option may be: types with ranges, names in registries, lists; checked in one place.

The type of a field says it: a `Literal` is a closed list of words, `Named` a name in a registry, `Bound` a range of
numbers. Standard library only.
"""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from typing import Annotated, Any, Literal, TypeVar, cast

from hvf.registry import HvfError, Registry, did_you_mean

Item = TypeVar("Item")


@dataclass(frozen=True)
class Bound:
    """The range of a setting: in words that follow "must", and as a test."""

    words: str
    holds: Callable[[Any], bool]

    def check(self, value: Any, name: str) -> None:
        if not self.holds(value):
            raise HvfError(f"{name} must {self.words}, not {value}")


@dataclass(frozen=True)
class Named:
    """A setting that names an entry of a registry, or one of a few words beside them."""

    registry: Registry[Any]
    beside: tuple[str, ...] = ()

    def check(self, value: Any, name: str) -> None:
        known = [*self.registry, *self.beside]
        if value not in known:
            raise HvfError(f"{name} is {value!r}{did_you_mean(value, known)}")


Count = Annotated[int, Bound("be at least 1", lambda x: x >= 1)]
Seed = Annotated[int, Bound(f"lie between 0 and {2**32 - 1}", lambda x: 0 <= x < 2**32)]
Number = Annotated[int, Bound("be at least 0", lambda x: x >= 0)]
Positive = Annotated[float, Bound("be greater than 0", lambda x: x > 0)]
NotNegative = Annotated[float, Bound("be at least 0", lambda x: x >= 0)]
Share = Annotated[float, Bound("lie between 0 and 1", lambda x: 0 <= x <= 1)]
Part = Annotated[float, Bound("be at least 0 and less than 1", lambda x: 0 <= x < 1)]
Inner = Annotated[float, Bound("lie between 0 and 1, neither included", lambda x: 0 < x < 1)]
Betas = Annotated[tuple[float, float], Bound("be at least 0 and less than 1", lambda b: all(0 <= x < 1 for x in b))]

# Lists: EachOnce[str] is one of words of which none stands twice, SomeEachOnce[str] one that has a word, too.
EachOnce = Annotated[tuple[Item, ...], Bound("name each once", lambda several: len(set(several)) == len(several))]
SomeEachOnce = Annotated[
    tuple[Item, ...], Bound("name at least one, each once", lambda several: 0 < len(set(several)) == len(several))
]


class Section:
    """A table of settings, each checked against the type of its field when the table is built.

    Numbers are normalised (an int becomes the float that its field asks for), so that equal settings compare equal.
    """

    name_in_config = ""

    def __init_subclass__(cls, name: str = "") -> None:
        cls.name_in_config = name

    def __post_init__(self) -> None:
        prefix = f"{self.name_in_config}." if self.name_in_config else ""
        for name, hint in hints(type(self)).items():
            object.__setattr__(self, name, checked(hint, getattr(self, name), prefix + name))


def check_options(options: Any, prefix: str = "--") -> None:
    """Hold the options of a command or a script to their fields' types and bounds, as settings are; HvfError if not."""
    for name, hint in hints(options.__class__).items():
        value, called = getattr(options, name), f"{prefix}{name.replace('_', '-')}"
        if is_dataclass(hint):
            check_options(value, f"{called}.")
        elif not (is_dataclass(value) or isinstance(value, dict)):  # a configuration and its settings: checked as such
            checked(hint, value, called)


@cache
def hints(cls: type) -> dict[str, Any]:
    """{field: its type, with the bounds that are annotated}."""
    known = typing.get_type_hints(cls, include_extras=True)
    return {f.name: known[f.name] for f in fields(cls)}


def checked(hint: Any, value: Any, name: str) -> Any:
    """`value` in the type of its field: an int as the float asked for, a list as a tuple; HvfError if neither fits."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        value = checked(args[0], value, name)
        for rule in args[1:]:
            if isinstance(rule, (Bound, Named)):  # others are for the parser of options
                rule.check(value, name)
        return value
    if origin is Literal:
        if value not in args:
            raise HvfError(f"{name} is {value!r}{did_you_mean(str(value), args)}")
        return value
    if origin in (typing.Union, types.UnionType):
        return None if value is None else checked(next(a for a in args if a is not type(None)), value, name)
    if origin is tuple and isinstance(value, (list, tuple)):
        several = cast("Sequence[Any]", value)
        if args[-1] is Ellipsis or len(several) == len(args):
            return tuple(checked(args[0], one, name) for one in several)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if origin is not None or not isinstance(value, hint) or isinstance(value, bool) != (hint is bool):
        expected = hint.__name__ if origin is None else str(hint).replace("typing.", "")
        raise HvfError(f"setting {name!r} must be {expected}, not {value!r}")
    if isinstance(value, float) and not math.isfinite(value):
        raise HvfError(f"{name} must be a finite number, not {value}")
    return cast(Any, value)
