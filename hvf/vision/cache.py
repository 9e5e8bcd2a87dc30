"""Features of image sets, computed once and kept on disk.

An entry is one safetensors file. Its name is a hash of everything the features depend on: the spec, the encoder's
weights and preprocessing, and the images' content. Its metadata carry the same facts and a checksum of the array, so
that a truncated, altered or foreign entry is noticed and recomputed. The hash of each image stands beside its
features: a part of a set, as the training images of a split, takes its rows from the entry of the whole. Writers use a
temporary name of their own and a rename: any number of processes may share a cache.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from safetensors import safe_open
from safetensors.numpy import save_file

from hvf import runs
from hvf.registry import BACKBONES, HvfError
from hvf.schema.reading import parse_json
from hvf.vision.loading import load_encoder
from hvf.vision.processes import ALONE, Processes
from hvf.vision.specs import parse_spec

if TYPE_CHECKING:
    from hvf.vision.specs import Encoder, FeatureSpec

BATCH = 32  # images at once, at least
PIXELS = 2**22  # at once on a GPU, which is idle with few small images; large ones need its memory
_FORMAT = "hvf-features-1"
_log = logging.getLogger(__name__)


class Images(Protocol):
    """What ``embed`` needs of an image set: length, ids, a content digest, and RGB images by index."""

    ids: tuple[str, ...]

    @property
    def digest(self) -> str:
        """Hash of the images' content and order."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any:
        """The image at an index: PIL RGB, or anything that ``np.asarray`` turns into uint8 (H, W, 3)."""


def embed(
    images: Images, spec: str | FeatureSpec, device: str | torch.device = "cpu", cache: str | Path | None = None
) -> np.ndarray:
    """Features (N, D) float32 of N images under a feature spec, read from the cache or computed and put there.

    Parameters
    ----------
    images : Images
        An image set.
    spec : str or FeatureSpec
        Which encoder, layer and pool.
    device : str or torch.device
        Where the network runs.
    cache : path, optional
        Folder of the entries; by default ``features`` in hvf's cache folder. If it cannot be written, a warning says
        so, and the features are returned all the same.

    Raises
    ------
    HvfError
        A bad spec, missing weights, an image that cannot be decoded (naming it), or features that are not finite.
    """
    return embed_all(images, [spec], device, cache)[str(spec)]


def embed_all(
    images: Images,
    specs: Sequence[str | FeatureSpec],
    device: str | torch.device = "cpu",
    cache: str | Path | None = None,
    weights: Mapping[str, str] | None = None,
    processes: Processes = ALONE,
    keep: bool = False,
) -> dict[str, np.ndarray]:
    """{spec as given: features (N, D)} as `embed` gives them; layers of one network are computed in one pass.

    Parameters
    ----------
    images, specs, device, cache
        As for `embed`.
    weights : mapping, optional
        The hashes that encoders' weights must have: features of others cannot be compared, and are refused.
    processes : Processes
        Those that call this together, each with the same images and specs: every one computes its share. They must
        share the cache folder.
    keep : bool
        Whether features that cannot be put there are an error, HvfError, and not a warning.
    """
    folder = Path(cache if cache is not None else runs.cache_dir() / "features")
    networks: dict[FeatureSpec, list[FeatureSpec]] = {}
    features: dict[FeatureSpec, np.ndarray] = {}
    expected = {parse_spec(spec): digest for spec, digest in (weights or {}).items()}  # however a spec is spelt
    for spec in map(parse_spec, specs):
        family = BACKBONES[spec.kind]
        if family.has_network:
            networks.setdefault(family.network(spec), []).append(spec)
        else:
            features[spec] = family.of_images(spec, images.ids)
    for group in networks.values():
        encoder = processes.first(lambda spec=group[0]: load_encoder(spec, device))
        other = [spec for spec in group if expected.get(spec, encoder.weights_hash) != encoder.weights_hash]
        if other:
            raise HvfError(
                f"the encoder {other[0]} on this machine has other weights than the one that the decoder was trained "
                "with: its features cannot be compared"
            )
        entries = {spec: _entry(spec, encoder, images) for spec in group}
        paths = {spec: folder / f"{_name(entry)}.safetensors" for spec, entry in entries.items()}
        features |= {s: x for s in group if (x := _read(paths[s], entries[s], len(images))) is not None}
        missing = [spec for spec in dict.fromkeys(group) if spec not in features]
        features |= {s: x for s in missing if (x := _of_other_sets(folder, entries[s], images)) is not None}
        missing = processes.same([spec for spec in missing if spec not in features])
        computed = processes.attempt(partial(_compute, images, encoder, missing, device, processes)) if missing else {}
        if missing and processes.count > 1:
            rows = {rank: _rows(processes, images, device, rank) for rank in range(processes.count)}
            parts = {paths[spec]: features_ND for spec, features_ND in computed.items()}
            if processes.rank:
                processes.attempt(partial(_leave_rows, processes, parts, rows[processes.rank]))
                processes.attempt(lambda: None)
                computed = {}
            else:
                processes.attempt(lambda: None)
                processes.attempt(partial(_take_rows, processes, parts, rows))
        fault: HvfError | None = None
        for spec, features_ND in computed.items():
            features[spec] = features_ND
            fault = _write(paths[spec], entries[spec], features_ND, _contents(images)) or fault
        processes.wait()
        if fault is not None and keep:
            raise fault
        if fault is not None:
            _log.warning("features are not cached: %s", fault)
        for spec in (one for one in missing if one not in computed):  # the first process has written it
            features_ND = _read(paths[spec], entries[spec], len(images))
            if features_ND is None:
                raise HvfError(
                    f"{paths[spec]} is not there: processes need one cache folder together, set by HVF_CACHE"
                )
            features[spec] = features_ND
    return {str(spec): features[parse_spec(spec)] for spec in specs}


def content_hashes(specs: Sequence[str | FeatureSpec]) -> list[str]:
    """Of the specs whose features lie in files, a hash of each file's content: a training depends on it."""
    parsed = [(BACKBONES[spec.kind], spec) for spec in map(parse_spec, specs)]
    return [family.weights_hash(spec) for family, spec in parsed if not family.has_network]


def weights_hashes(specs: Sequence[str | FeatureSpec], device: str | torch.device = "cpu") -> dict[str, str]:
    """{spec as given: hash of the encoder's weights} of those that have a network."""
    networks = [(str(spec), parse_spec(spec)) for spec in specs if BACKBONES[parse_spec(spec).kind].has_network]
    return {name: load_encoder(spec, device).weights_hash for name, spec in networks}


def _entry(spec: FeatureSpec, encoder: Encoder, images: Images) -> dict[str, str]:
    """What the features depend on."""
    return {"format": _FORMAT, "spec": str(spec), "weights_hash": encoder.weights_hash, "images": images.digest}


def _name(entry: dict[str, str]) -> str:
    return hashlib.sha256("\n".join(f"{key}={value}" for key, value in sorted(entry.items())).encode()).hexdigest()[:32]


def _batch(images: Images, device: str | torch.device) -> int:
    """How many images go through together."""
    if len(images) and torch.device(device).type == "cuda":
        return max(BATCH, PIXELS // max(1, math.prod(_pixels(images, 0).shape[:2])))
    return BATCH


def _compute(
    images: Images,
    encoder: Encoder,
    specs: Sequence[FeatureSpec],
    device: str | torch.device,
    processes: Processes = ALONE,
) -> dict[FeatureSpec, np.ndarray]:
    """Features (N, D) of each spec, which are layers of one network; of several processes, the rows of this one."""
    features: dict[FeatureSpec, np.ndarray] = {}
    title = str(specs[0]) if len(specs) == 1 else f"{specs[0]} and {len(specs) - 1} other layers"
    batches = processes.share(len(images), _batch(images, device))
    for share in runs.track(batches, f"features {title}"):
        # Images may differ in size: those of one size go through together, each batch's result lands in its own rows.
        by_size: dict[tuple[int, ...], list[tuple[int, np.ndarray]]] = {}
        for index in share:
            pixels_HW3 = _pixels(images, index)
            by_size.setdefault(pixels_HW3.shape, []).append((index, pixels_HW3))
        for group in by_size.values():
            rows, pixels = zip(*group, strict=True)
            batch_N3HW = torch.from_numpy(np.stack(pixels)).to(device).permute(0, 3, 1, 2).float() / 255
            for spec, part_ND in zip(specs, encoder.encode_layers(batch_N3HW, specs), strict=True):
                whole_ND = features.setdefault(spec, np.empty((len(images), part_ND.shape[1]), np.float32))
                whole_ND[list(rows)] = part_ND.cpu().numpy()
    rows = [index for share in batches for index in share]
    for spec, features_ND in features.items():
        bad = np.flatnonzero(~np.isfinite(features_ND[rows]).all(axis=1))
        if len(bad):
            image = images.ids[rows[bad[0]]]
            raise HvfError(f"{spec}: features of image {image!r} are not finite ({len(bad)} such images)")
    return features


def _rows(processes: Processes, images: Images, device: str | torch.device, rank: int) -> list[int]:
    """The images of a process."""
    return [i for share in processes.share(len(images), _batch(images, device), rank) for i in share]


def _part(path: Path, processes: Processes, rank: int) -> Path:
    """Where a process leaves its rows, beside the entry that they are for."""
    return path.with_name(f"{path.stem}-{rank}-of-{processes.count}.npy")


def _leave_rows(processes: Processes, features: Mapping[Path, np.ndarray], rows: Sequence[int]) -> None:
    """Write this process's rows of each entry, for the first process."""
    for path, features_ND in features.items():
        own_ND = features_ND[list(rows)]
        runs.write_atomic(_part(path, processes, processes.rank), lambda temporary, x=own_ND: np.save(temporary, x))


def _take_rows(processes: Processes, features: Mapping[Path, np.ndarray], rows: Mapping[int, Sequence[int]]) -> None:
    """Put the rows of the other processes where they belong."""
    for path, features_ND in features.items():
        for rank in (rank for rank in range(1, processes.count) if rows[rank]):
            part = _part(path, processes, rank)
            try:
                features_ND[list(rows[rank])] = np.load(part, allow_pickle=False)
            except (OSError, ValueError) as error:
                raise HvfError(f"processes need one cache folder together, set by HVF_CACHE: {error}") from error
            part.unlink()


def _pixels(images: Images, index: int) -> np.ndarray:
    try:
        pixels_HW3 = np.asarray(images[index])
    except HvfError:
        raise
    except (OSError, SyntaxError, ValueError) as error:  # what PIL raises for truncated and malformed files
        raise HvfError(f"image {images.ids[index]!r} cannot be decoded: {error}") from error
    if pixels_HW3.ndim != 3 or pixels_HW3.shape[2] != 3 or pixels_HW3.dtype != np.uint8:
        raise HvfError(f"image {images.ids[index]!r} is not RGB with 8 bits: {pixels_HW3.dtype} {pixels_HW3.shape}")
    return pixels_HW3


def _metadata(entry: dict[str, str], features_ND: np.ndarray) -> dict[str, str]:
    checksum = hashlib.sha256(features_ND.tobytes()).hexdigest()
    # One JSON value, because safetensors writes several in no fixed order: the same features make the same file.
    return {"hvf": json.dumps({**entry, "sha256": checksum}, sort_keys=True)}


def _read(path: Path, entry: dict[str, str], n: int) -> np.ndarray | None:
    if not path.exists():
        return None
    try:
        with safe_open(path, "np") as file:
            metadata, features_ND = file.metadata() or {}, file.get_tensor("features")
    except Exception as error:  # safetensors raises its own type, a damaged header others: every one means recompute
        _log.warning("feature cache entry %s is unreadable and is made again: %s", path, error)
        return None
    if features_ND.ndim != 2 or len(features_ND) != n or metadata != _metadata(entry, features_ND):
        _log.warning("feature cache entry %s is damaged and is made again", path)
        return None
    return features_ND


def _contents(images: Images) -> np.ndarray | None:
    """The hash of each image's content as bytes (N, 32); None of images that have none."""
    hashes = getattr(images, "content_hashes", None)
    if hashes is None or not len(images):
        return None
    return np.stack([np.frombuffer(bytes.fromhex(one), np.uint8) for one in hashes()])


def _of_other_sets(folder: Path, entry: dict[str, str], images: Images) -> np.ndarray | None:
    """Features from an entry of the same encoder that holds all these images, and more or in another order."""
    contents = _contents(images)
    if contents is None or not folder.is_dir():
        return None
    asked = [row.tobytes() for row in contents]
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, "np") as file:
                facts = parse_json((file.metadata() or {}).get("hvf", "{}"))
                facts.pop("sha256", None)
                if {**facts, "images": ""} != {**entry, "images": ""} or "contents" not in file.keys():  # noqa: SIM118
                    continue
                rows = {row.tobytes(): i for i, row in enumerate(file.get_tensor("contents"))}
                n = file.get_slice("features").get_shape()[0]
        except Exception:  # an entry that is damaged serves nobody
            continue
        if all(one in rows for one in asked) and (features_ND := _read(path, facts, n)) is not None:
            return features_ND[[rows[one] for one in asked]]
    return None


def _write(path: Path, entry: dict[str, str], features_ND: np.ndarray, contents: np.ndarray | None) -> HvfError | None:
    """Write an entry; why it could not be."""
    metadata = _metadata(entry, features_ND)
    tensors = {"features": features_ND} if contents is None else {"features": features_ND, "contents": contents}
    try:
        runs.write_atomic(path, lambda temporary: save_file(tensors, temporary, metadata))
    except HvfError as error:
        return error
    return None
