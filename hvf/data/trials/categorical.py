"""Words that repeat from row to row (image ids, concepts, splits): the distinct ones, and a number per row."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class Words:
    """Row i says values[codes[i]]; `values` are distinct, and some may be unused."""

    values: np.ndarray  # (K,) str
    codes: np.ndarray  # (N,) int32

    @classmethod
    def of(cls, words: Sequence[str] | np.ndarray) -> Words:
        values, codes = np.unique(np.asarray(words, dtype=str), return_inverse=True)
        return cls(values, codes.astype(np.int32))

    @staticmethod
    def joined(parts: Sequence[Words]) -> Words:
        """The rows of all, one after the other."""
        if all(np.array_equal(part.values, parts[0].values) for part in parts[1:]):
            return Words(parts[0].values, np.concatenate([part.codes for part in parts]))
        number: dict[str, int] = {}
        codes = [
            np.asarray([number.setdefault(value, len(number)) for value in part.values.tolist()], np.int32)[part.codes]
            for part in parts
        ]
        return Words(np.asarray(list(number), dtype=str), np.concatenate(codes))

    @classmethod
    def from_json(cls, told: dict[str, Any]) -> Words:
        """The inverse of `to_json`. Raises KeyError, TypeError or ValueError where it is not."""
        words = cls(np.asarray(told["values"], dtype=str), unpacked(told["codes"]))
        if len(words) and not 0 <= words.codes.min() <= words.codes.max() < len(words.values):
            raise ValueError("codes without a value")
        return words

    def to_json(self) -> dict[str, Any]:
        used, codes = np.unique(self.codes, return_inverse=True)
        return {"values": self.values[used].tolist(), "codes": packed(codes)}

    def __len__(self) -> int:
        return len(self.codes)

    def select(self, indices: np.ndarray | slice) -> Words:
        return Words(self.values, self.codes[indices])

    def array(self) -> np.ndarray:
        """One str per row, (N,)."""
        return self.values[self.codes]

    def first(self) -> tuple[np.ndarray, np.ndarray]:
        """(the row that says each distinct word first, ascending; each row's word, numbered in that order)."""
        _, first, group = np.unique(self.codes, return_index=True, return_inverse=True)
        order = np.argsort(first)
        return first[order], np.argsort(order)[group]


class Label:
    """A field of words or None: set to a sequence or `Words`, read as an array of str."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            raise AttributeError(self.name)  # which tells dataclass that there is no default
        words, spelt = instance.__dict__[self.name], f"_{self.name}"
        if words is not None and spelt not in instance.__dict__:
            instance.__dict__[spelt] = words.array()
        return instance.__dict__.get(spelt)

    def __set__(self, instance: Any, words: Any) -> None:
        instance.__dict__[self.name] = words if words is None or isinstance(words, Words) else Words.of(words)


def packed(numbers: np.ndarray) -> str:
    """Whole numbers, one per trial, as base64 of little-endian int32: JSON takes long to read 100,000 of them."""
    return base64.b64encode(np.asarray(numbers).astype("<i4").tobytes()).decode()


def unpacked(text: str) -> np.ndarray:
    """The inverse of `packed`, int32. Raises TypeError or ValueError where it is not."""
    return np.frombuffer(base64.b64decode(text, validate=True), "<i4").astype(np.int32)
