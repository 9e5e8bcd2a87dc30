"""Reading of pickled files from others without running them: THINGS-EEG2's .npy, bare pickles, torch.save archives.

A pickle is a program. This reads one by interpreting its opcodes, so that nothing in the file is ever imported or
called: globals are compared with known names, and the results are numpy arrays, scalars and dtypes, dict, list, tuple,
str, bytes, int, float, bool and None. Each length is checked against the file, each allocation against a budget, each
nesting against a depth, before anything is built. Large payloads are read once, straight into their array.
"""

from __future__ import annotations

import ast
import os
import re
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from hvf.config import HvfError
from hvf.files.archives import open_zip
from hvf.files.budgets import PICKLE_FREE, PICKLE_TIMES
from hvf.pickles.arrays import Budget, Refused, Span, array, broken, foreign
from hvf.pickles.machine import Machine


def load(path: str | Path, *, max_bytes: int | None = None, mmap: bool = False) -> Any:
    """Read a .npy file (plain or pickled), a bare pickle (protocols 0 to 5) or a `torch.save` archive.

    Tensors come as numpy arrays (bfloat16 as float32), an OrderedDict as a dict, a 0-d object array as what it holds.
    With `mmap`, large numeric arrays of .npy files and pickles are mapped copy-on-write instead of read.
    `max_bytes` bounds the memory taken; by default 4 times the file and 128 MiB.

    Raises HvfError if the file is missing, truncated or none of these, or holds or does anything else than such data.
    Nothing that it carries has run then.
    """
    path = Path(path)
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            budget = Budget(PICKLE_TIMES * size + PICKLE_FREE if max_bytes is None else max_bytes)
            span = Span(file, 0, size, budget, mmap)
            start = span.start(64)
            if start.startswith(b"\x93NUMPY"):
                x = _npy(span)
            elif start.startswith(b"PK\x03\x04"):
                x = _torch(span)
            elif b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19" in start:
                raise Refused("is a torch file from before 1.6; save it again with a newer torch.save")
            else:
                x = Machine(span).run()
            return x.item() if isinstance(x, np.ndarray) and x.dtype == object and x.shape == () else x
    except OSError as error:
        raise HvfError(f"cannot read {path}: {error.strerror or error}") from error
    except Refused as error:
        raise HvfError(f"{path} {error}") from None
    except (MemoryError, OverflowError) as error:
        raise HvfError(f"{path} does not fit into memory: {str(error) or 'too large'}") from error


def _npy(span: Span) -> Any:
    """A .npy file whose span begins at its magic string."""
    start = span.start(12)
    width = "<H" if start[6:7] == b"\x01" else "<I"
    begin = 8 + struct.calcsize(width)
    if len(start) < begin or start[6] not in (1, 2, 3):
        raise broken("its .npy header is cut off or of an unknown version")
    length = struct.unpack(width, start[8:begin])[0]
    if length > 10_000:  # as numpy has it: longer literals can exhaust Python's parser
        raise broken(f"a .npy header of {length} bytes")
    try:
        header = ast.literal_eval(span.part(begin, length).start(length).decode("utf-8").strip())
        descr, fortran, shape = header["descr"], header["fortran_order"], header["shape"]
        if not re.fullmatch(r"[<>|=]?(O|[biufcSU][1-9]\d{0,6})", descr):
            raise foreign(f"holds an array of dtype {descr[:60]!r}")
        dtype = np.dtype(descr)
    except (ValueError, SyntaxError, TypeError, KeyError, RecursionError, MemoryError):
        raise broken("its .npy header cannot be read") from None
    rest = span.part(begin + length, span.length - begin - length)
    if dtype.kind != "O":
        return array(rest, dtype, shape, span.budget).reshape(shape, order="F" if fortran else "C")
    x = Machine(rest).run()
    if isinstance(x, np.ndarray) and x.shape != shape:
        raise broken(f"its header says shape {shape}, its content {x.shape}")
    return x


def _torch(span: Span) -> Any:
    """A zip archive that `torch.save` wrote."""
    try:
        with open_zip(span.file) as archive:
            members = {info.filename: info for info in archive.infolist()}
    except zipfile.BadZipFile as error:
        raise broken(f"as a zip archive it cannot be read ({error})") from None
    pickles = [name for name in members if re.fullmatch(r"[^/]*/?data\.pkl", name)]
    if len(pickles) != 1:
        raise Refused("is a zip, but not one that torch.save wrote: it holds no data.pkl")
    folder = pickles[0].removesuffix("data.pkl")

    def member(name: str) -> Span:
        info = members.get(folder + name)
        if info is None:
            raise broken(f"the archive lacks {name!r}")
        if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 or info.compress_size != info.file_size:
            raise foreign("is a compressed or encrypted zip, which torch.save does not write")
        header = span.part(info.header_offset, 30).start(30)
        if not header.startswith(b"PK\x03\x04"):
            raise broken(f"no member {name!r} where the archive says")
        begin = info.header_offset + 30 + sum(struct.unpack("<HH", header[26:]))
        part = span.part(begin, info.file_size)
        if part.crc32() != info.CRC:
            raise broken(f"the checksum of its member {name!r} is wrong")
        return part

    order = member("byteorder").start(8) if folder + "byteorder" in members else b"little"
    return Machine(member("data.pkl"), member, ">" if order == b"big" else "<").run()
