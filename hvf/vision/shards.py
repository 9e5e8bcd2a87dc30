"""Latents and features of a large image set: Arrow shards of equal length, and the index that says what they are.

FOLDER/index.json tells dataset, encoders and weights; FOLDER/shard-00000.arrow … hold one record per image: its id, its
concept, and one fixed-size list of float16 per FeatureSpec. A shard is one record batch, so that a memory-mapped column
is an array (rows, d) without a copy. Shards are the unit of work: any number of processes may write different ones,
each appears whole or not at all, and which of them are there is all that a resumed preparation has to know.
Letters: N images, d width of an encoder's features.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
from annotated_types import Ge, Lt
from typing_extensions import TypedDict  # Python's own is no help to pydantic before 3.12

from hvf.config import HvfError
from hvf.files.checksums import FOLDER, LARGE
from hvf.files.remembered import Remembered
from hvf.runs import check_writable, clear_leftovers, code_version, track, write_atomic, write_json
from hvf.schema.reading import parse_as, read_as

INDEX = "index.json"
FORMAT = "hvf-shards-1"
DTYPE = np.dtype(np.float16)
Count = Annotated[int, Ge(1), Lt(2**48)]
_NAME = "shard-{:05d}.arrow"
_AGAIN = "run prior_training/prepare.py with the same settings again"


class EncoderInfo(TypedDict):
    """The width of an encoder's features, and the hash of its weights."""

    dim: Count
    weights_hash: str


@dataclass(frozen=True)
class Settings:
    """What decides a folder's content."""

    dataset: str  # the images' name
    fingerprint: str  # hash of their content
    images: Count
    latents: str  # FeatureSpec of x_0
    encoders: dict[str, EncoderInfo]  # the latents' included
    shard_size: Count
    precision: str = "float32"  # in which the encoders ran

    @property
    def shards(self) -> int:
        """How many shards there are; the last may be shorter."""
        return -(-self.images // self.shard_size)

    @property
    def row_bytes(self) -> int:
        """Bytes of one image's numbers on disk."""
        return DTYPE.itemsize * sum(int(one["dim"]) for one in self.encoders.values())

    @property
    def digest(self) -> str:
        """Of all settings; every shard carries it."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]

    def rows(self, number: int) -> range:
        """The images of a shard."""
        first = number * self.shard_size
        return range(first, min(first + self.shard_size, self.images))


class Listed(TypedDict):
    """A shard in the index of a complete folder."""

    file: str
    rows: Count
    bytes: Count
    sha256: str


class _Index(TypedDict):
    format: str
    code_version: str
    settings: Settings
    shards: list[Listed] | None


class _Metadata(TypedDict):
    """What a shard says of itself."""

    settings: str
    shard: int
    rows: int
    sha256: str


def start(folder: Path, settings: Settings) -> None:
    """Make the folder, or enter one with the same settings; what a killed process left half-written there goes.

    To be called by one process before any writes. Raises HvfError for a folder that holds something else, naming the
    first setting that differs.
    """
    check_writable(folder)
    if (folder / INDEX).exists():
        there, here = asdict(_read_index(folder)[0]), asdict(settings)
        for name, value in here.items():
            if there[name] != value:
                change = _first_difference(there[name], value) if name == "encoders" else f"{there[name]}, not {value}"
                raise HvfError(f"{folder} was prepared with {name} = {change}: choose another --out")
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise HvfError(f"{folder} exists and holds no prepared images: choose another --out")
    else:
        _write_index(folder, settings, None)
    clear_leftovers(folder)


def missing(folder: Path, settings: Settings) -> list[int]:
    """The numbers of the shards that are still to be written, damaged ones included."""
    return [number for number in range(settings.shards) if not _is_whole(folder, settings, number)]


def write_shard(
    folder: Path,
    settings: Settings,
    number: int,
    ids: Sequence[str],
    concepts: Sequence[str],
    features: Mapping[str, np.ndarray],
) -> None:
    """Put one shard in place, whole. ``features`` maps every spec to (N, d) floats, which are rounded to float16.

    Raises HvfError for features that float16 cannot hold, or of another shape than the settings say, and for a disk
    that does not take them.
    """
    rows = settings.rows(number)
    columns: list[pa.Array] = [pa.array(ids, pa.string()), pa.array(concepts, pa.string())]
    fields = [pa.field("id", pa.string()), pa.field("concept", pa.string())]
    content = hashlib.sha256("\n".join([*ids, *concepts]).encode())
    for spec, encoder in settings.encoders.items():
        with np.errstate(over="ignore"):
            x_Nd = np.ascontiguousarray(features[spec], dtype=DTYPE)
        if x_Nd.shape != (len(rows), encoder["dim"]) or len(ids) != len(rows) or len(concepts) != len(rows):
            raise HvfError(f"shard {number} needs {len(rows)} images and {spec} ({len(rows)}, {encoder['dim']})")
        bad = np.flatnonzero(~np.isfinite(x_Nd).all(axis=1))
        if len(bad):
            raise HvfError(f"{spec} of image {ids[bad[0]]!r} is not finite, or too large for float16")
        content.update(x_Nd.tobytes())
        columns.append(pa.FixedSizeListArray.from_arrays(pa.array(x_Nd.reshape(-1)), encoder["dim"]))
        fields.append(pa.field(spec, columns[-1].type))
    metadata = {"settings": settings.digest, "shard": number, "rows": len(rows), "sha256": content.hexdigest()}
    schema = pa.schema(fields, {"hvf": json.dumps(metadata)})

    def write(temporary: Path) -> None:
        with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            writer.write_batch(pa.record_batch(columns, schema=schema))

    write_atomic(folder / _NAME.format(number), write)


def finish(folder: Path, settings: Settings) -> None:
    """List all shards in the index, which makes the folder complete. Raises HvfError while any is missing."""
    absent = missing(folder, settings)
    if absent:
        raise HvfError(f"{folder} lacks {len(absent)} of {settings.shards} shards, the first {absent[0]}: {_AGAIN}")
    listed: list[Listed] = []
    for number in range(settings.shards):
        path = folder / _NAME.format(number)
        entry = _metadata(_open(path), path)
        size = path.stat().st_size
        listed.append({"file": path.name, "rows": entry["rows"], "bytes": size, "sha256": entry["sha256"]})
    if _read_index(folder)[1] != listed:
        _write_index(folder, settings, listed)


class Shards:
    """A complete folder of shards, read through memory maps. Rows are numbered as the images of the data set were.

    Every shard is the one that was written: a large one is read for it once, which is remembered.

    Attributes: ``folder``; ``settings``; ``ids`` and ``concepts``, one str per image.
    """

    def __init__(self, folder: Path, settings: Settings, listed: Sequence[Listed]) -> None:
        self.folder, self.settings = folder, settings
        self.ids: list[str] = []
        self.concepts: list[str] = []
        self._listed = listed
        self._batches: list[pa.RecordBatch] = []
        if [entry["file"] for entry in listed] != [_NAME.format(number) for number in range(settings.shards)]:
            raise HvfError(f"{folder / INDEX} is damaged: it lists other shards than its settings need; {_AGAIN}")
        for number, entry in enumerate(track(listed, "checking the shards") if len(listed) > 20 else listed):
            path = folder / entry["file"]
            if not path.is_file():
                raise HvfError(f"{path} is missing: {_AGAIN}")
            if path.stat().st_size != entry["bytes"]:
                raise HvfError(f"{path} is damaged: {path.stat().st_size} bytes, not {entry['bytes']}; {_AGAIN}")
            batch = _open(path)
            metadata = _metadata(batch, path)
            if metadata["settings"] != settings.digest or metadata["shard"] != number:
                raise HvfError(f"{path} belongs to other settings than {INDEX} beside it: delete it and {_AGAIN}")
            if metadata["sha256"] != entry["sha256"] or not _fits(batch, settings, number):
                raise HvfError(f"{path} is not the shard that {INDEX} lists: delete it and {_AGAIN}")
            if not _is_sound(batch, path, entry["sha256"]):
                raise HvfError(f"{path} is damaged: its content differs from its sha256; {_AGAIN}")
            self._batches.append(batch)
            self.ids += batch.column("id").to_pylist()
            self.concepts += batch.column("concept").to_pylist()

    @property
    def specs(self) -> tuple[str, ...]:
        """The FeatureSpecs that are there, the latents' included."""
        return tuple(self.settings.encoders)

    @property
    def dims(self) -> dict[str, int]:
        """FeatureSpec -> width d."""
        return {spec: int(one["dim"]) for spec, one in self.settings.encoders.items()}

    @property
    def digest(self) -> str:
        """sha256 over the settings and every shard's content, in order."""
        lines = [self.settings.digest, *(entry["sha256"] for entry in self._listed)]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def __len__(self) -> int:
        return self.settings.images

    def batch(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """{spec: (n, d) float32} of the images ``rows`` (n,), in that order. Raises IndexError for rows not there."""
        rows = np.asarray(rows)
        if len(rows) and not (rows.min() >= 0 and rows.max() < len(self)):
            raise IndexError(f"rows {rows.min()} to {rows.max()} of {len(self)} images")
        numbers, places = np.divmod(rows, self.settings.shard_size)
        out = {spec: np.empty((len(rows), dim), np.float32) for spec, dim in self.dims.items()}
        for number in np.unique(numbers):
            here = np.flatnonzero(numbers == number)
            for spec, x_nd in out.items():
                x_nd[here] = _array(self._batches[number], spec)[places[here]]
        return out

    def check(self) -> None:
        """Read everything and compare it with the checksums; HvfError naming the first damaged shard."""
        for batch, entry in zip(self._batches, self._listed, strict=True):
            if _content(batch) != entry["sha256"]:
                raise HvfError(f"{self.folder / entry['file']} is damaged: delete it and {_AGAIN}")


def open_shards(folder: Path) -> Shards:
    """A prepared folder. Raises HvfError if it is none, is incomplete, or a shard is missing, damaged or foreign.

    What is known of a large shard that has not changed is believed; `Shards.check` reads all again.
    """
    folder = Path(folder)
    settings, listed = _read_index(folder)
    if listed is None:
        absent = len(missing(folder, settings))
        raise HvfError(f"{folder} is not complete: {absent} of {settings.shards} shards are to come; {_AGAIN}")
    return Shards(folder, settings, listed)


def _read_index(folder: Path) -> tuple[Settings, list[Listed] | None]:
    path = folder / INDEX
    if not path.is_file():
        raise HvfError(f"{folder} holds no prepared images: make them with prior_training/prepare.py")
    index = read_as(_Index, path, _AGAIN)
    if index["format"] != FORMAT:
        raise HvfError(f"{path} has format {index['format']!r}, not {FORMAT!r}: prepare the images again")
    return index["settings"], index["shards"]


def _write_index(folder: Path, settings: Settings, listed: list[Listed] | None) -> None:
    made_by = code_version() if listed is None else read_as(_Index, folder / INDEX)["code_version"]
    index = {"format": FORMAT, "code_version": made_by, "settings": asdict(settings), "shards": listed}
    write_json(folder / INDEX, index)


def _first_difference(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    for spec in (*there, *here):
        if there.get(spec) != here.get(spec):
            return f"{spec} {there.get(spec, 'absent')}, not {here.get(spec, 'absent')}"
    return f"{', '.join(there)}, not {', '.join(here)}"  # the same ones in another order


def _open(path: Path) -> pa.RecordBatch:
    """The one record batch of a shard, memory-mapped."""
    try:
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        if reader.num_record_batches != 1:
            raise HvfError(f"{path} is no shard: {reader.num_record_batches} record batches; {_AGAIN}")
        batch = reader.get_batch(0)
        _ = batch.schema.names, batch.schema.metadata  # may be no text
        batch.validate(full=True)  # else lengths and offsets that lie are believed
        return batch
    except (pa.ArrowException, OSError, ValueError) as error:
        raise HvfError(f"{path} is damaged: {' '.join(str(error).split())[:160]}; {_AGAIN}") from error


def _metadata(batch: pa.RecordBatch, path: Path) -> _Metadata:
    try:
        return parse_as(_Metadata, (batch.schema.metadata or {}).get(b"hvf", b""))
    except ValueError as error:
        raise HvfError(f"{path} is no shard, or is damaged ({error}): delete it and {_AGAIN}") from error


def _fits(batch: pa.RecordBatch, settings: Settings, number: int) -> bool:
    """Whether a shard has the rows and columns of its settings."""
    widths = {spec: pa.list_(pa.float16(), one["dim"]) for spec, one in settings.encoders.items()}
    types = {"id": pa.string(), "concept": pa.string(), **widths}
    there = dict(zip(batch.schema.names, batch.schema.types, strict=True))
    whole = all(batch.column(name).null_count == 0 for name in there)
    return there == types and whole and batch.num_rows == len(settings.rows(number))


def _is_sound(batch: pa.RecordBatch, path: Path, expected: str) -> bool:
    """Whether a shard's content has this sha256: of a large one that has not changed since, as it was found then."""
    facts = Remembered([path.resolve()] if path.stat().st_size > LARGE else [], "sound", FOLDER)
    if facts.get("sha256") == expected:
        return True
    sound = _content(batch) == expected
    if sound:
        facts.put({"sha256": expected})
    return sound


def _is_whole(folder: Path, settings: Settings, number: int) -> bool:
    path = folder / _NAME.format(number)
    if not path.exists():
        return False
    try:
        batch = _open(path)
        metadata = _metadata(batch, path)
    except HvfError:
        return False
    if (metadata["settings"], metadata["shard"]) != (settings.digest, number) or not _fits(batch, settings, number):
        return False
    return _is_sound(batch, path, metadata["sha256"])


def _array(batch: pa.RecordBatch, spec: str) -> np.ndarray:
    """A column as (rows, d) float16, without a copy."""
    column: Any = batch.column(spec)
    return column.values.to_numpy(zero_copy_only=True).reshape(len(column), -1)


def _content(batch: pa.RecordBatch) -> str:
    words = [*batch.column("id").to_pylist(), *batch.column("concept").to_pylist()]
    digest = hashlib.sha256("\n".join(words).encode())
    for spec in batch.schema.names[2:]:
        digest.update(_array(batch, spec).tobytes())
    return digest.hexdigest()
