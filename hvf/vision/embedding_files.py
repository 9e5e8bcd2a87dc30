"""Arrays and lists of names out of files that other programs wrote, format by format; nothing in a file is executed."""

from __future__ import annotations

import codecs
import re
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hvf.files.archives import check_arrays
from hvf.files.guard import guarded
from hvf.pickles import loading as pickles
from hvf.registry import FEATURE_ENDINGS, HvfError, listed
from hvf.schema.reading import parse_json

ALONE = ""  # the key of an array that is all that its file holds
FILE_NAMES = "file_names.txt"  # THINGSvision's list of images, in the order of the features beside it
_PIECE = re.compile(r"features_(\d+)")  # how THINGSvision parts what is too large for one file
_PART = re.compile(r"(?P<stem>.+?)-(?P<word>part-)?(?P<number>\d+)-of-(?P<last>\d+)\.parquet")
_RANK = re.compile(r"(?P<stem>.+)\.rank-(?P<rank>\d+)-of-(?P<ranks>\d+)\.part-(?P<number>\d+)\.parquet")
_SPLIT = re.compile(r"(?:(.+?)_)?(?:train|training|test|val|validation)_(.+)")


class Content(NamedTuple):
    """What a file or folder holds by its keys, and the key that is still to be chosen."""

    entries: dict[str, Any]
    key: str | None


def read_content(path: Path, key: str | None) -> Content:
    """The entries of a file, of the parts of a parquet, or of a folder of either (THINGSvision's, Brain-HIVE's).

    Raises HvfError if there is none, it is no such file, a part of it is missing, or it carries code.
    """
    if path.is_dir():
        if any(path.glob("*.parquet")):
            files = _files_of_encoder(path, key)
            return Content(_parquet([part for file in files for part in parts_of(file)]), None)
        return Content(_pieces(path), key)
    if not path.is_file():
        raise HvfError(f"there is no file of embeddings at {path}")
    if path.suffix.lower() == ".parquet":
        return Content(_read(parts_of(path)[0], lambda _: _parquet(parts_of(path))), key)
    ending = path.suffix.lower()
    if ending not in _READERS:
        raise HvfError(f"cannot read embeddings from {path}: give {', '.join(FEATURE_ENDINGS)}")
    return Content(_read(path, _READERS[ending]), key)


def parts_of(path: Path) -> list[Path]:
    """The parts of a parquet in their order; the file alone if it is no part. Raises HvfError if one is missing.

    Of ``-part-00000-of-00002`` the last number is the last part's (Brain-HIVE), of ``-00000-of-00002`` how many there
    are (the Hub's).
    """
    for pattern in (_PART, _RANK):
        match = pattern.fullmatch(path.name)
        if match is None:
            continue
        others = [(pattern.fullmatch(other.name), other) for other in sorted(path.parent.glob("*.parquet"))]
        same = {
            (int(one.groupdict().get("rank", 0)), int(one["number"])): other
            for one, other in others
            if one and {**one.groupdict(), "number": "", "rank": ""} == {**match.groupdict(), "number": "", "rank": ""}
        }
        if pattern is _PART:
            expected = {(0, i) for i in range(int(match["last"]) + bool(match["word"]))}
        else:
            expected = {(rank, i) for rank, last in same for i in range(last)} | {
                (rank, 0) for rank in range(int(match["ranks"]))
            }
        if missing := sorted(expected - same.keys()):
            rank, number = missing[0]
            which = f"{number}" if pattern is _PART else f"{number} of rank {rank}"
            raise HvfError(f"{path} is one of {len(expected)} parts and part {which} is not beside it: get all of them")
        return [same[place] for place in sorted(same)]
    return [path]


def keys_of_folder(path: Path) -> list[str]:
    """The encoders whose features a folder of parquet files holds: what stands for KEY."""
    stems = {_stem(file) for file in path.glob("*.parquet")}
    return sorted({match[2] if (match := _SPLIT.fullmatch(stem)) else stem for stem in stems})


def _files_of_encoder(folder: Path, key: str | None) -> list[Path]:
    """One file (a part, where it has parts) for each split of the images, of the encoder that `key` names."""
    stems = {_stem(file): file for file in sorted(folder.glob("*.parquet"), reverse=True)}
    keys = keys_of_folder(folder)
    if key is None and len(keys) == 1:
        key = keys[0]
    if key in stems:
        return [stems[key]]
    by_dataset: dict[str, list[Path]] = {}
    for stem in sorted(stems):
        match = _SPLIT.fullmatch(stem)
        if match and key in (match[2], f"{match[1]}_{match[2]}"):
            by_dataset.setdefault(match[1] or "", []).append(stems[stem])
    if not by_dataset:
        raise HvfError(
            f"{folder} holds {listed(keys)}" + (f", not {key}" if key else f": say which, as {folder.name}#KEY")
        )
    if len(by_dataset) > 1:
        which = ", ".join(f"{name}_{key}" for name in by_dataset)
        raise HvfError(f"{folder} holds {key} of several sets of images: say {which}")
    return next(iter(by_dataset.values()))


def _stem(file: Path) -> str:
    match = _PART.fullmatch(file.name) or _RANK.fullmatch(file.name)
    return match["stem"] if match else file.stem


def _pieces(folder: Path) -> dict[str, Any]:
    """THINGSvision's folder: features.npy (.pt, .mat, .txt, .hdf5), or features_01.npy and so on, joined."""
    endings = (*_READERS, ".txt")
    files = [file for file in sorted(folder.glob("features*")) if file.suffix.lower() in endings]
    whole = [file for file in files if file.stem == "features"]
    pieces = {int(match[1]): file for file in files if (match := _PIECE.fullmatch(file.stem))}
    if len(whole) > 1 or len({file.suffix for file in pieces.values()}) > 1 or (whole and pieces):
        names = listed(file.name for file in [*whole, *pieces.values()])
        raise HvfError(f"{folder} holds {names}: name the file that is meant")
    if not whole and not pieces:
        raise HvfError(f"{folder} holds no features: neither .parquet files nor features.npy with {FILE_NAMES}")
    if missing := sorted(set(range(1, max(pieces, default=0))) - set(pieces)):
        raise HvfError(f"{folder} lacks features_{missing[0]:02d}: get all of them")
    read = [_read(file, _READERS.get(file.suffix.lower(), _text)) for file in [*whole, *pieces.values()]]
    return read[0] if whole else joined(read, folder)


def joined(parts: list[dict[str, Any]], where: Path) -> dict[str, Any]:
    """Entries of several files, one below the other. Raises HvfError if they do not hold the same."""
    if len({tuple(part) for part in parts}) > 1:
        if len({key for part in parts for key in part}) == sum(map(len, parts)):  # a key for each image
            return {key: value for part in parts for key, value in part.items()}
        raise HvfError(f"the parts of {where} do not hold the same columns")
    try:
        return {
            key: sum((list(part[key]) for part in parts), [])
            if isinstance(parts[0][key], list)
            else np.concatenate([np.asarray(part[key]) for part in parts])
            for key in parts[0]
        }
    except ValueError as error:
        raise HvfError(f"the parts of {where} are not of one width: {error}") from error


def _read(path: Path, reader: Callable[[Path], Any]) -> dict[str, Any]:
    """What `reader` reads; whatever it raises on files that are damaged or carry code becomes one HvfError."""
    try:
        content = reader(path)
    except HvfError:
        raise
    except Exception as error:  # numpy, torch, scipy and arrow raise many kinds
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        kind = (
            "is not a readable safetensors file" if path.suffix == ".safetensors" else "cannot be read as plain numbers"
        )
        raise HvfError(f"{path} {kind}: {first}") from error
    return {str(k): v for k, v in content.items()} if isinstance(content, dict) else {ALONE: content}


def _npy(path: Path) -> Any:
    try:
        return np.load(path, allow_pickle=False)
    except ValueError as error:  # pickled objects: a dict of arrays, perhaps
        return _without_running(path, error)


def _npz(path: Path) -> dict[str, Any]:
    entries: dict[str, Any] = {}
    check_arrays(path)
    with np.load(path, allow_pickle=False) as arrays:
        for name in arrays.files:
            try:
                entries[name] = arrays[name]
            except ValueError as error:  # names as Python objects
                with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(path) as archive:
                    entries[name] = _without_running(Path(archive.extract(f"{name}.npy", folder)), error)
    return entries


def _torch(path: Path) -> Any:
    """Tensors, and arrays of numpy, whose parts are named; nothing else is made."""
    import torch

    check_arrays(path)
    kinds = {type(np.dtype(code)) for code in np.typecodes["All"] if code not in "OSUVMm"}
    allowed: list[Any] = [np.ndarray, np.dtype, *kinds]
    for module in ("numpy._core", "numpy.core"):  # numpy 2 and 1 name them differently in their files
        allowed += [(np.empty(0).__reduce__()[0], f"{module}.multiarray._reconstruct")]
        allowed += [(np.float32(0).__reduce__()[0], f"{module}.multiarray.scalar")]
    named = torch.serialization.safe_globals([*allowed, (codecs.encode, "_codecs.encode")])
    try:
        with named, warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of newer protocols, which are read below
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # arrays of strings, and pickles of a newer protocol
        return _without_running(path, error)


def _without_running(path: Path, error: Exception) -> Any:
    """What a pickle holds, interpreted and not run; the first error where it is no data."""
    try:
        return pickles.load(path)
    except HvfError:
        raise error from None


def _safetensors(path: Path) -> dict[str, Any]:
    from safetensors import safe_open
    from safetensors.torch import load_file

    entries: dict[str, Any] = dict(load_file(path))
    with safe_open(path, "pt") as file:
        for key, text in (file.metadata() or {}).items():
            try:
                value = parse_json(text)
            except ValueError:
                value = text.splitlines()
            for name, one in {key: value, **(value if isinstance(value, dict) else {})}.items():  # hvf's is a table
                if isinstance(one, list) and all(isinstance(text, str) for text in one):
                    entries.setdefault(name, one)
    return entries


def _mat(path: Path) -> dict[str, Any]:
    from scipy.io import loadmat

    try:
        content = guarded(path, "matlab", lambda: loadmat(path))
    except NotImplementedError:  # version 7.3 is HDF5
        return _hdf5(path)
    entries = {key: value for key, value in content.items() if not key.startswith("__")}
    for key, value in entries.items():
        if value.dtype == object:  # a cell array
            entries[key] = [one.item() if isinstance(one, np.ndarray) and one.size == 1 else one for one in value.flat]
    return entries


def _hdf5(path: Path) -> dict[str, Any]:
    try:
        import h5py
    except ImportError:
        raise HvfError(f"{path} is HDF5, which h5py reads: pip install h5py") from None
    entries: dict[str, Any] = {}

    def take(name: str, item: Any) -> None:
        if not isinstance(item, h5py.Dataset) or name.startswith("#"):  # what MATLAB's cell arrays refer to
            return
        if "MATLAB_class" in item.attrs or by_matlab:
            entries[name] = _of_matlab(item)
        else:
            entries[name] = np.asarray(item.asstr()[()]).tolist() if h5py.check_string_dtype(item.dtype) else item[()]

    def read() -> None:
        with h5py.File(path, "r") as file:
            file.visititems(take)

    with open(path, "rb") as file:
        by_matlab = file.read(6) == b"MATLAB"
    guarded(path, "hdf5", read)
    return entries


def _of_matlab(item: Any) -> Any:
    """An array as MATLAB has it, whose files of version 7.3 hold axes the other way round; texts and cells as lists."""
    import h5py

    kind = item.attrs.get("MATLAB_class", b"")
    if item.attrs.get("MATLAB_empty", 0):
        return [] if kind in (b"char", b"cell") else np.zeros(tuple(item[()].astype(int)))
    if kind == b"cell" or h5py.check_ref_dtype(item.dtype):
        cells = [_of_matlab(item.file[reference]) for reference in item[()].flat]
        return [one[0] if isinstance(one, list) and len(one) == 1 else one for one in cells]
    x = np.asarray(item[()]).T
    if kind == b"char":
        return ["".join(map(chr, row.tolist())).rstrip() for row in x.reshape(len(x), -1)]
    return x


def _text(path: Path) -> np.ndarray:
    return np.loadtxt(path, ndmin=2)


def _parquet(files: Iterable[Path]) -> dict[str, Any]:
    """Columns of lists as arrays (rows, width), other columns as lists."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    read: list[dict[str, Any]] = []
    files = list(files)

    def columns(path: Path) -> dict[str, Any]:
        table = guarded(path, "parquet", lambda: pq.ParquetFile(path).read())
        return dict(zip(table.column_names, table.columns, strict=True))

    for file in files:
        table = _read(file, columns)
        entries: dict[str, Any] = {}
        for name, column in table.items():
            nested = pa.types.is_list(column.type) or pa.types.is_large_list(column.type)
            if nested or pa.types.is_fixed_size_list(column.type):
                chunks = [lists_as_rows(chunk, f"{name!r} in {file}") for chunk in column.chunks if len(chunk)]
                entries[name] = np.concatenate(chunks) if chunks else np.empty((0, 0))
            else:
                entries[name] = column.to_pylist()
        read.append(entries)
    return read[0] if len(read) == 1 else joined(read, files[0].parent)


def lists_as_rows(chunk: Any, what: str) -> np.ndarray:
    """The lists of a column as an array (rows, width, ...)."""
    import pyarrow as pa
    import pyarrow.compute as pc

    shape = [len(chunk)]
    while pa.types.is_list(chunk.type) or pa.types.is_large_list(chunk.type) or pa.types.is_fixed_size_list(chunk.type):
        widths = pc.unique(pc.list_value_length(chunk)).to_pylist()  # pyright: ignore[reportAttributeAccessIssue]
        if len(widths) != 1 or widths[0] is None:
            raise HvfError(f"the rows of {what} are not of one width: {listed(map(str, widths))}")
        shape.append(widths[0])
        chunk = chunk.flatten()
    return chunk.to_numpy(zero_copy_only=False).reshape(shape)


_READERS: dict[str, Callable[[Path], Any]] = {
    ".npy": _npy, ".npz": _npz, ".pt": _torch, ".pth": _torch, ".safetensors": _safetensors, ".mat": _mat,
    ".hdf5": _hdf5, ".h5": _hdf5,
}  # fmt: skip
