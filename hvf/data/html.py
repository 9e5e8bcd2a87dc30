"""What a notebook shows of an object: a table of its facts, and pictures as data URIs."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping
from html import escape
from typing import Protocol

import numpy as np
from PIL import Image

from hvf.registry import HvfError

SIDE, SHOWN = 72, 8  # pixels of a thumbnail, and how many of a set are shown: each is decoded
TRIALS = 5  # of which the retrieved images are shown


class Images(Protocol):
    """An image set: ids, and pictures by index."""

    ids: tuple[str, ...]

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Image.Image: ...


def facts(title: str, rows: Mapping[str, object], below: str = "") -> str:
    """A table with a line per fact, those that are None left out; `below` is HTML.

    >>> facts("a < b", {"n": 2, "unknown": None})
    '<table><caption><b>a &lt; b</b></caption><tr><th>n</th><td>2</td></tr></table>'
    """
    lines = (f"<tr><th>{escape(k)}</th><td>{escape(str(v))}</td></tr>" for k, v in rows.items() if v is not None)
    table, title = "".join(lines), f"<b>{escape(title)}</b>"
    return (f"<table><caption>{title}</caption>{table}</table>" if table else f"<div>{title}</div>") + below


def figure(picture: Image.Image, words: Iterable[str], side: int = SIDE) -> str:
    """A thumbnail with words below it, each on a line."""
    uri = data_uri(square(picture, side), lossless=False)
    caption = "<br>".join(map(escape, words))
    return (
        f'<figure style="display:inline-block;margin:2px;text-align:center;font-size:70%;width:{side + 8}px;'
        f'overflow-wrap:anywhere;vertical-align:top"><img src="{uri}" width="{side}" height="{side}" alt="">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def ranked(
    title: str,
    images: Images,
    target_N: np.ndarray,
    ranks_N: np.ndarray,
    top_NK: np.ndarray,
    scores_NM: np.ndarray,
) -> str:
    """The image seen in each of the first trials, and those of the gallery that came first.

    Parameters
    ----------
    title : str
    images : Images
        The gallery (M).
    target_N, ranks_N : ndarray
        (N) Index in the gallery, and rank, of each trial's own image.
    top_NK : ndarray
        (N, K) Gallery indices, best first.
    scores_NM : ndarray
        (N, M) Similarities.
    """
    rows = []
    for i in range(min(TRIALS, len(ranks_N))):
        seen = int(target_N[i])
        first = [figure(picture_at(images, seen), (images.ids[seen], f"seen; rank {ranks_N[i]}"))]
        found = [figure(picture_at(images, k), (images.ids[k], f"{scores_NM[i, k]:.3f}")) for k in top_NK[i].tolist()]
        rows.append(f"<div>{'&nbsp;'.join([*first, ''.join(found)])}</div>")
    more = f"<div>and {len(ranks_N) - TRIALS} trials more</div>" if len(ranks_N) > TRIALS else ""
    return facts(title, {}, "".join(rows) + more)


def picture_at(images: Images, index: int) -> Image.Image:
    """An image of a set; a grey square in place of one that cannot be read."""
    try:
        return images[index]
    except HvfError:
        return Image.new("RGB", (SIDE, SIDE), (128, 128, 128))


def data_uri(image: Image.Image, lossless: bool) -> str:
    """The picture as WebP."""
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", lossless=lossless, quality=25 if lossless else 86, method=1)  # lossless: effort
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def square(picture: Image.Image, size: int) -> Image.Image:
    """All of the picture in a square, grey around it if it is none."""
    if picture.size == (size, size):
        return picture
    scale = size / max(picture.size)
    width, height = (max(1, round(side * scale)) for side in picture.size)
    resized = picture.resize((width, height), Image.Resampling.LANCZOS)
    if width == height:
        return resized
    framed = Image.new("RGB", (size, size), (128, 128, 128))
    framed.paste(resized, ((size - width) // 2, (size - height) // 2))
    return framed
