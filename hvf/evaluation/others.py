"""Embeddings and scores that another program computed: which image belongs to which row, and the figures of retrieval.

Letters: N queries (rows from the brain), M images of the gallery, B trials of a bank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hvf.data.images.matching import ImageNames
from hvf.evaluation import retrieval, scaling
from hvf.evaluation.scaling import TRANSDUCTIVE, Scaling
from hvf.registry import HvfError, listed
from hvf.vision.embeddings import Embeddings, read_embeddings, read_labels, read_scores

Figures = dict[str, dict[str, Any]]


class Ranked(NamedTuple):
    """Figures of a metrics.json, and in words what was ranked and how rows and images were matched."""

    figures: Figures
    title: str


class Bank(NamedTuple):
    """Files of training trials and of their images, by which inductive scalings (`hvf.evaluation.scaling`) scale.

    ``trials`` are embeddings, or scores with the gallery where scores are ranked; ``images`` are embeddings alone.
    """

    trials: str | Path
    images: str | Path | None = None


def rank_embeddings(
    embeddings: str | Path, gallery: str | Path, scalings: Sequence[str] = (), bank: Bank | None = None
) -> Ranked:
    """Rank the images of a gallery by cosine with embeddings from the brain, and by scaled scores.

    Rows are matched by the names of their images where both files have names, else by their order.

    Parameters
    ----------
    embeddings, gallery : str or Path
        From the brain, and of the images.
    scalings : sequence of str
        That are measured beside the cosine.
    bank : Bank, optional
        Embeddings of training trials and their images; "centred" and "csls" need it.

    Raises
    ------
    HvfError
        For files that cannot be read or matched, or are of two widths; for a scaling that they do not allow, such as a
        bank that holds what is tested.
    """
    names = scaling.check_scalings(scalings)
    _check_bank(names, bank, images=True)
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
    ids = None if target_N is None else [images.ids[i] for i in target_N]
    figures = retrieval.figures(scores_NM, target_N=target_N, image_ids=ids)
    title = f"{Path(queries.file.path).name} among {len(images)} images, {how}"
    fitted = _fitted(names, bank, queries, images)
    centred_NM = scaling.centred_cosine(queries.x_ND, images.x_ND) if set(names) & set(TRANSDUCTIVE) else scores_NM
    ranks = {
        name: scaling.transductive_ranks(name, centred_NM, target_N)
        if name in TRANSDUCTIVE
        else retrieval.ranks(fitted[name].scores(queries.x_ND, images.x_ND), target_N)
        for name in names
    }
    figures |= scaling.scaled_entries(ranks, retrieval.ranks(scores_NM, target_N), len(images), ids)
    return Ranked(figures, title)


def rank_scores(
    scores: str | Path, labels: str | Path | None = None, scalings: Sequence[str] = (), bank: Bank | None = None
) -> Ranked:
    """Rank the images of a gallery by given scores (N, M), the higher the better, and by these scores scaled.

    Query i belongs to column i, or to the column or image that `labels` says. Scores are scaled as they are: to centre
    both sides first takes the embeddings.

    Parameters
    ----------
    scores, labels : str or Path
        The scores, and which column or image each query belongs to.
    scalings : sequence of str
        That are measured beside the scores as given.
    bank : Bank, optional
        Scores (B, M) of training trials with the same images; "csls" needs it.

    Raises
    ------
    HvfError
        For scores that are not finite, are not square and have no labels, or labels that do not fit; for a scaling that
        they do not allow.
    """
    names = scaling.check_scalings(scalings)
    for name in names:
        if name.startswith("centred"):
            raise HvfError(
                f"--scaling {name} takes the mean of embeddings off, which scores are not: give --embeddings"
            )
    _check_bank(names, bank, images=False)
    table = read_scores(scores)
    n, m = table.x_ND.shape
    target_N, ids = None, None
    if labels is not None:
        target_N = _columns(read_labels(labels), table, Path(labels))
        ids, how = [str(column) for column in target_N], f"among {m} images, labels of {Path(labels).name}"
    elif n == m:
        how = f"row i belongs to column i of {m}"
    else:
        raise HvfError(
            f"{table.where} has {n} rows and {m} columns (queries, gallery): say with --labels which column or "
            "image each query belongs to"
        )
    title = f"{Path(table.file.path).name}{' ' if labels is not None else ': '}{how}"
    figures = retrieval.figures(table.x_ND, target_N=target_N, image_ids=ids)
    bank_BM = None if bank is None else _bank_scores(bank, table)
    ranks = {
        name: scaling.transductive_ranks(name, table.x_ND, target_N)
        if bank_BM is None or name in TRANSDUCTIVE
        else retrieval.ranks(scaling.csls(table.x_ND, bank_BM), target_N)
        for name in names
    }
    figures |= scaling.scaled_entries(ranks, retrieval.ranks(table.x_ND, target_N), m, ids)
    return Ranked(figures, title)


def _check_bank(names: Sequence[str], bank: Bank | None, images: bool) -> None:
    """Refuse an inductive scaling without a bank, and a bank that nothing is scaled by."""
    inductive = [name for name in names if name not in TRANSDUCTIVE]
    if inductive and bank is None:
        what = "--bank TRIALS and --bank-gallery IMAGES, embeddings" if images else "--bank, scores with this gallery,"
        raise HvfError(
            f"--scaling {inductive[0]} needs {what} of training trials; by the test trials themselves it is "
            f"{inductive[0]}-transductive"
        )
    if bank is not None and not inductive:
        raise HvfError("--bank is what --scaling csls or centred scales by: name one of them, or leave it out")
    if bank is not None and images and bank.images is None:
        raise HvfError("--bank and --bank-gallery belong together: training trials and their images, both centred")
    if bank is not None and not images and bank.images is not None:
        raise HvfError("--bank-gallery belongs to --embeddings: of scores, --bank alone is the bank's")


def _fitted(names: Sequence[str], bank: Bank | None, queries: Embeddings, images: Embeddings) -> dict[str, Scaling]:
    """The inductive scalings by a bank, which must hold nothing of what is tested."""
    if bank is None or bank.images is None:
        return {}
    trials, of_bank = read_embeddings(bank.trials), read_embeddings(bank.images)
    for one in (trials, of_bank):
        if one.x_ND.shape[1] != images.x_ND.shape[1]:
            raise HvfError(f"{one.where} is {one.x_ND.shape[1]} wide and the gallery {images.x_ND.shape[1]}")
        if one.names is not None and images.names is not None:
            place_N = np.asarray(ImageNames(images.ids, images.where).find(one.ids))
            if (place_N >= 0).any():
                raise HvfError(
                    f"{one.where} names {one.ids[int(np.flatnonzero(place_N >= 0)[0])]!r}, which is tested: "
                    "a bank is of training trials"
                )
    _refuse_tested(trials, queries)
    _refuse_tested(of_bank, images)
    inductive = [name for name in names if name not in TRANSDUCTIVE]
    return {name: Scaling.of_bank(name, trials.x_ND, of_bank.x_ND) for name in inductive}


def _bank_scores(bank: Bank, table: Embeddings) -> np.ndarray:
    """Scores (B, M) of the bank, its columns in the order of the table's."""
    scores = read_scores(bank.trials)
    m = table.x_ND.shape[1]
    if scores.x_ND.shape[1] != m:
        raise HvfError(f"{scores.where} has {scores.x_ND.shape[1]} columns and {table.where} {m}: one for each image")
    if scores.names is not None and table.names is not None:
        order_M = ImageNames(scores.names, f"the columns of {scores.where}").indices(table.names, table.where)
        scores = replace(scores, x_ND=scores.x_ND[:, order_M])
    _refuse_tested(scores, table)
    return scores.x_ND


def _refuse_tested(bank: Embeddings, tested: Embeddings) -> None:
    """Raise HvfError if a row of the bank is one of those tested."""
    rows = {row.tobytes() for row in tested.x_ND}
    same = [i for i, row in enumerate(bank.x_ND) if row.tobytes() in rows]
    if same:
        raise HvfError(
            f"{bank.where} holds rows of {tested.where} ({len(same)}, the first {same[0]}): a bank is of training "
            "trials; by the test trials themselves it is csls-transductive"
        )


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
