"""Pictures for a page and for a grid: strips and sheets as data URIs, so that one file holds everything."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from hvf.data.html import data_uri, square
from hvf.data.indexing import spread_rows
from hvf.report.folder import Pictures
from hvf.runs import usable_cores

THUMB, COLUMNS = 44, 50  # pixels of a retrieved image, and images in a row of the sheet
WEBP = 16383  # pixels of a side, at most
PIXEL_EXACT = 500  # so many small pictures are kept lossless: each of their pixels counts
LARGEST = ((300, 256), (1000, 160), (10**9, 112))  # up to so many images, so many pixels: a page has to stay readable


def strips(pictures: Pictures, stages: Sequence[str], indices: Sequence[int]) -> Iterable[tuple[str, int, int]]:
    """For each image one picture of all its stages side by side, of the first round: (data URI, width, height)."""
    largest = next(size for count, size in LARGEST if len(indices) <= count)

    def strip(i: int) -> tuple[str, int, int]:
        row = [pictures[stage][i][0]() if i in pictures.get(stage, {}) else None for stage in stages]
        there = [picture for picture in row if picture is not None]
        size = min(largest, max(max(picture.size) for picture in there))
        gap = max(1, size // 32)
        whole = Image.new("RGBA", ((size + gap) * len(row) - gap, size))
        for column, picture in enumerate(row):
            place = ((size + gap) * column, 0)
            whole.paste((128, 128, 128) if picture is None else square(picture, size), (*place, place[0] + size, size))
        return data_uri(whole, lossless=size <= 128 and len(indices) <= PIXEL_EXACT), *whole.size

    with ThreadPoolExecutor(usable_cores()) as pool:  # pictures are packed and unpacked outside Python's lock
        yield from pool.map(strip, indices)


def sheet(pictures: Mapping[int, Sequence]) -> str:
    """All thumbnails in one picture, COLUMNS in a row, in the order of their index; gaps stay grey.

    "" where it would be higher than a WebP may be.
    """
    rows = -(-(max(pictures) + 1) // COLUMNS)
    if rows * THUMB > WEBP:
        return ""
    whole = Image.new("RGB", (THUMB * min(COLUMNS, max(pictures) + 1), THUMB * rows), (128, 128, 128))
    for i, drawn in pictures.items():
        whole.paste(square(drawn[0](), THUMB), (THUMB * (i % COLUMNS), THUMB * (i // COLUMNS)))
    return data_uri(whole, lossless=False)


def draw_grid(
    pictures: Pictures, headings: Mapping[str, str], rows: Sequence[tuple[int, str, str]], caption: str
) -> Image.Image:
    """Rows of (index, name, score) under columns {stage: heading}, with a caption below."""
    cell, gap, margin, left = 192, 12, 28, 168
    ink, grey, paper, empty = "#1b1f24", "#6b7280", "#ffffff", "#f1f3f5"
    fonts = {size: ImageFont.load_default(size) for size in (15, 17)}
    width = margin + left + len(headings) * (cell + gap) - gap + margin
    lines = _wrapped(caption, fonts[15], width - 2 * margin)
    top = margin + 34
    height = top + len(rows) * (cell + gap) + 12 + 21 * len(lines) + margin - 8
    grid = Image.new("RGB", (width, height), paper)
    draw = ImageDraw.Draw(grid)
    for column, (stage, heading) in enumerate(headings.items()):
        x = margin + left + column * (cell + gap)
        draw.text((x + cell / 2, margin + 8), heading, fill=ink, font=fonts[17], anchor="mm")
        for row, (index, _, _) in enumerate(rows):
            y = top + row * (cell + gap)
            if index in pictures.get(stage, {}):
                picture = pictures[stage][index][0]().resize((cell, cell), Image.Resampling.BICUBIC)
                grid.paste(picture, (x, y))
            else:
                draw.rectangle((x, y, x + cell, y + cell), fill=empty)
                draw.text((x + cell / 2, y + cell / 2), "not run", fill=grey, font=fonts[15], anchor="mm")
    for row, (_, name, score) in enumerate(rows):
        y = top + row * (cell + gap) + cell / 2
        beside = [*((w, ink) for w in _wrapped(name, fonts[15], left - 16)), (score, grey)]
        for line, (text, colour) in enumerate(beside):
            draw.text((margin, y - 20 + 21 * line), text, fill=colour, font=fonts[15], anchor="lm")
    for line, text in enumerate(lines):
        y = height - margin - 21 * (len(lines) - line) + 14
        draw.text((margin, y), text, fill=grey, font=fonts[15], anchor="lm")
    return grid


def evenly_spaced(scores: Mapping[int, float], seen: Iterable[int], n: int) -> tuple[list[int], bool]:
    """Indices of `n` images that stand for all, from the best score to the worst; False if there is no score at all.

    Undefined scores come last; equal ones, and all of them without scores, in the order of the images.
    """
    score = {i: scores.get(i, float("nan")) for i in seen}
    ordered = sorted(score, key=lambda i: (score[i] != score[i], -score[i] if score[i] == score[i] else 0, i))
    return [ordered[place] for place in spread_rows(len(ordered), n)], any(i in scores for i in score)


def _wrapped(text: str, font: Any, width: float) -> list[str]:
    """`text` in lines of at most `width` pixels; a word longer than that is cut with an ellipsis."""
    lines = [""]
    for word in text.split():
        while font.getlength(word) > width:
            word = word[:-2] + "…"
        longer = f"{lines[-1]} {word}".strip()
        lines = [*lines[:-1], longer] if font.getlength(longer) <= width else [*lines, word]
    return lines
