"""Tensors in `.safetensors` files that vouch for themselves by a sha256 of names, types, shapes, numbers and words.

What is said about them is JSON, one value under one name of the file's metadata, because safetensors writes several in
no fixed order; the sha256 stands in it. Files of earlier versions have none, and are read without.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError, safe_open

from hvf.files.checksums import FOLDER, LARGE
from hvf.files.remembered import Remembered
from hvf.registry import HvfError
from hvf.runs import write_atomic
from hvf.schema.reading import parse_json

SHA256 = "sha256"


def write_tensors(path: Path, tensors: Mapping[str, Any], about: Mapping[str, Any], key: str = "hvf") -> None:
    """Write numpy arrays or torch tensors and what is said about them, atomically.

    Parameters
    ----------
    path : Path
        Of the file.
    tensors : mapping of str to array or tensor
        All of numpy or all of torch; contiguous, and on the CPU.
    about : mapping
        JSON.
    key : str
        Of the file's metadata, under which `about` stands.
    """
    said = {**about, SHA256: digest_of(tensors, _plain(about))}
    of_torch = any(hasattr(x, "detach") for x in tensors.values())
    if of_torch:
        from safetensors.torch import save_file
    else:
        from safetensors.numpy import save_file
    write_atomic(path, lambda tmp: save_file(dict(tensors), str(tmp), {key: json.dumps(said)}))


def read_tensors(
    path: Path,
    framework: Literal["np", "pt"] = "np",
    key: str = "hvf",
    accept: Callable[[Mapping[str, Any]], None] = lambda about: None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """({name: array or tensor}, what is said about them), of files of other programs their metadata as they are.

    A large file is held to its checksum once, as long as it does not change.

    Parameters
    ----------
    path : Path
        Of the file.
    framework : "np" or "pt"
        What is made: numpy arrays, or torch tensors.
    key : str
        Of the file's metadata, under which it says more.
    accept : callable
        Raises HvfError for what is of another version, say, before the numbers are looked at.

    Raises
    ------
    HvfError
        The file is damaged, or not accepted.
    FileNotFoundError
        There is none.
    """
    facts = Remembered([path.resolve()] if path.is_file() and path.stat().st_size > LARGE else [], "sound", FOLDER)
    try:
        with safe_open(str(path), framework=framework) as file:
            words = file.metadata() or {}
            said = parse_json(words[key]) if key in words else dict(words)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except FileNotFoundError:
        raise
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise HvfError(f"{path} cannot be read: {' '.join(str(error).split())[:200]}") from error
    if not isinstance(said, dict):
        raise HvfError(f"{path} cannot be read: {key!r} in it is no table")
    accept(said)
    expected = said.pop(SHA256, None)
    if expected is not None and facts.get(SHA256) != expected:
        if digest_of(tensors, said) != expected:
            raise HvfError(f"{path} was changed or damaged after it was written: its sha256 differs")
        facts.put({SHA256: expected})
    return tensors, said


def _plain(about: Mapping[str, Any]) -> Any:
    """As it will be read."""
    return parse_json(json.dumps(about))


def digest_of(tensors: Mapping[str, Any], about: Any) -> str:
    """sha256 of arrays or tensors, their names, types and shapes, and of what is said about them, as JSON."""
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name in sorted(tensors):
        x = tensors[name]
        digest.update(f"\n{name} {str(x.dtype).removeprefix('torch.')} {tuple(x.shape)}\n".encode())
        digest.update(_bytes(x))
    return digest.hexdigest()


def _bytes(x: Any) -> Any:
    """The memory of a contiguous array, or of a tensor of any type: numpy has no bfloat16."""
    if hasattr(x, "detach"):
        import torch

        x = x.detach().reshape(-1).view(torch.uint8).cpu().numpy()
    return memoryview(x.reshape(-1)).cast("B") if x.size else b""
