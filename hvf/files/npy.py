"""Arrays of numbers in `.npy` files: the header is held to the file before anything of its size is made."""

from __future__ import annotations

import math
from pathlib import Path
from tokenize import TokenError
from typing import NamedTuple

import numpy as np

from hvf.registry import HvfError

HEADER = 10_000  # bytes, as numpy has it: longer ones can exhaust Python's parser
_READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


class PickledObjects(HvfError):
    """The file holds Python objects, not numbers."""


class Header(NamedTuple):
    """What a `.npy` says of its array."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype
    begin: int  # byte of the file at which the numbers begin


def npy_header(path: Path) -> Header:
    """The header of a `.npy`, and that the file holds as much. Raises HvfError for what is broken or none."""
    try:
        with open(path, "rb") as file:
            if file.read(4)[:2] == b"PK":
                raise HvfError(f"{path} holds several arrays (.npz), not one: save the one that is meant, by np.save")
            file.seek(0)
            version = np.lib.format.read_magic(file)
            # Version 3 is version 2 in UTF-8, which only the names of fields need.
            shape, fortran, dtype = _READERS[min(version, (2, 0))](file, max_header_size=HEADER)
            begin, size = file.tell(), file.seek(0, 2)
    except OSError as error:
        raise HvfError(f"cannot read {path}: {error.strerror or error}") from error
    except (KeyError, MemoryError, RecursionError, SyntaxError, TokenError, TypeError, ValueError) as error:
        words = " ".join(str(error).split())[:160]
        raise HvfError(f"cannot read {path} as an array of numbers: its .npy header is broken ({words})") from error
    if dtype.hasobject:
        raise PickledObjects(
            f"{path} holds pickled Python objects, which can run code when read; save the numbers alone: "
            "np.save(path, np.asarray(x, dtype=np.float32))"
        )
    if any(isinstance(n, bool) or n < 0 for n in shape) or math.prod(max(1, n) for n in shape) >= 2**60:
        raise HvfError(f"cannot read {path} as an array of numbers: its .npy header has no shape that can be")
    needed = math.prod(shape) * dtype.itemsize
    if needed > size - begin:
        raise HvfError(
            f"cannot read {path}: it is cut off or its header is broken, with {size - begin} bytes of numbers for a "
            f"shape that needs {needed}"
        )
    return Header(shape, bool(fortran), dtype, begin)


def read_npy(path: Path, mmap: bool = False) -> np.ndarray:
    """The array of a `.npy`, in memory or memory-mapped. Raises HvfError as `npy_header` does, for objects too."""
    header = npy_header(path)
    try:
        mapped = mmap and math.prod(header.shape) * header.dtype.itemsize > 0  # nothing cannot be mapped
        return np.load(path, mmap_mode="r" if mapped else None, allow_pickle=False)
    except (OSError, ValueError, EOFError, MemoryError) as error:
        raise HvfError(f"cannot read {path}: {' '.join(str(error).split())[:200]}") from error
