"""Kind 7: tables in any encoding and dialect, and names of files that are no UTF-8: read, or the cause named."""

from __future__ import annotations

import gzip
import os
import re
from collections.abc import Callable
from pathlib import Path

import hvf
from hvf.data.recordings.single import read_recording
from tests.corruption.case import Input, Reading, case
from tests.corruption.makers.arrays import array_input, study_of
from tests.corruption.makers.bids import bids_input, edit_events
from tests.corruption.makers.epochs import epochs_input, epochs_of, save
from tests.corruption.makers.meg import edit_csv, meg_input
from tests.corruption.makers.raw import events_of, raw_input
from tests.corruption.numbered import png, shown_in_order, write_pictures

Text = Callable[[str], "str | bytes"]


def accented(number: int) -> str:
    return f"café{number:02d}.png"


def lines(change: Callable[[list[str]], list[str]]) -> Text:
    return lambda text: "\n".join(change(text.rstrip("\n").split("\n"))) + "\n"


def decimal_commas(text: str) -> str:
    return re.sub(r"(\d)\.(\d)", r"\1,\2", text)


def another_last_column(rows: list[str]) -> list[str]:
    """The last column again under the same name, its values moved by a row."""
    moved = [rows[0], *rows[2:], rows[1]]
    return [f"{row}\t{other.split(chr(9))[-1]}" for row, other in zip(rows, moved, strict=True)]


# A table as text, tab-separated, to what a lab's program makes of it; the cause that a refusal must name ("": none).
DECIMAL = r"(?i)comma|decimal|number"
ENCODING = r"(?i)utf|encod|latin|character"
TEXTS: dict[str, tuple[Text, str]] = {
    "UTF-8": (lambda t: t, ""),
    "UTF-8 with mark": (lambda t: t.encode("utf-8-sig"), ""),
    "UTF-16 with mark": (lambda t: t.encode("utf-16"), ENCODING),
    "UTF-16, big end first": (lambda t: b"\xfe\xff" + t.encode("utf-16-be"), ENCODING),
    "UTF-16 without mark": (lambda t: t.encode("utf-16-le"), ENCODING),
    "UTF-32": (lambda t: t.encode("utf-32"), ENCODING),
    "Latin-1": (lambda t: t.encode("latin-1"), ENCODING),
    "Windows-1252": (lambda t: t.encode("cp1252"), ENCODING),
    "Mac Roman": (lambda t: t.encode("mac-roman"), ENCODING),
    "CR": (lambda t: t.replace("\n", "\r"), ""),
    "CR LF": (lambda t: t.replace("\n", "\r\n"), ""),
    "no last line end": (lambda t: t.rstrip("\n"), ""),
    "blank lines between": (lambda t: t.replace("\n", "\n\n"), ""),
    "blank lines at the end": (lambda t: t + "\n\n\n", ""),
    "separators at the ends": (lines(lambda rows: [row + "\t" for row in rows]), ""),
    "separators at the ends of rows": (
        lines(lambda rows: [rows[0], *(row + "\t" for row in rows[1:])]), r"(?i)field|separator|column",
    ),
    "empty rows of separators": (lines(lambda rows: [*rows, "\t\t", "\t\t"]), r"(?i)field|row|line"),
    "spaces around the fields": (lambda t: t.replace("\t", " \t "), ""),
    "spaces in the header": (lines(lambda rows: [rows[0].replace("\t", " \t ") + " ", *rows[1:]]), ""),
    "a comment before the header": (lambda t: "# made by hand, on a Monday\n" + t, r"(?i)comment|#|header|made by"),
    "a comment with % before the header": (lambda t: "% made by hand\n" + t, r"(?i)comment|%|header|column|field"),
    "a comment at the end": (lambda t: t + "# the end\n", r"(?i)comment|#|field"),
    "a comment between": (lines(lambda rows: [*rows[:4], "# pause", *rows[4:]]), r"(?i)comment|#|field"),
    "the header with # before": (lambda t: "#" + t, r"(?i)column|header|#"),
    "the header twice": (lines(lambda rows: [rows[0], *rows]), r"(?i)header|onset|twice|number"),
    "quoted": (lines(lambda rows: ["\t".join(f'"{v}"' for v in row.split("\t")) for row in rows]), ""),
    "commas": (lambda t: t.replace("\t", ","), ""),
    "semicolons": (lambda t: t.replace("\t", ";"), ""),
    "semicolons and decimal commas": (lambda t: decimal_commas(t).replace("\t", ";"), DECIMAL),
    "decimal commas": (decimal_commas, DECIMAL),
    "sep= in the first line": (lambda t: "sep=\t\n" + t, r"(?i)sep|header|line|column"),
    "columns aligned by spaces": (lambda t: t.replace("\t", "    "), r"(?i)column|separat|tab"),
    "header in capitals": (lines(lambda rows: [rows[0].upper(), *rows[1:]]), r"(?i)column"),
    "cut in a row": (lambda t: t[: len(t) * 2 // 3].rsplit("\t", 1)[0], r"(?i)field|whole|cut|damaged"),
    "no rows": (lines(lambda rows: rows[:1]), r"(?i)no event|no row|empty|lists no"),
    "empty": (lambda t: "", r"(?i)no event|empty|no row|no column|nothing"),
    "no header": (lines(lambda rows: rows[1:]), r"(?i)column|header"),
    "a workbook": (
        lambda t: b"PK\x03\x04\x14\0\6\0\x08\0\0\0!\0" + bytes(range(256)), r"(?i)excel|xlsx|text|encod|utf|zip",
    ),
    "zeros": (lambda t: bytes(500), r"(?i)zero|empty|text|column|encod|NUL|no event"),
    "a column twice": (lines(lambda rows: [f"{row}\t{row.split(chr(9))[-1]}" for row in rows]), r"(?i)twice|column"),
    "a column twice that disagrees": (lines(another_last_column), r"(?i)twice|column|differ|disagree"),
}  # fmt: skip
REFUSED = {"cut in a row", "no rows", "empty", "no header", "a workbook", "zeros", "a column twice that disagrees"}
SHOWN = shown_in_order()


def raw_text(folder: Path, change: Text, file: str = "events.tsv") -> Input:
    def write(folder: Path) -> Path:
        text = events_of(table=accented).to_csv(sep="\t", index=False)
        changed = change(text)
        (folder / file).write_bytes(changed if isinstance(changed, bytes) else changed.encode("utf-8"))
        return folder / file

    return raw_input(folder, events=write, disk=accented)


def epochs_text(folder: Path, change: Text) -> Input:
    """Epochs with a table beside, a row per epoch."""
    path = save(epochs_of(SHOWN), folder / "sub-01-epo.fif")
    images = write_pictures(folder / "images", accented)
    changed = change(events_of(SHOWN, accented).to_csv(sep="\t", index=False))
    (folder / "table.tsv").write_bytes(changed if isinstance(changed, bytes) else changed.encode("utf-8"))

    def read() -> Reading:
        opened = hvf.open_images(images)
        return Reading.of_trials(read_recording(path, folder / "table.tsv", images=opened), opened)

    return Input(read, SHOWN, path, images, events=folder / "table.tsv")


def meg_text(change: Text) -> Text:
    """The same corruption of a table that is separated by commas."""

    def commas(text: str) -> str | bytes:
        changed = change(text.replace(",", "\t"))
        return changed.replace("\t", ",") if isinstance(changed, str) else changed.replace(b"\t", b",")

    return commas


def outcome(what: str) -> dict[str, str]:
    cause = TEXTS[what][1]
    return {} if not cause else {"refused": cause} if what in REFUSED else {"either": cause}


for what, (change, _) in TEXTS.items():
    case(7, "raw", what, raw_text, change, **outcome(what))
    case(
        7,
        "bids",
        what,
        bids_input,
        names=accented,
        disk=accented,
        change=edit_events(change),
        **(outcome(what) if what in REFUSED else {"either": "|".join(filter(None, [TEXTS[what][1], "BIDS"]))}),
    )
TOLD_BY_ORDER = (
    "UTF-8 with mark", "UTF-16 with mark", "Latin-1", "CR", "a comment before the header", "separators at the ends",
    "no rows", "quoted", "cut in a row",
)  # fmt: skip
for what in TOLD_BY_ORDER:
    case(7, "epochs", what, epochs_text, TEXTS[what][0], **outcome(what))
OF_MEG = (
    "UTF-8 with mark", "UTF-16 with mark", "Latin-1", "CR", "CR LF", "a comment before the header",
    "separators at the ends", "no rows", "empty", "quoted", "cut in a row", "zeros", "a workbook", "the header twice",
)  # fmt: skip
for what in OF_MEG:
    case(
        7,
        "meg",
        what,
        meg_input,
        change=edit_csv(meg_text(TEXTS[what][0])),
        **(
            outcome(what)
            if what not in ("no rows", "cut in a row", "zeros")
            else {"refused": r"(?i)\d+ rows|no row|empty|fields"}
        ),
    )


def packed(text: str) -> bytes:
    return gzip.compress(text.encode("utf-8"))


case(7, "raw", "gzipped", raw_text, packed, "events.tsv.gz")
case(
    7,
    "raw",
    "gzipped and cut",
    raw_text,
    lambda t: packed(t)[:-20],
    "events.tsv.gz",
    refused=r"(?i)whole|gzip|compressed|end",
)
case(7, "raw", "tabs in a .csv", raw_text, lambda t: t, "events.csv")
case(7, "raw", "a .txt", raw_text, lambda t: t, "events.txt")
case(
    7,
    "raw",
    "no such table",
    raw_input,
    events=lambda folder: folder / "absent.tsv",
    refused=r"(?i)no table|no file|there is no",
)


# --- names of files ---------------------------------------------------------------------------------------------------


def renamed(folder: Path) -> Path:
    """The fifth picture's name is in Latin-1."""
    os.rename(folder / png(5), os.fsencode(folder) + b"/img05_caf\xe9.png")
    return folder


case(
    7,
    "array",
    "a file name in Latin-1",
    array_input,
    name=lambda i: png(i) if i != 5 else png(5),
    pictures=renamed,
    either=r"(?i)caf|order|utf",
)


def named_so(folder: Path, name: bytes, reader: str) -> Input:
    """The recording's own file name is no UTF-8, or unusual."""
    if reader == "epochs":
        given = epochs_input(folder)
        path = Path(os.fsdecode(os.fsencode(folder) + b"/" + name + b"-epo.fif"))
        os.rename(given.path, path)
        return Input(lambda: study_of(path, given.images), given.shown, path, given.images)
    given = array_input(folder)
    path = Path(os.fsdecode(os.fsencode(folder) + b"/" + name + b".npy"))
    os.rename(given.path, path)
    return Input(lambda: study_of(path, given.images), given.shown, path, given.images, carried=given.carried)


for reader in ("array", "epochs"):
    case(7, reader, "a recording named in Latin-1", named_so, b"caf\xe9", reader, either=r"(?i)caf|utf")
    case(7, reader, "a recording with spaces and marks", named_so, "sub 01 (é) #2 %s".encode(), reader)
