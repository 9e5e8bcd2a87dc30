"""Weights of frozen networks: files, package data or the Hugging Face cache, read without running code.

Nothing is downloaded. Importing this imports no torch.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from hvf.registry import HvfError, did_you_mean

if TYPE_CHECKING:
    import torch

MINI_WEIGHTS = Path(__file__).parents[1] / "weights" / "mini"  # package data, made by prior_training/


def packaged(spec: object, folder: str, files: tuple[str, ...]) -> Path:
    """A folder of the mini models that ship with hvf. Raises HvfError naming the first file that is missing."""
    for file in files:
        path = MINI_WEIGHTS / folder / file
        if not path.is_file():
            remedy = "install hvf again, or make the weights with: python prior_training/train_mini.py"
            raise HvfError(f"{spec}: {path} is missing from the package; {remedy}")
    return MINI_WEIGHTS / folder


def cached_from_hub(spec: object, repository: str, files: tuple[str, ...], subfolder: str = "") -> list[Path]:
    """Paths of a Hub repository's files in the local Hugging Face cache, all of them.

    Raises HvfError naming the first absent file, the repository and the command that fetches what is needed.
    """
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    paths = []
    names = [f"{subfolder}/{file}" if subfolder else file for file in files]
    for name in names:
        try:
            path = try_to_load_from_cache(repository, name)
        except HFValidationError:
            raise HvfError(f"{spec}: {repository!r} is neither an existing path nor a Hub id") from None
        if not isinstance(path, str):
            fetch = f"hf download {repository} {' '.join(names)}"
            raise HvfError(f"{spec}: {name} of {repository} is not on this machine; fetch it with: {fetch}")
        paths.append(Path(path))
    return paths


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """The state dict in .npz, .safetensors or a torch checkpoint; nothing in the file is executed."""
    import numpy as np
    import torch
    from safetensors.torch import load_file

    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    if path.suffix == ".safetensors":
        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


@contextmanager
def reading(path: object, what: str) -> Iterator[None]:
    """Turn any failure to read a weights file into an HvfError: which file, what it should hold, what went wrong."""
    try:
        yield
    except HvfError:
        raise
    except Exception as error:  # corrupt files raise whatever the parser at hand likes to raise
        reason = " ".join(str(error).split()) or type(error).__name__
        reason = reason if len(reason) <= 240 else reason[:240] + " ..."
        raise HvfError(f"{path} does not hold {what}: {reason}") from error


def nearest(word: str, known: list[str]) -> str:
    """`did_you_mean` that offers a few of a long list."""
    return did_you_mean(word, difflib.get_close_matches(word, known, n=5, cutoff=0.0))
