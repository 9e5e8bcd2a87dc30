"""Arrays from untrusted files: each length is checked against the file, each allocation against a budget."""

from __future__ import annotations

import math
import zlib
from collections import Counter
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from hvf.files.budgets import COLLISIONS


class Refused(Exception):
    """Why a file is refused; completes a sentence that starts with its path."""


def broken(what: str) -> Refused:
    return Refused(f"is broken or not a data file: {what}; get the file again")


def foreign(what: str) -> Refused:
    return Refused(f"{what}; only numpy arrays, dicts, lists, strings and numbers are read, and nothing was run")


@dataclass
class Budget:
    """Bytes that may still be allocated."""

    total: int
    spent: int = 0

    def spend(self, n: int) -> None:
        self.spent += n
        self.check(self.spent)

    def check(self, n: int) -> None:
        if n > self.total:
            raise Refused("would take far more memory than a data file of its size; if you trust it, raise max_bytes")


class Keys:
    """How many keys of each dict have one hash: to find a place each is compared with all others."""

    def __init__(self) -> None:
        self.hashes: dict[int, Counter[int]] = {}
        self.compared = 0

    def add(self, of: int, key: Any) -> None:
        """Count a key of the dict whose id is `of`. Raises Refused if the dicts would take for ever to fill."""
        if type(key) is str:
            return  # its hash cannot be foreseen, those of numbers can
        held, number = self.hashes.setdefault(of, Counter()), hash(key)
        self.compared += held[number]
        held[number] += 1
        if self.compared > COLLISIONS:
            raise Refused("has a dict with thousands of keys of one hash, which no data file has")


@dataclass(eq=False)
class Span:
    """Bytes `begin` to `begin + length` of an open file, not read yet."""

    file: BinaryIO
    begin: int
    length: int
    budget: Budget
    mmap: bool = False

    def part(self, begin: int, length: int) -> Span:
        if begin < 0 or length < 0 or begin + length > self.length:
            raise broken(f"{length} bytes announced, {max(self.length - begin, 0)} left (truncated?)")
        return Span(self.file, self.begin + begin, length, self.budget, self.mmap)

    def start(self, n: int) -> bytes:
        self.file.seek(self.begin)
        return self.file.read(min(n, self.length))

    def read(self) -> bytes:
        self.budget.spend(self.length)
        return self.start(self.length)

    def crc32(self) -> int:
        self.file.seek(self.begin)
        crc, left = 0, self.length
        while left:
            block = self.file.read(min(left, 2**20))
            if not block:
                raise broken("it ends early")
            crc, left = zlib.crc32(block, crc), left - len(block)
        return crc

    def flat(self, dtype: np.dtype) -> np.ndarray:
        """The bytes as a 1-d array, `length` being a multiple of the item size."""
        if self.mmap and self.length >= 2**20:
            mapped = np.memmap(self.file, np.uint8, "c", self.begin, (self.length,))
            return np.asarray(mapped).view(dtype)
        self.budget.spend(self.length)
        flat = np.empty(self.length // dtype.itemsize, dtype)
        memory = memoryview(flat.view(np.uint8))  # type: ignore[arg-type]
        self.file.seek(self.begin)
        if self.file.readinto(memory) != self.length:  # type: ignore[attr-defined]
            raise broken("it ends early")
        return flat


def array(data: Span | bytes, dtype: np.dtype, shape: tuple[int, ...], budget: Budget) -> np.ndarray:
    """`data` as a 1-d array, once dtype and shape are checked against its length.

    Parameters
    ----------
    data : Span or bytes
    dtype : numpy.dtype
    shape : tuple of int
        Of the array that the caller reshapes to.
    budget : Budget
    """
    if dtype.kind not in "biufcSU" or not dtype.itemsize:
        raise foreign(f"holds an array of dtype {str(dtype)[:60]!r}")
    length = data.length if isinstance(data, Span) else len(data)
    check_shape(shape, dtype.itemsize, length)
    if math.prod(shape) * dtype.itemsize != length:
        raise broken(f"an array of shape {shape} and dtype {dtype} cannot have {length} bytes")
    if not length:
        return np.empty(math.prod(shape), dtype)
    if isinstance(data, Span):
        flat = data.flat(dtype)
    else:
        budget.spend(length)
        flat = np.frombuffer(bytearray(data), dtype)
    if dtype.kind == "U" and flat.view(dtype.byteorder + "u4").max() > 0x10FFFF:
        raise broken("an array of strings holds what is no character")
    if dtype.kind == "b" and flat.view(np.uint8).max() > 1:
        raise broken("an array of booleans holds something else")
    return flat


def check_shape(shape: Any, itemsize: int, length: int) -> None:
    if type(shape) is not tuple or len(shape) > 32 or any(type(n) is not int or not 0 <= n < 2**47 for n in shape):
        raise broken("what should be the shape of an array is none")
    # What holds no bytes must not have items either, and an empty array no axis that could not exist.
    if math.prod(n for n in shape if n) * max(itemsize, 1) > max(length, 2**31):
        raise broken(f"an array of shape {shape} cannot lie in {length} bytes")


def object_array(shape: tuple[int, ...], values: list[Any]) -> np.ndarray:
    if math.prod(shape) != len(values):
        raise broken(f"an array of shape {shape} with {len(values)} objects")
    flat = np.empty(len(values), object)
    for i, value in enumerate(values):
        flat[i] = value
    return flat.reshape(shape)


def tensor(values: np.ndarray, first: int, shape: tuple[Any, ...], strides: tuple[Any, ...]) -> np.ndarray:
    """A tensor as a view of its storage, checked to stay inside it.

    Parameters
    ----------
    values : ndarray
        The storage, 1-d.
    first : int
        Index of the first element.
    shape, strides : tuple of int
        In elements.
    """
    check_shape(shape, values.itemsize, values.nbytes)
    if len(strides) != len(shape) or any(type(n) is not int or n < 0 for n in (first, *strides)):
        raise broken("a tensor with impossible strides")
    count = math.prod(shape)
    last = first + sum((n - 1) * step for n, step in zip(shape, strides, strict=True)) if count else first
    if count > len(values) or (count and last >= len(values)):
        raise broken(f"a tensor of shape {shape} reaches beyond its storage of {len(values)} values")
    if not count:
        return np.empty(shape, values.dtype)
    steps = [step * values.itemsize for step in strides]
    return np.lib.stride_tricks.as_strided(values[first:], shape, steps)
