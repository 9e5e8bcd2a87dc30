"""Embeddings of anybody's model, read from files."""

from __future__ import annotations

import codecs
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from hvf.registry import HvfError


def load_embeddings(path: str | Path, key: str | None = None) -> np.ndarray:
    """Embeddings (N, D) float32 from `.npy`, `.pt`/`.pth` or `.safetensors`; nothing in the file is executed.

    A file that holds several arrays needs `key`; FILE#KEY says it in the path, as `images.pt#img_features`.
    Raises HvfError if the file is missing, is no such file, carries pickled code, or the key is needed or unknown.
    """
    name, _, in_path = str(path).partition("#")
    path, key = Path(name), key or in_path or None
    if not path.is_file():
        raise HvfError(f"there is no file of embeddings at {path}")
    content = _read_arrays(path)
    if isinstance(content, dict):
        arrays = {str(k): v for k, v in content.items()}
        if key is None and len(arrays) == 1:
            key = next(iter(arrays))
        if key not in arrays:
            there = ", ".join(arrays)
            raise HvfError(f"{path} holds {there}" + (f", not {key}" if key else f": say which, as {path.name}#KEY"))
        content = arrays[key]
    return as_rows(content, f"embeddings in {path}")


def _read_arrays(path: Path) -> Any:
    readers: dict[str, Callable[[Path], Any]] = {
        ".npy": lambda p: np.load(p, allow_pickle=False),
        ".pt": _load_torch,
        ".safetensors": load_file,
    }
    readers[".pth"] = readers[".pt"]
    ending = path.suffix.lower()
    if ending not in readers:
        raise HvfError(f"cannot read embeddings from {path}: give {', '.join(readers)}")
    try:
        return readers[ending](path)
    except SafetensorError as error:
        raise HvfError(f"{path} is not a readable safetensors file: {error}") from error
    except Exception as error:  # numpy and torch raise many kinds on files that are damaged or carry code
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise HvfError(f"{path} cannot be read as plain numbers: {first}") from error


def _load_torch(path: Path) -> Any:
    """Tensors, and arrays of numpy, whose parts are named; nothing else is made."""
    kinds = {type(np.dtype(code)) for code in np.typecodes["All"] if code not in "OSUVMm"}
    allowed: list[Any] = [np.ndarray, np.dtype, *kinds]
    for module in ("numpy._core", "numpy.core"):  # numpy 2 and 1 name them differently in their files
        allowed += [(np.empty(0).__reduce__()[0], f"{module}.multiarray._reconstruct")]
        allowed += [(np.float32(0).__reduce__()[0], f"{module}.multiarray.scalar")]
    with torch.serialization.safe_globals([*allowed, (codecs.encode, "_codecs.encode")]):
        return torch.load(path, map_location="cpu", weights_only=True)


def as_rows(x: Any, what: str) -> np.ndarray:
    """(N, D) float32 from an array or tensor; HvfError, saying `what` it is, unless it is one of finite numbers."""
    if isinstance(x, torch.Tensor):
        x = x.detach().cpu()
        x = x.numpy() if x.is_complex() else x.float()
    try:
        if np.iscomplexobj(x):
            raise TypeError("complex")
        x_ND = np.asarray(x, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise HvfError(f"the {what} are not an array of numbers") from error
    while x_ND.ndim > 2 and 1 in x_ND.shape:  # (N, 1, D), (N, D, 1, 1), (1, N, D)
        x_ND = x_ND.squeeze(next(i for i in (*range(1, x_ND.ndim), 0) if x_ND.shape[i] == 1))
    if x_ND.ndim != 2 or not x_ND.size:
        raise HvfError(f"the {what} should be an array (items, width), not {x_ND.shape}")
    if not np.isfinite(x_ND).all():
        raise HvfError(f"the {what} hold NaN or infinite values")
    return x_ND
