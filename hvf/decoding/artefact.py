"""A decoder on disk: a folder, or a repository on the Hub, that carries all but the encoders and the prior it names.

FOLDER/alignment.safetensors   weights, configuration, normalisation, recording, training embeddings (`hvf.alignment`)
FOLDER/confidence.safetensors  validation trials and their images, by which answers are calibrated
FOLDER/gallery.safetensors     embeddings and names of the images that it was tested on: the default gallery
FOLDER/initial_latents.safetensors  what drawing starts from, where that is learnt (`hvf.prior.initial_latents`)
FOLDER/README.md               the model card
FOLDER/decoder.json            version, code, hashes of the weights of the encoders and of the prior's fusion, what was
                               tested; the sha256 of every other file, and of its own content

`decoder.json` is written last: a folder without it was not finished, or is older. Whatever differs from its sha256 is
refused. Pictures of the gallery stay where they are: they may not be ours to give away.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub import snapshot_download
from safetensors import safe_open
from safetensors.numpy import save_file

from hvf.alignment import FILE as ALIGNMENT
from hvf.alignment import Alignment
from hvf.config import HvfError
from hvf.decoding.confidence import Confidence
from hvf.decoding.gallery import Gallery
from hvf.files.checksums import known_sha256, sha256_of
from hvf.prior.hub_weights import HUB_ID, push_folder
from hvf.prior.initial_latents import InitialLatents
from hvf.runs import code_version, plain, why_no_run, write_atomic, write_json
from hvf.schema.reading import parse_json

MANIFEST, CARD, CONFIDENCE, GALLERY = "decoder.json", "README.md", "confidence.safetensors", "gallery.safetensors"
INITIAL_LATENTS = "initial_latents.safetensors"
VERSION = 1  # of the folder; a newer one is refused


@dataclass(frozen=True, eq=False)
class Artefact:
    """A trained decoder and what belongs to it."""

    alignment: Alignment
    confidence: Confidence | None = None
    gallery: Gallery | None = None
    encoders: Mapping[str, str] = field(default_factory=dict)  # {spec: hash of its weights}
    about: Mapping[str, Any] = field(default_factory=dict)  # study, protocol, simulated, figures: for the card
    initial_latents: InitialLatents | None = None
    fusion_hash: str = ""  # of the prior that it was trained towards


def write(folder: str | Path, artefact: Artefact, card: str) -> Path:
    """Write all files of a decoder, the manifest last; returns the folder.

    Raises HvfError as `write_atomic` does, and before anything is written if `about` is no JSON, or the folder holds
    another README.md.
    """
    folder = Path(folder)
    content = _content(artefact)
    if (folder / CARD).exists() and not any((folder / name).exists() for name in (MANIFEST, ALIGNMENT)):
        raise HvfError(f"{folder} holds a {CARD} of something else: save the decoder into a folder of its own")
    (folder / MANIFEST).unlink(missing_ok=True)  # until all are written, nothing vouches for them
    artefact.alignment.save(folder)
    files = [ALIGNMENT]
    if artefact.confidence is not None:
        names = {"concepts": json.dumps(artefact.confidence.concepts)}
        _write_arrays(folder / CONFIDENCE, artefact.confidence.tensors(), names)
        files.append(CONFIDENCE)
    if artefact.gallery is not None:
        _write_gallery(folder, artefact.gallery)
        files.append(GALLERY)
    if artefact.initial_latents is not None:
        arrays, numbers = artefact.initial_latents.tensors()
        _write_arrays(folder / INITIAL_LATENTS, arrays, {"numbers": json.dumps(numbers)})
        files.append(INITIAL_LATENTS)
    hashes = {name: sha256_of(folder / name) for name in files}
    _write_manifest(folder, content, card, hashes)
    return folder


def describe(folder: Path, artefact: Artefact, card: str) -> None:
    """Write the card, the gallery and the manifest anew; the other files stay as they are."""
    hashes = {name: digest for name, digest in _manifest(folder)["files"].items() if name != CARD}
    content = _content(artefact)
    if artefact.gallery is not None:
        (folder / MANIFEST).unlink()
        _write_gallery(folder, artefact.gallery)
        hashes[GALLERY] = sha256_of(folder / GALLERY)
    _write_manifest(folder, content, card, hashes)


def _content(artefact: Artefact) -> dict[str, Any]:
    """What the manifest says of a decoder, but for its files. Raises HvfError for what JSON does not know."""
    content = {
        "version": VERSION,
        "code": code_version(),
        "encoders": dict(artefact.encoders),
        "about": dict(sorted(artefact.about.items())),  # in one order, however it was put together
    }
    content |= {"fusion": artefact.fusion_hash} if artefact.fusion_hash else {}
    try:
        return json.loads(json.dumps(content, default=plain))
    except (TypeError, ValueError) as error:
        raise HvfError(f"what is said about the decoder cannot be kept: {error}") from error


def _write_manifest(folder: Path, content: Mapping[str, Any], card: str, hashes: Mapping[str, str]) -> None:
    """Write the card, then what vouches for all files."""
    (folder / MANIFEST).unlink(missing_ok=True)
    write_atomic(folder / CARD, lambda tmp: tmp.write_text(card, encoding="utf-8"))
    content = {**content, "files": {**hashes, CARD: sha256_of(folder / CARD)}}
    write_json(folder / MANIFEST, {**content, "sha256": _digest(content)})


def read(folder: str | Path, device: str = "cpu", *, resumed: bool = False) -> Artefact:
    """Read what `write` wrote, every byte of it checked; of an older folder the weights alone.

    `resumed`: a folder that was not finished gives its weights alone, too, to be finished. Raises HvfError if a file is
    missing, damaged or of a newer version.
    """
    folder = Path(folder)
    if not (folder / MANIFEST).exists():
        if not resumed and any((folder / name).exists() for name in (CONFIDENCE, GALLERY, INITIAL_LATENTS)):
            raise HvfError(f"{folder} is not a whole decoder: {MANIFEST} is missing; copy it again, or finish its run")
        return Artefact(Alignment.load(folder, device))
    content = _manifest(folder)
    for name, expected in content["files"].items():
        path = folder / name
        if not path.is_file():
            raise HvfError(f"{folder} is not a whole decoder: {name} is missing; copy it again")
        if known_sha256(path) != expected:
            raise HvfError(f"{path} is damaged: its sha256 is not the one in {MANIFEST}; copy the folder again")
    confidence, gallery, initial_latents = None, None, None
    try:
        if CONFIDENCE in content["files"]:
            arrays, names = _read_arrays(folder / CONFIDENCE)
            confidence = Confidence.of_tensors(arrays, parse_json(names["concepts"]))
        if GALLERY in content["files"]:
            arrays, names = _read_arrays(folder / GALLERY)
            known = parse_json(names["gallery"])
            gallery = Gallery.of(known["ids"], arrays["z_f"], known["concepts"], known["what"])
        if INITIAL_LATENTS in content["files"]:
            arrays, names = _read_arrays(folder / INITIAL_LATENTS)
            if "weights" in arrays:  # an earlier version kept a linear map: to be fitted again
                initial_latents = InitialLatents.of_tensors(arrays, parse_json(names["numbers"]))
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise HvfError(f"{folder} is not a decoder written by hvf: {error}") from error
    known = confidence, gallery, content["encoders"], content["about"], initial_latents, content.get("fusion", "")
    return Artefact(Alignment.load(folder, device), *known)


def fingerprint(folder: str | Path) -> str:
    """The checksum of a decoder's manifest, which vouches for all files; "" of an older folder, which has none."""
    path = Path(folder) / MANIFEST
    return sha256_of(path) if path.is_file() else ""


def _manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    try:
        content = parse_json(path.read_bytes())
        version = content["version"]
        if isinstance(version, int) and version > VERSION:
            raise HvfError(f"{path} is of version {version}, and this hvf reads version {VERSION}: update hvf")
        expected = content.pop("sha256")
        tables = all(isinstance(content[name], dict) for name in ("files", "encoders", "about"))
        tables = tables and isinstance(content.get("fusion", ""), str)
        if version != VERSION or expected != _digest(content) or not tables:
            raise ValueError("its own sha256 differs")
    except HvfError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise HvfError(f"{path} is damaged ({error}): copy the folder again") from error
    return content


def find(name: str | Path) -> Path:
    """The folder of a decoder: a run's, a folder, or a repository on the Hub (owner/name), fetched into its cache.

    Raises HvfError if it is none of them.
    """
    folder = Path(name).expanduser()
    for candidate in (folder / "checkpoint", folder):
        if (candidate / ALIGNMENT).is_file() or (candidate / MANIFEST).is_file():
            return candidate
    if folder.exists():
        hint = ": a sweep keeps none" if (folder / "result.json").exists() else ""
        raise HvfError(f"{folder} holds no decoder (no {MANIFEST}, no checkpoint/){hint}; hvf train --out leaves one")
    if not re.fullmatch(HUB_ID, str(name)):
        raise HvfError(
            f"there is no decoder at {name}: no such folder, and not the name of one on the Hub (owner/name)"
        )
    try:
        return Path(snapshot_download(str(name), allow_patterns=[MANIFEST, CARD, "*.safetensors"]))
    except Exception as error:  # the client's errors share no base class with those of its transport
        reason = " ".join(str(error).split())[:200]
        if folder.parent.is_dir():  # a path, rather
            nor = f"nor did the Hub give one of this name (it said: {reason})"
            raise HvfError(f"there is no decoder at {name}, {nor}: {why_no_run(folder)}") from error
        raise HvfError(
            f"the decoder {name} is not on this machine and the Hub did not give it; fetch it with "
            f"`hf download {name}` (the Hub said: {reason})"
        ) from error


def push(folder: Path, repo_id: str, *, private: bool = False, token: str | None = None) -> str:
    """Upload a decoder's folder to the Hub, and return its address. Raises HvfError with what the Hub said."""
    read(folder)  # what is damaged is not passed on
    return push_folder(folder, repo_id, "decoder", [MANIFEST, CARD, "*.safetensors"], private=private, token=token)


def _write_gallery(folder: Path, gallery: Gallery) -> None:
    names = {"ids": list(gallery.ids), "concepts": list(gallery.concepts), "what": gallery.what}
    z_f_MD = gallery.read(0, len(gallery))
    _write_arrays(folder / GALLERY, {"z_f": z_f_MD}, {"gallery": json.dumps(names)})


def _write_arrays(path: Path, arrays: Mapping[str, np.ndarray], metadata: dict[str, str]) -> None:
    whole = {name: np.ascontiguousarray(x, dtype=np.float32) for name, x in arrays.items()}
    write_atomic(path, lambda tmp: save_file(whole, str(tmp), metadata))


def _read_arrays(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    with safe_open(str(path), framework="np") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
