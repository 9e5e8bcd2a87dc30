"""Embeddings and scores that another program computed: which image belongs to which row, and the figures of retrieval.

Letters: N queries (rows from the brain), M images of the gallery.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hvf.data.images.matching import ImageNames
from hvf.evaluation import retrieval
from hvf.registry import HvfError, listed
from hvf.vision.embeddings import Embeddings, read_embeddings, read_labels, read_scores

Figures = dict[str, dict[str, Any]]


class Ranked(NamedTuple):
    """Figures of a metrics.json, and in words what was ranked and how rows and images were matched."""

    figures: Figures
    title: str


def rank_embeddings(embeddings: str | Path, gallery: str | Path) -> Ranked:
    """Rank the images of a gallery by cosine with embeddings from the brain.

    Rows are matched by the names of their images where both files have names, else by their order. Raises HvfError for
    files that cannot be read or matched, or are of two widths.
    """
    queries, images = read_embeddings(embeddings), read_embeddings(gallery)
    target_N, how = _by_name(queries, images)
    if target_N is None and len(queries) != len(images):
        reasons = [one.origin for one in (queries, images) if one.names is None and one.origin]
        raise HvfError(
            f"{len(queries)} embeddings from the brain but {len(images)} images: row i must answer row i, "
            f"or both files name their images{''.join(f'; {reason}' for reason in reasons)}"
        )
    images = images if target_N is None else images.of_images
    scores_NM = retrieval.similarity(queries.x_ND, images.x_ND)
    names = None if target_N is None else [images.ids[i] for i in target_N]
    figures = retrieval.figures(scores_NM, target_N=target_N, image_ids=names)
    return Ranked(figures, f"{Path(queries.file.path).name} among {len(images)} images, {how}")


def rank_scores(scores: str | Path, labels: str | Path | None = None) -> Ranked:
    """Rank the images of a gallery by given scores (N, M), the higher the better.

    Query i belongs to column i, or to the column or image that `labels` says. Raises HvfError for scores that are not
    finite, are not square and have no labels, or labels that do not fit.
    """
    table = read_scores(scores)
    n, m = table.x_ND.shape
    if labels is None:
        if n != m:
            raise HvfError(
                f"{table.where} has {n} rows and {m} columns (queries, gallery): say with --labels which column or "
                "image each query belongs to"
            )
        return Ranked(retrieval.figures(table.x_ND), f"{Path(table.file.path).name}: row i belongs to column i of {m}")
    target_N = _columns(read_labels(labels), table, Path(labels))
    names = [str(column) for column in target_N]
    figures = retrieval.figures(table.x_ND, target_N=target_N, image_ids=names)
    return Ranked(figures, f"{Path(table.file.path).name} among {m} images, labels of {Path(labels).name}")


def _by_name(queries: Embeddings, images: Embeddings) -> tuple[np.ndarray | None, str]:
    """The row of each query's image, and how it was found; None where the order has to tell."""
    for one in (queries, images):
        if one.names is None:
            return None, f"matched by order: {Path(one.file.path).name} names no images"
    names = ImageNames(images.of_images.ids, images.where)
    target_N = np.asarray(names.find(queries.ids), dtype=int)
    if (target_N < 0).all() and len(queries) == len(images):
        first = f"{queries.ids[0]!r} against {images.ids[0]!r}"
        return None, f"matched by order: no name occurs in both files ({first})"
    names.indices(queries.ids, queries.where)  # refuses, naming them, what is not there
    return target_N, f"matched by name ({queries.origin}; {images.origin})"


def _columns(labels: list[str], table: Embeddings, path: Path) -> np.ndarray:
    """The column of each query, from columns counted from 0 or from names of images."""
    n, m = table.x_ND.shape
    if len(labels) == n + 1 and not labels[0].isdecimal() and all(label.isdecimal() for label in labels[1:]):
        labels = labels[1:]  # under a heading
    if len(labels) != n:
        turned = f"; {m} is the number of columns: are the scores transposed?" if len(labels) == m else ""
        raise HvfError(f"{path} has {len(labels)} labels for the {n} rows of {table.where}, one for each query{turned}")
    named = None
    if table.names is not None:
        found = ImageNames(table.names, f"the columns of {table.where}").find(labels)
        named = np.asarray(found) if min(found) >= 0 else None
    if not all(label.removeprefix("-").isdecimal() for label in labels):
        if table.names is None:
            reason = f" ({table.origin})" if table.origin else ""
            raise HvfError(
                f"{path} names images such as {labels[0]!r}, and {table.where} does not say which column is which "
                f"image{reason}: put the {m} names of its columns, a line each, into {Path(table.file.path).stem}.txt"
            )
        return np.asarray(ImageNames(table.names, f"the columns of {table.where}").indices(labels, path.name))
    target_N = np.asarray(list(map(int, labels)))
    if named is not None and not np.array_equal(named, target_N):
        raise HvfError(f"the labels of {path} may be columns or names of images, and differ: {listed(labels, 3)}")
    if target_N.min() < 0 or target_N.max() >= m:
        wrong = int(np.flatnonzero((target_N < 0) | (target_N >= m))[0])
        hint = "; columns are counted from 0" if target_N.max() == m else ""
        raise HvfError(f"{path} says column {target_N[wrong]} for query {wrong}; there are columns 0 to {m - 1}{hint}")
    return target_N
