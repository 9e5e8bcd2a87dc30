"""Trials on disk: `NAME.npy`, an array (N, C, T) read through a memory map, and its sidecar `NAME.json`.

The sidecar holds shape, dtype and sha256 of the array, all else of `Trials`, and a sha256 of what names each trial. An
array whose values are read is the one that was written: a large one is read for it once, which is remembered
(`hvf.files.checksums`).

Letters: N trials, C channels, T samples.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge, Gt, Lt

from hvf.config import HvfError, to_dict
from hvf.data.trials.categorical import Categorical, packed, unpacked
from hvf.files.checksums import known_sha256, sha256_of
from hvf.files.npy import Header, npy_header, read_npy
from hvf.runs import check_writable, code_version, temporary_beside
from hvf.schema.reading import parse_as, parse_json

FORMAT = "hvf trials 1"
HEAD = f'{{\n"format": "{FORMAT}"'  # the first bytes of every sidecar, by which it is recognised
DTYPES = ("float16", "float32")
MOST_LOST = 0.01  # of a channel's values, as root mean square, where they are stored as float16
CATEGORICAL = ("image_ids", "concepts", "splits")  # one str per trial, stored as `Categorical`
NUMBERED = ("sessions", "positions")  # one int per trial: when it was recorded
Count = Annotated[int, Ge(0), Lt(2**53)]


@dataclass(frozen=True)
class _Labels:
    """One str per trial as JSON has it: `Categorical.to_json`."""

    values: tuple[str, ...]
    codes: str


@dataclass(frozen=True)
class _Sidecar:
    """What a sidecar holds; more, from other versions, is let be."""

    format: Literal["hvf trials 1"]
    shape: tuple[Count, Count, Count]
    dtype: Literal["float16", "float32"]
    nbytes: Count
    sha256: str
    subject: str
    kind: str
    sfreq: Annotated[float, Gt(0), Lt(1e12)]  # Hz
    tmin: Annotated[float, Gt(-1e12), Lt(1e12)]  # s
    ch_names: tuple[str, ...]
    simulated: bool
    image_ids: _Labels
    concepts: _Labels | None
    splits: _Labels | None
    sessions: str | None
    history: dict[str, Any] | None
    positions: str | None = None  # earlier versions wrote neither
    labels_sha256: str | None = None


class TrialsWriter:
    """Writes trials piece by piece: inside the `with` block `x_NCT` is a writable memory map, float16 or float32.

    Left without an error, array and sidecar are put in place whole; left with one, nothing stays. What of `history` is
    known only at the end may be put into the dict `writer.history` before the block is left.

    Raises HvfError if labels do not fit the shape, or if the disk is full, has not the room or cannot be written.
    """

    x_NCT: np.memmap

    def __init__(
        self,
        path: str | Path,
        shape_NCT: tuple[int, int, int],
        dtype: Any = np.float32,
        *,
        image_ids: Sequence[str] | np.ndarray | Categorical,
        subject: str,
        sfreq: float,
        tmin: float,
        ch_names: Sequence[str],
        kind: str,
        simulated: bool = False,
        concepts: Sequence[str] | np.ndarray | Categorical | None = None,
        splits: Sequence[str] | np.ndarray | Categorical | None = None,
        sessions: Sequence[int] | np.ndarray | None = None,
        positions: Sequence[int] | np.ndarray | None = None,
        history: Mapping[str, Any] | None = None,
    ) -> None:
        self.path = Path(path)
        self.shape, self.dtype = tuple(int(n) for n in shape_NCT), np.dtype(dtype)
        self.history = dict(history or {})
        self._labels = {
            "subject": str(subject),
            "kind": str(kind),
            "sfreq": float(sfreq),
            "tmin": float(tmin),
            "ch_names": [str(name) for name in ch_names],
            "simulated": bool(simulated),
            "sessions": None if sessions is None else np.asarray(sessions, dtype=int),
            "positions": None if positions is None else np.asarray(positions, dtype=int),
        }
        for name, labels in zip(CATEGORICAL, (image_ids, concepts, splits), strict=True):
            self._labels[name] = None if labels is None else Categorical.of(labels)
        if self.path.suffix != ".npy":
            raise HvfError(f"trials are written to a .npy, not to {self.path}")
        if self.dtype.name not in DTYPES or len(self.shape) != 3:
            raise HvfError(f"trials are stored as (N, C, T) {' or '.join(DTYPES)}, not {self.shape} {self.dtype}")
        fault = _misfit(self._labels, self.shape)
        if fault:
            raise HvfError(f"cannot write {self.path}: {fault}")

    def __enter__(self) -> TrialsWriter:
        check_writable(self.path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        needed, free = _nbytes(self.shape, self.dtype), shutil.disk_usage(self.path.parent).free
        if needed + 2**24 > free:
            gigabytes = f"{needed / 1e9:.2f} GB are needed and {free / 1e9:.2f} GB are free"
            raise HvfError(f"cannot write {self.path}: {gigabytes}; make room or choose another disk")
        self._tmp = temporary_beside(self.path)
        self._sidecar_tmp = self._tmp.with_suffix(".json")
        try:
            self.x_NCT = np.lib.format.open_memmap(self._tmp, "w+", self.dtype, self.shape)
            if hasattr(os, "posix_fallocate"):  # a disk that fills up under a memory map would kill the process
                with open(self._tmp, "r+b") as file:
                    os.posix_fallocate(file.fileno(), 0, self._tmp.stat().st_size)
        except BaseException as error:
            self._discard()
            if isinstance(error, OSError):
                raise HvfError(f"cannot write {self.path}: {error.strerror or error}") from error
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._commit()
        except OSError as fault:
            raise HvfError(f"cannot write {self.path}: {fault.strerror or fault}") from fault
        finally:
            del self.x_NCT
            self._discard()

    def write(self, rows: slice, x_NCT: np.ndarray) -> None:
        """Put the values of some trials in place.

        Raises HvfError for those that float16 cannot hold: above 65504, or so small that they lose their digits, as
        EEG in V and MEG in T.
        """
        with np.errstate(over="ignore"):
            self.x_NCT[rows] = x_NCT
        if self.dtype == np.float16:
            x_NCT = np.asarray(x_NCT, np.float64)
            lost_C = np.sqrt(np.nansum((self.x_NCT[rows] - x_NCT) ** 2, axis=(0, 2)))
            if (lost_C > MOST_LOST * np.sqrt(np.nansum(x_NCT**2, axis=(0, 2)))).any():
                raise HvfError(
                    f"cannot write {self.path}: float16 cannot hold values as large or as small as up to "
                    f"{np.nanmax(np.abs(x_NCT)):.1g}: write float32, or in another unit"
                )

    def _commit(self) -> None:
        self.x_NCT.flush()
        fields: dict[str, Any] = {"format": FORMAT, "shape": self.shape, "dtype": self.dtype.name}
        digest = sha256_of(self._tmp, self.x_NCT.offset)
        fields |= {"nbytes": _nbytes(self.shape, self.dtype), "sha256": digest} | self._labels
        fields |= {name: fields[name].to_json() for name in CATEGORICAL if fields[name] is not None}
        fields |= {name: None if fields[name] is None else packed(fields[name]) for name in NUMBERED}
        fields["labels_sha256"] = _labels_digest(fields)
        fields["history"] = {"code": code_version()} | self.history
        lines = (f"{json.dumps(k)}: {json.dumps(v, default=_plain, ensure_ascii=False)}" for k, v in fields.items())
        self._sidecar_tmp.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
        for tmp in (self._tmp, self._sidecar_tmp):
            with open(tmp, "r+b") as file:
                os.fsync(file.fileno())
        # In this order no array ever stands beside a sidecar that is not its own, nor without one.
        self.path.unlink(missing_ok=True)
        os.replace(self._sidecar_tmp, sidecar_of(self.path))
        os.replace(self._tmp, self.path)

    def _discard(self) -> None:
        for tmp in (self._tmp, self._sidecar_tmp):
            with contextlib.suppress(OSError):
                tmp.unlink(missing_ok=True)


def sidecar_of(path: str | Path) -> Path:
    """The `NAME.json` of a `NAME.npy`."""
    return Path(path).with_suffix(".json")


def is_prepared(path: str | Path) -> bool:
    """Whether `path` is a `.npy` of trials with its sidecar: True also for a damaged one, which loading refuses."""
    path = Path(path)
    if path.suffix.lower() != ".npy" or not path.is_file() or not sidecar_of(path).is_file():
        return False
    try:
        text = sidecar_of(path).read_bytes()
        if text.startswith(HEAD.encode()):
            return True
        other = parse_json(text)
    except (OSError, ValueError):
        return True
    # Also ours if written anew by another program.
    return isinstance(other, dict) and "sha256" in other and "image_ids" in other


def read_store(path: str | Path) -> tuple[np.ndarray, dict[str, Any]]:
    """Open a store: (memory-mapped array, the labels and settings in its sidecar).

    The array's values are not read: see `check_store`. Raises HvfError, in one line, if array or sidecar is missing,
    damaged, of another format, or if the two do not belong together.
    """
    x_NCT, _, fields = _opened(Path(path))
    labels = (*CATEGORICAL, "subject", "kind", "sfreq", "tmin", "ch_names", "simulated", *NUMBERED, "history")
    return x_NCT, {name: fields[name] for name in labels}


def check_store(path: str | Path) -> None:
    """Hold an array to its sha256, a large one once as long as it does not change; HvfError as of `verify`."""
    _checked(Path(path), known_sha256)


def verify(path: str | Path) -> str:
    """Read the whole array, whatever is known of it, and return its sha256.

    Raises HvfError as `read_store` does, and if the array was changed.
    """
    return _checked(Path(path), sha256_of)


def _checked(path: Path, digest: Callable[[Path, int], str]) -> str:
    _, header, fields = _opened(path)
    if digest(path, header.begin) != fields["sha256"]:
        raise HvfError(f"{path} was changed or damaged after it was written (sha256 differs): prepare it again")
    return fields["sha256"]


def _opened(path: Path) -> tuple[np.ndarray, Header, dict[str, Any]]:
    fields = _read_sidecar(path)
    try:
        header = npy_header(path)
        x_NCT, size = read_npy(path, mmap=True), path.stat().st_size - header.begin
    except (HvfError, OSError) as error:
        raise HvfError(f"{path} is damaged ({error}): prepare it again") from error
    name = header.dtype.name + (", in Fortran order" if header.fortran and x_NCT.size else "")
    name += "" if header.dtype.isnative else ", big-endian"
    actual = (list(header.shape), name, size)
    if actual != (fields["shape"], fields["dtype"], fields["nbytes"]):
        raise HvfError(
            f"{path} and its sidecar {sidecar_of(path).name} do not belong together or one is damaged: the array is "
            f"{actual[1]} {tuple(actual[0])} in {size} bytes, the sidecar says {fields['dtype']} "
            f"{tuple(fields['shape'])} in {fields['nbytes']}; prepare it again"
        )
    return x_NCT, header, fields


def _read_sidecar(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise HvfError(f"there is no file of trials at {path}")
    sidecar = sidecar_of(path)
    if not sidecar.is_file():
        raise HvfError(f"{path} has no sidecar {sidecar.name} beside it: copy both, or prepare it again")
    try:
        text = sidecar.read_bytes()
        content = parse_json(text)
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise HvfError(f"the sidecar {sidecar} was not written by this version of hvf: prepare it again")
        stored = parse_as(_Sidecar, text)
        fields: dict[str, Any] = {name: getattr(stored, name) for name in _Sidecar.__dataclass_fields__}
        for name in CATEGORICAL:
            fields[name] = None if fields[name] is None else Categorical.from_json(to_dict(fields[name]))
        fields |= {name: None if fields[name] is None else unpacked(fields[name]) for name in NUMBERED}
        fields |= {"shape": list(stored.shape), "ch_names": list(stored.ch_names)}
        fault = _misfit(fields, stored.shape)
    except (OSError, ValueError) as error:
        raise HvfError(f"the sidecar {sidecar} is damaged ({error}): prepare it again") from error
    if not fault and stored.labels_sha256 not in (None, _labels_digest(content)):
        fault = "what names each trial was changed after it was written (sha256 differs; labels_sha256 vouches for it)"
    if fault:
        raise HvfError(f"the sidecar {sidecar} is damaged: {fault}; prepare it again")
    return fields


def _misfit(fields: Mapping[str, Any], shape: tuple[int, ...]) -> str | None:
    """Which label does not fit the array's shape, in words; None if all fit."""
    n, c, _ = shape
    if len(fields["ch_names"]) != c:
        return f"{c} channels have {len(fields['ch_names'])} names"
    for name in (*CATEGORICAL, *NUMBERED):
        if fields[name] is not None and len(fields[name]) != n:
            return f"{n} trials have {len(fields[name])} {name}"
    return None


def _nbytes(shape: tuple[int, ...], dtype: np.dtype) -> int:
    return int(np.prod([float(n) for n in shape])) * dtype.itemsize


def _labels_digest(fields: Mapping[str, Any]) -> str:
    """Of what names each trial, as JSON has it."""
    named = [fields.get(name) for name in (*CATEGORICAL, *NUMBERED)]
    return hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()


def _plain(obj: Any) -> Any:
    """numpy scalars and arrays as JSON types; anything else (a path, a date) as text."""
    return obj.tolist() if hasattr(obj, "tolist") else str(obj)
