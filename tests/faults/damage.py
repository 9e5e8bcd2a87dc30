"""Seeded damage to a file's bytes: what disks, networks, editors, other programs and ill will make of them.

Every kind of damage is a function of (bytes, random.Random); which of them a file can suffer follows from its ending.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

Stroke = Callable[[bytes, Random], bytes]
NESTED = b"[" * 100_000 + b"]" * 100_000
INTEGERS = (0, 1, 0x7F, 0xFF, 0x7FFF, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**63, 2**64 - 1)
NUMERALS = ("0", "-1", "4294967295", "9" * 20, "9" * 5000, "1e400", "nan", "0x10", "1.5", "")
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 99, 2.5, -1e300, math.nan, math.inf, 10**40, "", "x", "0", "NaN", "a" * 5000, "\0",
    "\ud800", "../../x", "/etc/passwd", "<b>&\"'", [], {}, [None], [[1]], {"": {}}, [0.1], [1, 2, 3], [True, "x"],
)  # fmt: skip


def _place(n: int, rng: Random) -> int:
    """A place in n bytes: anywhere, or, as often, near the beginning or the end, where files say what they are."""
    near = rng.randrange(min(n, 500) or 1)
    return rng.choice((rng.randrange(n or 1), near, max(0, n - 1 - near)))


def flipped(data: bytes, rng: Random) -> bytes:
    """One to eight bits flipped."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 8))):
        if out:
            out[_place(len(out), rng)] ^= 1 << rng.randrange(8)
    return bytes(out)


def blanked(data: bytes, rng: Random) -> bytes:
    """A run of zeros or ones in place of what was there, up to some pages long."""
    at, length = _place(len(data), rng), rng.choice((1, 4, 16, 512, 4096, 20_000))
    length = min(length, len(data) - at)
    return data[:at] + rng.choice((b"\0", b"\0", b"\xff")) * length + data[at + length :]


def cut(data: bytes, rng: Random) -> bytes:
    """The end is missing."""
    return data[: _place(len(data), rng)]


def dropped(data: bytes, rng: Random) -> bytes:
    """A piece in the middle is missing."""
    at = _place(len(data), rng)
    return data[:at] + data[at + rng.choice((1, 2, 8, 100)) :]


def repeated(data: bytes, rng: Random) -> bytes:
    """A piece stands there several times."""
    at, length = _place(len(data), rng), rng.choice((1, 8, 64))
    return data[:at] + data[at : at + length] * rng.choice((2, 40)) + data[at + length :]


def exchanged(data: bytes, rng: Random) -> bytes:
    """Two pieces of one length have changed places."""
    length = rng.choice((1, 4, 64, 512))
    a, b = sorted((_place(len(data), rng), _place(len(data), rng)))
    if b - a < length or b + length > len(data):
        return flipped(data, rng)
    return data[:a] + data[b : b + length] + data[a + length : b] + data[a : a + length] + data[b + length :]


def numbered(data: bytes, rng: Random) -> bytes:
    """A binary integer of 1 to 8 bytes is another one: lengths, counts and offsets that lie."""
    width = rng.choice((1, 2, 4, 8))
    at = _place(max(1, len(data) - width), rng)
    number = (rng.choice(INTEGERS) % 256**width).to_bytes(width, rng.choice(("little", "big")))
    return data[:at] + number + data[at + width :]


def written_over(data: bytes, rng: Random) -> bytes:
    """A number in text is another one, or none."""
    digits = [i for i in range(min(len(data), 6000)) if data[i : i + 1].isdigit()]
    if not digits:
        return numbered(data, rng)
    end = start = rng.choice(digits)
    while data[end : end + 1].isdigit():
        end += 1
    while start and data[start - 1 : start].isdigit():
        start -= 1
    return data[:start] + rng.choice(NUMERALS).encode() + data[end:]


def something_else(data: bytes, rng: Random) -> bytes:
    """Another file by that name."""
    others = (b"", b"\0" * 100, b"<html>404</html>", b"version https://git-lfs\n", b"PK\x03\x04", b"\x93NUMPY\x01\0")
    return rng.choice((*others, rng.randbytes(300)))


def appended(data: bytes, rng: Random) -> bytes:
    """Something follows the end."""
    return data + rng.choice((b"\0", b"\n\n", data[:1000], rng.randbytes(4096)))


BYTES: tuple[Stroke, ...] = (
    flipped, flipped, blanked, blanked, cut, dropped, repeated, exchanged, exchanged, numbered, numbered, written_over,
    something_else, appended,
)  # fmt: skip


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value inside a JSON value; of long lists a few."""
    if isinstance(value, dict):
        items = list(value.items())
    else:
        items = list(enumerate(value))[:3] if isinstance(value, list) else []
    for key, inner in items:
        yield (*path, key)
        yield from _places(inner, (*path, key))


def _altered(value: Any, rng: Random) -> Any:
    """The value with one inside it replaced, left out, renamed, copied elsewhere, or of another length."""
    paths = list(_places(value))
    if not paths or rng.random() < 0.03:
        return rng.choice(VALUES)
    depths = sorted({len(path) for path in paths})
    depth = rng.choice(depths)  # few values lie near the top, and most of what is decided does
    path = rng.choice([one for one in paths if len(one) == depth])
    holder = value
    for key in path[:-1]:
        holder = holder[key]
    key, here = path[-1], holder[path[-1]]
    way = rng.choice(("value", "value", "value", "absent", "renamed", "moved", "length"))
    if way == "absent":
        del holder[key]
    elif way == "renamed" and isinstance(holder, dict):
        holder[rng.choice((f"{key}x", "", key.upper()))] = holder.pop(key)
    elif way == "moved":
        other = rng.choice(paths)
        inner = value
        for one in other:
            inner = inner[one]
        holder[key] = json.loads(json.dumps(inner))
    elif way == "length" and isinstance(here, list):
        holder[key] = rng.choice((here[:-1], here + here[-1:], here[::-1], here * 3))
    elif way == "length" and isinstance(here, str):
        holder[key] = rng.choice((here[:-1], here * 2, here.upper()))
    else:
        holder[key] = rng.choice(VALUES)
    return value


def other_values(data: bytes, rng: Random) -> bytes:
    """JSON that is JSON, with one or two values other than they were."""
    value = json.loads(data)
    for _ in range(rng.choice((1, 1, 1, 2))):
        value = _altered(value, rng)
    return json.dumps(value).encode()


def other_json(data: bytes, rng: Random) -> bytes:
    """JSON that is none, or of which one parser says this and another that."""
    text = data.decode()
    return rng.choice(
        (
            NESTED,
            b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
            data.replace(b":", b": " + NESTED + b', "x":', 1),
            b"\xef\xbb\xbf" + data,
            text.encode("utf-16"),
            data.replace(b"{", b'{"config": 1, "config": 2, ', 1),
            data.replace(b'"', b"'"),
            data + data,
            data.rstrip()[:-1],
            b"1" * 5000,
            b'"\\ud800"',
            b"NaN",
        )
    )


def _header(data: bytes, rng: Random, change: Callable[[Any, Random], Any]) -> bytes:
    length = struct.unpack("<Q", data[:8])[0]
    text = json.dumps(change(json.loads(data[8 : 8 + length]), rng)).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


def other_header(data: bytes, rng: Random) -> bytes:
    """A .safetensors whose header names, places or shapes its tensors otherwise."""
    return _header(data, rng, _altered)


def other_names(data: bytes, rng: Random) -> bytes:
    """A .safetensors two of whose tensors have each other's name, or one of which has another."""

    def change(header: dict[str, Any], rng: Random) -> dict[str, Any]:
        names = [name for name in header if name != "__metadata__"]
        a = rng.choice(names)
        same = [name for name in names if name != a and header[name]["shape"] == header[a]["shape"]]
        if same and rng.random() < 0.7:
            b = rng.choice(same)
            header[a], header[b] = header[b], header[a]
        else:
            header[f"{a}x"] = header.pop(a)
        return header

    return _header(data, rng, change)


def other_metadata(data: bytes, rng: Random) -> bytes:
    """A .safetensors whose own words, JSON in its header's metadata, say something else."""

    def change(header: dict[str, Any], rng: Random) -> dict[str, Any]:
        words = header.get("__metadata__")
        if not words:
            return _altered(header, rng)
        key = rng.choice(sorted(words))
        try:
            words[key] = rng.choice((other_values, other_json))(words[key].encode(), rng).decode("utf-8", "replace")
        except ValueError:
            words[key] = rng.choice(("", "x", "[" * 100_000))
        return header

    return _header(data, rng, change)


def other_npy(data: bytes, rng: Random) -> bytes:
    """A .npy whose header says another shape, type or order."""
    length = struct.unpack("<H", data[8:10])[0]
    text = data[10 : 10 + length].decode()
    before, _, rest = text.partition("'shape': (")
    shape, _, after = rest.partition(")")
    shapes = ("", "-1,", "0,", "99999999999, 99999999999", "9" * 30 + ",", "1" * 6000, shape + ", 0", shape + ", 1")
    shapes = (*shapes, ", ".join(shape.split(", ")[::-1]), "True,", "1.5,", "'x',", "(" * 200)
    kinds = ("<f4", ">f4", "<f8", "<c8", "|O", "<U5", "|V8", "<M8[s]", "|b1", "|u1", "x")
    changed = rng.choice(
        (
            before + "'shape': (" + rng.choice(shapes) + ")" + after,
            before + "'shape': (" + rng.choice(shapes) + ")" + after,
            text.replace("<f", ">f"),
            text.replace(text.split("'")[3], rng.choice(kinds)),
            text.replace("False", rng.choice(("True", "None", "0"))),
            text.replace("descr", "Descr"),
            text[: rng.randrange(len(text))],
            "{" * 3000,
        )
    )
    if len(changed) < length and rng.random() < 0.5:
        changed = changed.rstrip("\n").ljust(length - 1) + "\n"
    return data[:8] + struct.pack("<H", min(len(changed), 65535)) + changed.encode() + data[10 + length :]


BY_ENDING: dict[str, tuple[Stroke, ...]] = {
    ".json": (other_values,) * 8 + (other_json,) * 2,
    ".npy": (other_npy,),
    ".safetensors": (other_header, other_names, other_names, other_metadata, other_metadata),
}


def damaged(data: bytes, ending: str, rng: Random) -> tuple[str, bytes]:
    """What was done to a file of this ending, and its bytes after it: never those that it had."""
    own = BY_ENDING.get(ending, ())
    for _ in range(20):
        stroke = rng.choice(own if own and rng.random() < 0.5 else BYTES)
        if (changed := stroke(data, rng)) != data:
            return stroke.__name__, changed
    return "something_else", b"?" + data
