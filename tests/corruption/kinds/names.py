"""Kind 1: a name in the recording meets the same image's name on disk, however either is spelt; two are refused."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable

from tests.corruption.case import case
from tests.corruption.makers.bids import bids_input
from tests.corruption.makers.epochs import epochs_input
from tests.corruption.makers.raw import events_of, raw_input
from tests.corruption.numbered import png, shown_in_order

Name = Callable[[int], str]
SHARED = r"(?i)share|both|same name|not clear|several|more than one|ambiguous|one name|two"
ABSENT = r"(?i)not in the (image )?set|lacks|no image|absent|missing|not among|not there|unknown"
ORDERED = shown_in_order()


def in_form(form: str) -> Name:
    return lambda number: unicodedata.normalize(form, f"café{number:02d}.png")


# How a picture is called on disk, and what the recording calls it.
SPELLINGS: dict[str, tuple[Name, Name]] = {
    "as on disk": (png, png),
    "without ending": (png, lambda i: f"img{i:02d}"),
    "with a folder": (png, lambda i: f"stimuli/img{i:02d}.png"),
    "with a Windows path": (png, lambda i: f"C:\\study\\stimuli\\img{i:02d}.png"),
    "from the folder above": (png, lambda i: f"../stimuli/img{i:02d}.png"),
    "composed, disk decomposed": (in_form("NFD"), in_form("NFC")),
    "decomposed, disk composed": (in_form("NFC"), in_form("NFD")),
    "ending upper case on disk": (lambda i: f"img{i:02d}.PNG", png),
    "ending upper case": (png, lambda i: f"img{i:02d}.PNG"),
    "ending of another format": (png, lambda i: f"img{i:02d}.jpg"),
    "dots in the name": (lambda i: f"v1.0_img{i:02d}.png", lambda i: f"v1.0_img{i:02d}"),
    "in concept folders": (lambda i: f"{'ab'[i % 2]}/img{i:02d}.png", png),
    "in concept folders and told so": (
        lambda i: f"{'ab'[i % 2]}/img{i:02d}.png",
        lambda i: f"{'ab'[i % 2]}/img{i:02d}",
    ),
    "in concept folders with backslash": (
        lambda i: f"{'ab'[i % 2]}/img{i:02d}.png",
        lambda i: f"{'ab'[i % 2]}\\img{i:02d}.png",
    ),
    "same file names in two folders": (
        lambda i: f"{'ab'[i % 2]}/img{(i + 1) // 2:02d}.png",
        lambda i: f"{'ab'[i % 2]}/img{(i + 1) // 2:02d}.png",
    ),
    "composed folders, disk decomposed": (
        lambda i: unicodedata.normalize("NFD", f"caf\u00e9{i % 2}/img{i:02d}.png"),
        lambda i: unicodedata.normalize("NFC", f"caf\u00e9{i % 2}/img{i:02d}.png"),
    ),
}
for spelling, (disk, told) in SPELLINGS.items():
    case(1, "epochs", spelling, epochs_input, disk=disk, table=told)
    case(1, "raw", spelling, raw_input, disk=disk, events=events_of(table=told))
    case(1, "bids", spelling, bids_input, disk=disk, names=told)


# Two pictures that one name of the recording may mean.
def twins(first: Name, second: Name, told: Name) -> tuple[Name, Name]:
    """Picture 1 is called `first(1)` on disk, picture 2 `second(1)`; the recording says `told(1)` for both."""
    return (
        lambda i: first(1) if i == 1 else second(1) if i == 2 else png(i),
        lambda i: told(1) if i in (1, 2) else png(i),
    )


TWINS: dict[str, tuple[Name, Name]] = {
    "two folders, one name": twins(lambda i: f"a/img{i:02d}.png", lambda i: f"b/img{i:02d}.png", png),
    "two endings, one stem": twins(png, lambda i: f"img{i:02d}.jpg", lambda i: f"img{i:02d}"),
    "two cases of the ending": twins(png, lambda i: f"img{i:02d}.PNG", lambda i: f"img{i:02d}"),
    "composed beside decomposed": twins(in_form("NFC"), in_form("NFD"), lambda i: f"café{i:02d}"),
}
for spelling, (disk, told) in TWINS.items():
    write = {"epochs": lambda f, d=disk, t=told: epochs_input(f, disk=d, table=t, shown=ORDERED)}
    write["raw"] = lambda f, d=disk, t=told: raw_input(f, disk=d, events=events_of(table=t))
    write["bids"] = lambda f, d=disk, t=told: bids_input(f, disk=d, names=t)
    for reader, make in write.items():
        case(1, reader, spelling, make, refused=SHARED)


def one_absent(number: int) -> str:
    return "img99.png" if number == 5 else png(number)


case(1, "epochs", "a name that no picture has", epochs_input, table=one_absent, refused=ABSENT)
case(1, "raw", "a name that no picture has", raw_input, disk=png, events=events_of(table=one_absent), refused=ABSENT)
case(1, "bids", "a name that no picture has", bids_input, disk=png, names=one_absent, refused=ABSENT)
