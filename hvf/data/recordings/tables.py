"""Tables of text as labs' programs write them: separators, line ends, comments and encodings, read by one reader."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import re
import zlib
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from hvf.config import HvfError
from hvf.data.recordings.raw import one_line

SEPARATORS = "\t;,"
COMMENTS = "#%"
MARKS = (  # the bytes that a file in Unicode may begin with; those of UTF-32 begin as those of UTF-16
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
OTHERS = {  # what begins so is no text
    b"PK\x03\x04": "a workbook or zip",
    b"\xd0\xcf\x11\xe0": "a workbook of an old Excel",
    b"%PDF": "a PDF",
    b"\x00\x00\x00\x64\x00\x00\x00\x1f": "a FIF, such as MNE's events",
    b"\x93NUMPY": "an array of numpy",
    b"MATLAB": "a file of MATLAB",
}
POWER = r"([eE][+-]?\d+)?"  # of ten, behind a number
# Columns that are read under these names, however they are capitalised.
COLUMNS = ("onset", "duration", "sample", "code", "description")


def read_table(path: str | Path | pd.DataFrame) -> pd.DataFrame:
    """Read a table with a header as text: separated by tab, comma or semicolon, perhaps gzipped.

    UTF-8 with or without mark, UTF-16 and UTF-32 are read; lines that are comments (# or %), a repeated header and
    separators at the ends of lines are left out; of numbers with decimal commas the commas become points.
    Raises HvfError if it cannot be read, is in another encoding, holds no row, a row lacks fields, as in a truncated
    file, or two columns of one name differ.
    """
    frame = isinstance(path, pd.DataFrame)
    rows = _of_frame(path) if isinstance(path, pd.DataFrame) else read_rows(Path(path))
    header = [name.lower() if name.lower() in COLUMNS else name for name in rows[0]]
    rows = _without_copies([header, *rows[1:]], "the table" if frame else path)
    return pd.DataFrame(rows[1:], columns=rows[0], dtype=str)


def _of_frame(table: pd.DataFrame) -> list[list[str]]:
    """The header and the rows of a table in memory, as those of a file."""
    texts = table.astype(object).where(table.notna(), "n/a").astype(str)
    rows = [[str(name) for name in table.columns], *texts.to_numpy().tolist()]
    return [[field.strip() for field in row] for row in rows]


def read_typed(path: Path) -> pd.DataFrame:
    """The same table with the types that pandas gives its columns; what is empty or n/a is NaN."""
    text = io.StringIO()
    csv.writer(text).writerows(read_rows(path))
    text.seek(0)
    return pd.read_csv(text)


def read_rows(path: Path) -> list[list[str]]:
    """The header and the rows of a table, each field without the spaces around it (`read_table`)."""
    lines = _lines(read_text(path))
    if not lines:
        raise HvfError(f"the table {path} holds no events: it is empty")
    lines = lines[1:] if lines[0].startswith("sep=") and len(lines) > 1 else lines  # as Excel marks its files
    lines = _without_comments(lines)
    separator = _separator(lines[0])
    if separator not in lines[0] and re.search(r"\S {2,}\S", lines[0]):
        raise HvfError(f"the columns of {path} are separated by spaces: separate them by tabs, commas or semicolons")
    try:
        reader = csv.reader((f"{line}\n" for line in lines), delimiter=separator, strict=True)
        rows = [[field.strip() for field in row] for row in reader]
    except csv.Error as error:
        raise HvfError(f"cannot read the table {path}: {one_line(error)}; is it whole?") from error
    rows = [row for row in rows if any(row)]
    rows = rows[:1] + [row for row in rows[1:] if row != rows[0]]
    if len(rows) < 2:
        raise HvfError(f"the table {path} holds no events: it has a header and no rows")
    return _with_decimal_points(_without_copies(_of_one_width(rows, path), path), separator)


def read_text(path: Path) -> str:
    """A file's text, unpacked if it is gzipped. Raises HvfError if it is absent, no text, or of an unknown encoding."""
    try:
        data = path.read_bytes()
        data = gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data
    except FileNotFoundError:
        missing = "its content is not here (git annex or datalad get)" if path.is_symlink() else "there is none"
        raise HvfError(f"cannot read the table {path}: {missing}") from None
    except (OSError, EOFError, zlib.error) as error:
        raise HvfError(f"cannot read the table {path}: {one_line(error)}; is it whole?") from error
    for start, what in OTHERS.items():
        if data.startswith(start):
            raise HvfError(f"{path} is {what}, no table of text: save it as text (CSV or tab-separated, UTF-8)")
    if data.startswith(b"/annex/objects/") or re.match(rb"(\.\./)*\.git/annex/", data):
        raise HvfError(f"{path} is a pointer of git-annex: its content is not here (git annex or datalad get)")
    mark, encoding = next(((mark, name) for mark, name in MARKS if data.startswith(mark)), (b"", _unmarked(data)))
    try:
        return data[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        what = f"it is in another encoding than UTF-8, such as Latin-1 or Windows-1252 (line {line})"
        what = f"it begins with the mark of {encoding.upper()} but is not in that encoding" if mark else what
        raise HvfError(f"cannot read the table {path}: {what}; save it in UTF-8, so that no name is misread") from error


def check_bids_table(path: str | Path | None) -> None:
    """Raise HvfError if a table of events is not written as mne-bids reads it; None is no table."""
    if path is None:
        return
    data = Path(path).read_bytes().removeprefix(codecs.BOM_UTF8)
    lines = data.rstrip(b"\n").split(b"\n")
    if not lines[0].startswith(b"onset\t") or b"\0" in data or len({line.count(b"\t") for line in lines}) > 1:
        raise HvfError(
            f"{path} is not written as BIDS asks: in UTF-8, onset first, as many columns in each line, separated by "
            "tabs; save it so"
        )


def _unmarked(data: bytes) -> str:
    """UTF-16, which a text of mostly ASCII shows by its zeros, or else UTF-8."""
    odd, even = data[1::2].count(0), data[::2].count(0)
    if max(odd, even) > 0.4 * len(data) / 2 and min(odd, even) < 0.1 * len(data) / 2:
        return "utf-16-le" if odd > even else "utf-16-be"
    return "utf-8"


def _lines(text: str) -> list[str]:
    """The lines that hold something, whatever ends them: LF, CR LF or CR."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return [line for line in lines if line.strip(" \t;,\0")]


def _separator(header: str) -> str:
    return max(SEPARATORS, key=header.count)


def _without_comments(lines: Sequence[str]) -> list[str]:
    """The lines from the header on, without comments: lines that begin with # or % and lack the header's fields."""
    marked = 0
    while marked < len(lines) and lines[marked].lstrip()[:1] in COMMENTS:
        marked += 1
    rest = list(lines[marked:])
    if not rest:
        return list(lines)
    separator = _separator(rest[0])
    width = rest[0].count(separator)
    fields = rest[0].split(separator)
    if marked and lines[marked - 1].count(separator) == width > 0 and any(map(_is_number, fields)):
        rest.insert(0, lines[marked - 1].lstrip(f"{COMMENTS} "))  # "#onset<tab>image" is the header
    return [rest[0], *(line for line in rest[1:] if line[:1] not in COMMENTS or line.count(separator) >= width)]


def _is_number(field: str) -> bool:
    return re.fullmatch(r"-?\d+([.,]\d+)?(e-?\d+)?", field.strip().strip('"').lower()) is not None


def _of_one_width(rows: list[list[str]], path: Path) -> list[list[str]]:
    """The rows without empty columns at the end; HvfError if a row has another number of fields than the header."""
    width = len(rows[0])
    while width > 1 and not any(len(row) >= width and row[width - 1] for row in rows):
        width -= 1
    for i, row in enumerate(rows):
        if len(row) < width or any(row[width:]):
            raise HvfError(f"{path} is damaged: row {i} has {len(row)} of {width} fields; is it whole?")
    return [row[:width] for row in rows]


def _without_copies(rows: list[list[str]], path: Path | str) -> list[list[str]]:
    """The columns without second ones of the same name and values; HvfError if the values differ."""
    first: dict[str, int] = {}
    for i, name in enumerate(rows[0]):
        j = first.setdefault(name, i)
        differ = [k for k, row in enumerate(rows) if row[i] != row[j]]
        if differ:
            raise HvfError(
                f"{path} has two columns {name!r} that differ, first in row {differ[0]}: {rows[differ[0]][j]!r} and "
                f"{rows[differ[0]][i]!r}; leave one out"
            )
    return [[row[i] for i in first.values()] for row in rows]


def _with_decimal_points(rows: list[list[str]], separator: str) -> list[list[str]]:
    """The rows with points in columns of numbers that have decimal commas."""
    if separator == ",":
        return rows
    for i in range(len(rows[0])):
        values = [row[i] for row in rows[1:]]
        commas = [value for value in values if re.fullmatch(rf"-?\d+,\d+{POWER}", value)]
        if commas and all(re.fullmatch(rf"-?\d+(,\d+)?{POWER}|n/a|", value) for value in values):
            for row in rows[1:]:
                row[i] = row[i].replace(",", ".")
    return rows


def table_beside(path: Path) -> Path | None:
    """The table of events that lies beside a recording: of its name, with `_events` or `events` in it, or the only one.

    sub-01_task-a_eeg.vhdr has sub-01_task-a_events.tsv; my.vhdr has my.tsv, my_events.csv or events.tsv.
    """
    name = Path(re.sub(r"\.gz$", "", path.name)).stem
    base = re.sub(r"_(eeg|meg|raw)$", "", name)
    names = [f"{one}{word}" for one in (name, base) for word in ("_events", "-events", "")] + ["events"]
    candidates = (path.parent / f"{one}{ending}" for one in names for ending in (".tsv", ".csv", ".tsv.gz"))
    return next((table for table in candidates if table.is_file()), None)
