"""What reading a file from outside may cost: every budget in one place, and the environment variable that changes it.

A file of a few kilobytes can ask for gigabytes of memory or hours of computing. What would take more than its budget is
refused before, or while, it is read.
"""

from __future__ import annotations

import math
import os
from typing import NamedTuple

from hvf.registry import HvfError


class Budget(NamedTuple):
    """A number that may be set from outside."""

    variable: str
    usual: float
    what: str

    def __call__(self) -> float:
        """The number in force. Raises HvfError if the variable holds none."""
        text = os.environ.get(self.variable, "").strip()
        try:
            value = float(text) if text else float(self.usual)
        except ValueError:
            value = math.nan
        if not 0 < value < math.inf:
            raise HvfError(f"{self.variable} is {text!r}, not a number above 0: {self.what}")
        return value

    @property
    def advice(self) -> str:
        """How to allow more, for the end of a message."""
        return f"if it is right so, set {self.variable} higher"


PIXELS = Budget("HVF_MAX_PIXELS", 2**26, "pixels of one picture")
PICTURE = Budget("HVF_MAX_PICTURE_BYTES", 2**28, "bytes of one picture's file, unpacked")
MEMBERS = Budget("HVF_MAX_MEMBERS", 2**21, "files in one zip or tar")
RATIO = Budget("HVF_MAX_RATIO", 100, "how many times its size on disk an array of more than 256 MB may take")
SECONDS = Budget("HVF_MAX_SECONDS", 5, "processor seconds that a parser may take to open a file, and 1 more per 5 MB")
MEMORY = Budget("HVF_MAX_PARSER_BYTES", 2**29, "bytes that a parser may take to open a file, and 16 times the file")
BUDGETS = (PIXELS, PICTURE, MEMBERS, RATIO, SECONDS, MEMORY)

FREE = 2**28  # bytes that any array of a file may take, however small the file
PICKLE_FREE, PICKLE_TIMES = (
    2**27,
    4,
)  # bytes of a pickle's content; times its file
COLLISIONS = 2**22  # comparisons of keys of a pickle whose hashes are equal: those of real files are not
SCANS = 64  # times PIXELS that the scans of a progressive JPEG may pass over it, all together
PROFILE = 2**23  # bytes of a colour profile
TAGS_FREE, TAGS_TIMES = 2**24, 4  # bytes that the tags of a TIFF or of EXIF may take, and times its file
LABEL = 2**16  # bytes of a picture's label in a tar


def array_limit(on_disk: int) -> int:
    """Bytes that an array may take in memory which takes `on_disk` in its file."""
    return max(FREE, int(RATIO() * on_disk))


def megabytes(n: float) -> str:
    """A number of bytes, for messages.

    >>> megabytes(3_400_000), megabytes(5_000)
    ('3 MB', '0.005 MB')
    """
    return f"{n / 1e6:,.0f} MB" if n >= 1e6 else f"{n / 1e6:.3g} MB"
