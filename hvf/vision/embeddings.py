"""Embeddings of anybody's model, read from files, with the names of the images that they are of.

Letters: N rows, D width of an embedding.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hvf.data.images.columns import image_column, is_picture_file, texts_of
from hvf.data.images.matching import ImageNames, normalized
from hvf.registry import FeatureFile, HvfError, feature_file, listed
from hvf.schema.reading import parse_json
from hvf.vision.embedding_files import ALONE, FILE_NAMES, Content, keys_of_folder, read_content

# What lists of names are called in files, beside the columns of tables: "names", "ids", "image_ids", "keys".
_NAMES = {"name": "image_name", "id": "image_id", "key": "image_name", "__index_level_0__": "image_name"}
_None = type(None)  # of a row without a name
_BESIDE = (".txt", ".csv", ".json")  # a second file of names
_LABELS = ("column", "label", "target")  # columns that say which column of the scores a query belongs to


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Embeddings (N, D) float32 of a file, and the names of the images that they are of, if any are known."""

    file: FeatureFile
    x_ND: np.ndarray
    names: tuple[str, ...] | None  # one for each row; None where none are known
    origin: str  # what the names were read from, or why there are none; "" if there is nothing to say

    def __len__(self) -> int:
        return len(self.x_ND)

    @property
    def where(self) -> str:
        """The file as it is called in messages."""
        return str(self.file).partition(":")[2]

    @cached_property
    def ids(self) -> tuple[str, ...]:
        """The names, or, of rows without names, ones that no image has: the file's name and the row."""
        if self.names is not None:
            return self.names
        digits = max(5, len(str(len(self))))
        return tuple(f"{Path(self.file.path).stem}#{i:0{digits}d}" for i in range(len(self)))

    @cached_property
    def of_images(self) -> Embeddings:
        """The same with one row for each image. Raises HvfError if two rows of one name differ."""
        first: dict[str, int] = {}
        for i, name in enumerate(self.ids):
            row = first.setdefault(normalized(name), i)
            if row != i and not np.array_equal(self.x_ND[row], self.x_ND[i]):
                raise HvfError(f"{self.where} names {name!r} twice (rows {row} and {i}), with different features")
        rows = list(first.values())
        if len(rows) == len(self):
            return self
        return replace(self, x_ND=self.x_ND[rows], names=tuple(self.ids[i] for i in rows))

    def rows_of(self, ids: Iterable[str], source: str = "the images") -> np.ndarray:
        """The rows (N, D) of images by their names. Raises HvfError that lists those that the file does not hold."""
        table, ids = self.of_images, list(ids)
        if self.names is None and not set(ids) <= set(self.ids):
            reason = f" ({self.origin})" if self.origin else ""
            stem = Path(self.file.path).stem
            raise HvfError(
                f"{self.where} names no images{reason}, so that its rows cannot be matched with {source}: put their "
                f"names, a line each, into {stem}.txt beside it"
            )
        return table.x_ND[ImageNames(table.ids, self.where).indices(ids, source)]

    @cached_property
    def digest(self) -> str:
        """16 hex digits of names and numbers."""
        content = hashlib.sha256(json.dumps(self.ids).encode())
        content.update(f"{self.x_ND.shape}".encode() + np.ascontiguousarray(self.x_ND).tobytes())
        return content.hexdigest()[:16]


def load_embeddings(path: str | Path, key: str | None = None) -> np.ndarray:
    """Embeddings (N, D) float32 from a file, as `read_embeddings` reads it, without the names.

    A file that holds several arrays needs `key`; FILE#KEY says it in the path, as `images.pt#img_features`.
    """
    file = _file(path, key)
    return _rows(read_content(Path(file.path), file.key), file)[0]


def read_embeddings(path: str | Path, key: str | None = None) -> Embeddings:
    """Embeddings and the names of their images; nothing in the file is executed.

    Read are `.npy`, `.npz`, `.pt`/`.pth`, `.safetensors`, `.parquet` (all parts of it), `.mat`, `.hdf5`; folders of
    THINGSvision; and folders of parquet files, SET_SPLIT_ENCODER, of which KEY names the encoder. Names stand in the
    file (a list or column of them, or a key for each image), in a file of its stem beside it (`.txt`, `.csv`, `.json`),
    or in THINGSvision's `file_names.txt`. Raises HvfError if it is missing, is no such file, carries pickled code, its
    numbers are not finite, or the key is needed or unknown.
    """
    file = _file(path, key).absolute()
    return _read(file, _stamp(Path(file.path)))


def read_gallery(path: str | Path) -> dict[str, Embeddings]:
    """{key: embeddings} of all arrays of a file or a folder; of one, if the path names its key.

    Raises HvfError as `read_embeddings` does, and for arrays of several lengths, which are of several sets of images.
    """
    file = _file(path, None).absolute()
    place = Path(file.path)
    if file.key is not None:
        return {file.key: read_embeddings(path)}
    if place.is_dir() and (keys := keys_of_folder(place)):
        return {key: read_embeddings(place, key) for key in keys}
    content = read_content(place, None)
    keys = _candidates(content.entries)
    if len(keys) < 2:
        return {(keys or [ALONE])[0]: _embeddings(content, file)}
    tables = {key: _embeddings(content._replace(key=key), file._replace(key=key)) for key in keys}
    if len({len(one) for one in tables.values()}) > 1:
        lengths = ", ".join(f"{key} of {len(one)}" for key, one in tables.items())
        raise HvfError(f"{file.path} holds rows of several sets of images ({lengths}): say which, as {place.name}#KEY")
    return tables


def read_scores(path: str | Path) -> Embeddings:
    """Scores (N, M) float64 of N queries with M images; the names are those of the columns, if any are known."""
    file = _file(path, None).absolute()
    content = read_content(Path(file.path), file.key)
    x_NM, _ = _rows(content, file, "scores", np.float64)
    lists = {key: value for key, value in content.entries.items() if key != content.key}
    return Embeddings(file, x_NM, *_names_of(lists, Path(file.path), x_NM.shape[1]))


def read_labels(path: str | Path) -> list[str]:
    """One label for each query, a whole number or a name, from an array or a text, as texts. Raises HvfError."""
    from hvf.data.recordings.tables import read_table, read_text

    path = Path(path)
    labels: list[str] | None = None
    if path.suffix.lower() == ".csv" and any(mark in read_text(path).partition("\n")[0] for mark in ",;\t"):
        table = read_table(path)
        labels = next((table[name].tolist() for name in table.columns if str(name).lower() in _LABELS), None)
    if labels is None and path.suffix.lower() in _BESIDE:
        labels = read_names(path)
    elif labels is None:
        entries = read_content(path, None).entries
        labels = _texts(next(iter(entries.values()))) if len(entries) == 1 else None
    if not labels or not all(label.strip() for label in labels):
        raise HvfError(f"{path} does not hold one label for each query: a whole number, counted from 0, or a name")
    return labels


def as_rows(x: Any, what: str, dtype: type = np.float32) -> np.ndarray:
    """(N, D) from an array or tensor; HvfError, saying `what` it is, unless it is one of finite numbers."""
    if isinstance(x, torch.Tensor):
        if not _is_numeric(x):
            raise HvfError(f"the {what} are a sparse or quantised tensor: save it dense (x.to_dense(), x.dequantize())")
        x = x.detach().cpu().resolve_neg().resolve_conj()
        x = x.numpy() if x.is_complex() or x.dtype == torch.float64 else x.float()
    try:
        if np.iscomplexobj(x):
            raise TypeError("complex")
        with np.errstate(over="ignore"):
            x_ND = np.asarray(x, dtype=dtype)
    except (TypeError, ValueError) as error:
        raise HvfError(f"the {what} are not an array of numbers") from error
    while x_ND.ndim > 2 and 1 in x_ND.shape:  # (N, 1, D), (N, D, 1, 1), (1, N, D)
        x_ND = x_ND.squeeze(next(i for i in (*range(1, x_ND.ndim), 0) if x_ND.shape[i] == 1))
    if x_ND.ndim != 2 or not x_ND.size:
        raise HvfError(f"the {what} should be an array (items, width), not {x_ND.shape}")
    if not np.isfinite(x_ND).all():
        raise HvfError(f"the {what} hold NaN or infinite values")
    return x_ND


def read_names(path: Path) -> list[str] | None:
    """The names that a file lists: a line each, a column of a table, or JSON; None if it holds none.

    JSON may be a list of names, a list of records, columns, or {name: its row}. Raises HvfError if it cannot be read.
    """
    import pandas as pd

    from hvf.data.recordings.tables import read_table, read_text

    if path.suffix.lower() == ".json":
        try:
            content = parse_json(read_text(path))
        except ValueError as error:
            raise HvfError(f"{path} cannot be read as JSON: {error}") from error
        if isinstance(content, dict) and sorted(map(str, content.values())) == sorted(map(str, range(len(content)))):
            return sorted(content, key=lambda name: int(content[name]))
        if isinstance(content, list) and all(isinstance(one, (str, int)) for one in content):
            return texts_of(content)
        try:
            table = pd.DataFrame(content)
        except (ValueError, TypeError):
            return None
        return names_in_columns({str(name): table[name].tolist() for name in table.columns}, path.name)
    lines = read_text(path).replace("\r\n", "\n").replace("\r", "\n").rstrip("\n").split("\n")
    if path.suffix.lower() == ".txt" or not any(mark in lines[0] for mark in ",;\t"):
        lines = [line.strip() for line in lines]
        header = path.suffix.lower() == ".csv" and not is_picture_file(lines[0])
        return lines[1:] if header and names_in_columns({lines[0]: lines[1:]}, path.name) else lines
    table = read_table(path)
    return names_in_columns({str(name): table[name].tolist() for name in table.columns}, path.name)


def _file(path: str | Path, key: str | None) -> FeatureFile:
    file = feature_file(path) or FeatureFile(str(path).partition("#")[0], str(path).partition("#")[2] or None)
    return file if key is None else file._replace(key=key)


def _stamp(path: Path) -> tuple[Any, ...]:
    """What changes when a file or the names beside it do."""
    files = list(path.iterdir()) if path.is_dir() else [path, *_beside(path)]
    if path.suffix.lower() == ".parquet":
        files += path.parent.glob("*.parquet")
    return tuple((str(f), f.stat().st_mtime_ns, f.stat().st_size) for f in sorted(files) if f.exists())


@lru_cache(maxsize=4)  # a run asks for the training and for the test images
def _read(file: FeatureFile, stamp: tuple[Any, ...]) -> Embeddings:
    return _embeddings(read_content(Path(file.path), file.key), file)


def _embeddings(content: Content, file: FeatureFile) -> Embeddings:
    x_ND, names = _rows(content, file)
    if names is not None:
        return Embeddings(file, x_ND, names, "its keys")
    lists = {key: value for key, value in content.entries.items() if key != content.key}
    return Embeddings(file, x_ND, *_names_of(lists, Path(file.path), len(x_ND)))


def _rows(
    content: Content, file: FeatureFile, kind: str = "embeddings", dtype: type = np.float32
) -> tuple[np.ndarray, tuple[str, ...] | None]:
    """The rows that the key names, and the names of rows that have a key each.

    Parameters
    ----------
    content, file
        What was read from where.
    kind : str
        What the rows are, for messages.
    dtype : type
        Of the result.
    """
    entries, key, name = content.entries, content.key, Path(file.path).name
    what = f"{kind} in {file.path}"
    if ALONE in entries:
        if key is not None:
            raise HvfError(f"{file.path} holds one array, without a name: leave #{key} out")
        return as_rows(entries[ALONE], what, dtype), None
    candidates = _candidates(entries)
    if key is None and (rows := _row_of_each(entries)):
        return as_rows(np.stack(list(rows.values())), what, dtype), tuple(rows)
    if key is None and (len(candidates) == 1 or len(entries) == 1):
        key = (candidates or list(entries))[0]
    if key not in entries:
        there = [*candidates, *(one for one in entries if one not in candidates and _is_numeric(entries[one]))]
        if not there:
            raise HvfError(f"{file.path} holds no array of numbers, in parquet a column of lists")
        marked = key is not None and re.split("[@:~]", key)[0] in entries
        more = "; features in a file have no @LAYER, no :POOL and no ~VIEW" if marked else ""
        which = f", not {key}{more}" if key else f": say which, as {name}#KEY"
        raise HvfError(f"{file.path} holds {listed(there, 9)}{which}")
    return as_rows(entries[key], what, dtype), None


def _is_numeric(value: Any) -> bool:
    if isinstance(value, torch.Tensor):
        return value.layout == torch.strided and not value.is_quantized
    return isinstance(value, np.ndarray) and value.dtype.kind in "fiub"


def _candidates(entries: Mapping[str, Any]) -> list[str]:
    """The keys of what may be embeddings: arrays of numbers with two axes or more."""
    return [key for key, value in entries.items() if _is_numeric(value) and value.ndim > 1]


def _row_of_each(entries: Mapping[str, Any]) -> dict[str, np.ndarray] | None:
    """{name: embedding (D,)} where there is a key for each image; else None."""
    rows: dict[str, np.ndarray] = {}
    for key, value in entries.items():
        if isinstance(value, (str, int, float, _None)):  # says something of the file, not of an image
            continue
        if not _is_numeric(value) or value.ndim > 2 or (value.ndim == 2 and value.shape[0] != 1):
            return None
        row = value.detach().cpu().resolve_neg().float().numpy() if isinstance(value, torch.Tensor) else value
        rows[key] = row.reshape(-1)
    widths = {len(row) for row in rows.values()}
    return rows if len(rows) > 1 and len(widths) == 1 and widths != {1} else None


def _names_of(lists: Mapping[str, Any], path: Path, n: int) -> tuple[tuple[str, ...] | None, str]:
    """The names of n rows, and where they stand; or None, and why."""
    columns = {
        key: values for key, value in lists.items() if (values := _texts(value)) is not None and len(values) == n
    }
    within = names_in_columns(columns, str(path))
    if within is not None:
        return _checked(within, f"{path.name} itself", n)
    reason, found = "", {}
    for beside in _beside(path):
        if beside.is_file() and (names := read_names(beside)) is not None:
            if len(names) == n:
                found[beside.name] = names
            else:
                reason = f"{beside.name} has {len(names)} names, {path.name} {n} rows"
    if len({tuple(names) for names in found.values()}) > 1:
        raise HvfError(f"{' and '.join(found)} name the rows of {path} differently: keep one of them")
    for where, names in found.items():
        return _checked(names, where, n)
    return None, reason


def _beside(path: Path) -> list[Path]:
    """The files that may name the rows of a file, or of a folder of THINGSvision."""
    if path.is_dir():
        return [path / FILE_NAMES]
    same = [path.with_suffix(ending) for ending in _BESIDE if path.suffix.lower() != ending]
    return [*same, *([path.parent / FILE_NAMES] if path.stem == "features" else [])]


def _texts(value: Any) -> list[str] | None:
    """A list or array of texts or whole numbers, as texts; None of anything else."""
    if isinstance(value, torch.Tensor):
        value = value.numpy() if value.dtype in (torch.int32, torch.int64) else None
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "USOiu" or value.size != max(value.shape, default=0):
            return None
        value = [one.rstrip() if isinstance(one, str) else one for one in value.reshape(-1).tolist()]
    if not isinstance(value, (list, tuple)) or not all(
        isinstance(one, (str, bytes, int, Path, _None)) for one in value
    ):
        return None
    return texts_of([one.decode("utf-8", "replace") if isinstance(one, bytes) else one for one in value])


def names_in_columns(columns: Mapping[str, Sequence[str]], where: str) -> list[str] | None:
    """The column that names images. Raises HvfError if two name different ones."""
    import pandas as pd

    usual: dict[str, Sequence[str]] = {}
    for key, values in columns.items():
        word = key.lower().rpartition("/")[2]
        word = word[:-1] if word.endswith("s") else word
        usual.setdefault(_NAMES.get(word, word if word != "" else key), values)
    if not usual or not all(usual.values()):
        return None
    found = image_column(pd.DataFrame({key: texts_of(values) for key, values in usual.items()}), where=where)
    return None if found is None else found[1]


def _checked(names: Sequence[str], where: str, n: int) -> tuple[tuple[str, ...] | None, str]:
    for row, name in enumerate(names):
        if not name.strip():
            return None, f"{where} has no name for row {row} of {n}"
    return tuple(names), where
