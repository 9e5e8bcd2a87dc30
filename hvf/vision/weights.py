"""Weights of frozen networks: files, package data or the Hugging Face cache, read without running code.

A set of weights is one file, or an index (``NAME.safetensors.index.json``) and the shards that it lists. Nothing is
downloaded. Importing this imports no torch.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hvf.files.archives import check_arrays
from hvf.registry import HvfError, did_you_mean, listed
from hvf.schema.reading import parse_json

if TYPE_CHECKING:
    import torch

INDEX = ".index.json"  # behind the name of weights that come in shards
MINI_WEIGHTS = Path(__file__).parents[1] / "weights" / "mini"  # package data, made by prior_training/


def packaged(spec: object, folder: str, files: tuple[str, ...]) -> Path:
    """A folder of the mini models that ship with hvf. Raises HvfError naming the first file that is missing."""
    for file in files:
        path = MINI_WEIGHTS / folder / file
        if not path.is_file():
            remedy = "install hvf again, or make the weights with: python prior_training/train_mini.py"
            raise HvfError(f"{spec}: {path} is missing from the package; {remedy}")
    return MINI_WEIGHTS / folder


def cached_from_hub(
    spec: object, repository: str, files: Sequence[str], subfolder: str = "", weights: Sequence[str] = ()
) -> list[Path]:
    """Paths of a Hub repository's files in the local Hugging Face cache, all of them.

    Parameters
    ----------
    spec : object
        What needs them, for messages.
    repository : str
        ORG/NAME.
    files : sequence of str
        Names of the files.
    subfolder : str
        Of the repository, where they lie.
    weights : sequence of str
        Names of weights, of which one is enough, whole or as an index with its shards; it comes last in the result.

    Raises
    ------
    HvfError
        Naming the first absent file, the repository and the command that fetches what is needed.
    """
    found = {name: _in_hub_cache(spec, repository, name, subfolder) for name in files}
    for name in weights:
        kept = _in_hub_cache(spec, repository, name, subfolder)
        index = _in_hub_cache(spec, repository, name + INDEX, subfolder) if kept is None else None
        if index is not None:
            found |= {shard: _in_hub_cache(spec, repository, shard, subfolder) for shard in _shards(index)}
        if kept is not None or index is not None:
            found[name] = kept or index
            break
    else:
        found |= dict.fromkeys(weights[:1])
    absent = [name for name, path in found.items() if path is None]
    if absent:
        inside = f"{subfolder}/" if subfolder else ""
        names = " ".join(inside + name for name in (found if not weights else absent))
        if files and absent[-1:] == list(weights[:1]):  # whole or in shards: only the repository knows
            stem, dot, ending = weights[0].partition(".")
            names = " ".join(f"--include '{inside}{name}'" for name in (*files, f"{stem}*{dot}{ending}*"))
        raise HvfError(
            f"{spec}: {inside}{absent[0]} of {repository} is not on this machine; fetch it with: "
            f"hf download {repository} {names}"
        )
    return [path for path in found.values() if path is not None]


def _in_hub_cache(spec: object, repository: str, name: str, subfolder: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        path = try_to_load_from_cache(repository, f"{subfolder}/{name}" if subfolder else name)
    except HFValidationError:
        raise HvfError(f"{spec}: {repository!r} is neither an existing path nor a Hub id") from None
    return Path(path) if isinstance(path, str) else None


def weights_in(spec: object, folder: Path, names: Sequence[str]) -> Path:
    """The weights in a folder, by the first of some names that is there, whole or as an index with all its shards.

    Raises HvfError naming what is missing, and the command that fetches it.
    """
    for name in names:
        for path in (folder / name, folder / (name + INDEX)):
            if path.is_file():
                weight_files(path)
                return path
    missing = f"{folder / names[0]}, or {names[0]}{INDEX} and its shards,"
    raise HvfError(f"{spec}: {missing} is missing; fetch it with: {_fetch(folder, ['*.safetensors*'])}")


def weight_files(path: Path) -> list[Path]:
    """The files that hold the weights that a path names: itself, or the shards of an index.

    Raises HvfError naming the shards that are missing, and the command that fetches them.
    """
    if not path.name.endswith(INDEX):
        return [path]
    files = [path.parent / name for name in _shards(path)]
    absent = [file.name for file in files if not file.is_file()]
    if absent:
        raise HvfError(
            f"{path.parent} lacks {listed(absent)} of the {len(files)} shards that {path.name} lists; fetch "
            f"{'it' if len(absent) == 1 else 'them'} with: {_fetch(path.parent, absent)}"
        )
    return files


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """The state dict in .npz, .safetensors (or the index of shards) or a torch checkpoint; nothing in it is executed.

    Tensors of safetensors are views of the mapped file: they are read from the disk when they are used.
    """
    import numpy as np
    import torch
    from safetensors.torch import load_file

    if path.name.endswith(INDEX):
        state: dict[str, torch.Tensor] = {}
        for file in weight_files(path):
            with reading(file, f"a shard of {path.name}"):
                state |= load_file(file)
        absent = [name for name in _weight_map(path) if name not in state]
        if absent:
            raise HvfError(f"{path} lists {listed(absent)}, which its shards do not hold: fetch all of them again")
        return state
    if path.suffix == ".safetensors":
        return load_file(path)
    check_arrays(path)
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    return torch.load(path, map_location="cpu", weights_only=True)


def read_json(path: Path, what: str) -> dict[str, Any]:
    """The object in a JSON file that came with weights; HvfError if it is missing, naming the command, or broken."""
    if not path.is_file():
        raise HvfError(f"{path} is missing; fetch it with: {_fetch(path.parent, [path.name])}")
    with reading(path, what):
        content = parse_json(path.read_bytes())
        if not isinstance(content, dict):
            raise ValueError("no JSON object")
        return content


def _weight_map(index: Path) -> dict[str, str]:
    """{tensor: the shard that holds it}."""
    with reading(index, "an index of shards"):
        places = parse_json(index.read_bytes())["weight_map"]
        if not places or not all(isinstance(one, str) and Path(one).name == one for one in places.values()):
            raise ValueError("weight_map should name a file of this folder for every tensor")
        return places


def _shards(index: Path) -> list[str]:
    return sorted(set(_weight_map(index).values()))


def _fetch(folder: Path, names: Sequence[str]) -> str:
    """The command that puts files of a repository into a folder; the repository, where its settings name it."""
    repository = "ORG/REPOSITORY"
    try:
        named = parse_json((folder / "config.json").read_bytes())["_name_or_path"]
        repository = named if re.fullmatch(r"[\w.-]+/[\w.-]+", named) else repository
    except (OSError, ValueError, KeyError, TypeError):  # it is only for the message
        pass
    patterns = any("*" in name for name in names)
    words = " ".join(f"--include '{name}'" if patterns else name for name in names)
    return f"hf download {repository} {words} --local-dir {folder}"


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
