"""Labels that repeat from row to row (image ids, concepts, splits): the distinct values, and a code per row."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from hvf.registry import HvfError


@dataclass(frozen=True, eq=False)
class Categorical:
    """Strings of N rows, that of row i being values[codes[i]]; `values` are distinct, and some may be unused."""

    values: np.ndarray  # (K,) str
    codes: np.ndarray  # (N,) int32

    @classmethod
    def of(cls, strings: Sequence[str] | np.ndarray | Categorical) -> Categorical:
        """Encode one string per row; what is encoded already is returned as it is. HvfError for a row without one."""
        if isinstance(strings, Categorical):
            return strings
        if not (isinstance(strings, np.ndarray) and strings.dtype.kind == "U"):
            objects = np.asarray(strings, dtype=object)
            absent = np.flatnonzero(pd.isna(objects))
            if len(absent):
                raise HvfError(f"trial {absent[0]} is given {objects[absent[0]]} as its label: leave it out")
        values, codes = np.unique(np.asarray(strings, dtype=str), return_inverse=True)
        return cls(values, codes.astype(np.int32))

    @staticmethod
    def joined(parts: Sequence[Categorical]) -> Categorical:
        """The rows of all, one after the other."""
        if all(np.array_equal(part.values, parts[0].values) for part in parts[1:]):
            return Categorical(parts[0].values, np.concatenate([part.codes for part in parts]))
        number: dict[str, int] = {}
        codes = [
            np.asarray([number.setdefault(value, len(number)) for value in part.values.tolist()], np.int32)[part.codes]
            for part in parts
        ]
        return Categorical(np.asarray(list(number), dtype=str), np.concatenate(codes))

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Categorical:
        """The inverse of `to_json`. Raises KeyError, TypeError or ValueError where it is not."""
        made = cls(np.asarray(fields["values"], dtype=str), unpacked(fields["codes"]))
        if len(made) and not 0 <= made.codes.min() <= made.codes.max() < len(made.values):
            raise ValueError("codes without a value")
        return made

    def to_json(self) -> dict[str, Any]:
        used, codes = np.unique(self.codes, return_inverse=True)
        return {"values": self.values[used].tolist(), "codes": packed(codes)}

    def __len__(self) -> int:
        return len(self.codes)

    def select(self, indices: np.ndarray | slice) -> Categorical:
        return Categorical(self.values, self.codes[indices])

    @cached_property
    def array(self) -> np.ndarray:
        """One str per row, (N,)."""
        return self.values[self.codes]

    def first(self) -> tuple[np.ndarray, np.ndarray]:
        """(the first row of each distinct string, ascending; each row's string, numbered in that order)."""
        _, first, group = np.unique(self.codes, return_index=True, return_inverse=True)
        order = np.argsort(first)
        return first[order], np.argsort(order)[group]


def packed(numbers: np.ndarray) -> str:
    """Whole numbers, one per trial, as base64 of little-endian int32: JSON takes long to read 100,000 of them."""
    return base64.b64encode(np.asarray(numbers).astype("<i4").tobytes()).decode()


def unpacked(text: str) -> np.ndarray:
    """The inverse of `packed`, int32. Raises TypeError or ValueError where it is not."""
    return np.frombuffer(base64.b64decode(text, validate=True), "<i4").astype(np.int32)
