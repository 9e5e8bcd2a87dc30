"""The doctor's checks of trials prepared by other code: the official one, NICE, UBP and NeuroBridge.

Letters: N trials, I images, R repeats, C channels, T samples.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from hvf.config import HvfError
from hvf.data.doctor import checks
from hvf.data.doctor.checks import Finding
from hvf.data.doctor.files import files_below
from hvf.data.doctor.reliability import binned, repeats
from hvf.data.doctor.signals import signals
from hvf.data.doctor.things_eeg2 import IMAGES, REPEATS
from hvf.data.images.concepts import bare_concept
from hvf.data.images.matching import stem
from hvf.data.things_eeg2.neurobridge import neurobridge_info, read_neurobridge_info
from hvf.data.things_eeg2.stimuli import of_other_part
from hvf.data.things_eeg2.third_party import kept_channels, of_meg
from hvf.pickles import loading
from hvf.registry import listed

BLOCK_VALUES = 2**22  # read at a time
MEG_IMAGES = {"training": (19_848, 1), "test": (200, 12)}  # images and repeats that UBP and NeuroBridge keep


def prepared_by_others(root: Path) -> list[Path]:
    """The files of the official code, NICE, UBP and NeuroBridge in a folder, or the file itself."""
    candidates = [root] if root.is_file() else files_below(root, ".npy", ".pt")
    return [path for path in candidates if _maker(path)]


def _maker(path: Path) -> str | None:
    if re.fullmatch(r"preprocessed_eeg_(training|test)\.npy", path.name):
        return "official or NICE"
    if path.name in ("train.pt", "test.pt"):
        return "UBP"
    if path.name in ("train.npy", "test.npy") and neurobridge_info(path.parent):
        return "NeuroBridge"
    return None


def _recipe(path: Path, content: dict[str, Any], n_samples: int) -> str:
    """The recipe by which a file was made; of the kinds that `hvf` takes alike, any."""
    if content.get("normalization") == "zscore":
        return "neurobridge-zscore"
    official = _maker(path) == "official or NICE" and len(content.get("times", ())) == n_samples
    return "official" if official else "ubp"


def examine_prepared(path: Path, recipe: str | None = None) -> Iterator[Finding]:
    """Check a file of trials that the official code, NICE, UBP or NeuroBridge wrote, to be taken by a recipe."""
    where = "/".join(path.parts[-3:])
    part = "training" if "train" in path.name else "test"
    try:
        content = loading.load(path, mmap=True)
        if _maker(path) == "NeuroBridge":
            info = neurobridge_info(path.parent)
            content = {"x": content} | ({} if info is None else dict(read_neurobridge_info(info)))
    except (HvfError, ValueError) as error:
        yield Finding("error", "file", where, str(error), "download or copy it again")
        return
    content = content if isinstance(content, dict) else {}
    x = next((content[key] for key in ("preprocessed_eeg_data", "eeg", "x") if key in content), None)
    if not isinstance(x, np.ndarray) or x.ndim not in (4, 5):
        message = "it holds no array (images, repeats, channels, samples)"
        yield Finding("error", "file", where, message, "use the file as it was published")
        return
    x_IRCT = x.reshape(-1, *x.shape[-3:])
    yield from _axes(content, x_IRCT, where)
    n_images, n_repeats, n_channels, n_samples = x_IRCT.shape
    ch_names = [str(name) for name in content.get("ch_names", ())]
    if len(ch_names) != n_channels:
        ch_names = [f"{i:03d}" for i in range(n_channels)]
    meg = n_channels > 63 or any(map(checks.CTF_SENSOR.fullmatch, ch_names)) or of_meg(path.parent)
    published = (IMAGES[part], REPEATS[part]) if not meg else MEG_IMAGES[part]
    if (n_images, n_repeats) != published:
        message = f"{n_images} images with {n_repeats} repeats; published: {published[0]} with {published[1]}"
        yield Finding("warning", "events", where, message, "fine for a part of the study or a smaller one")
    else:
        yield Finding("ok", "events", where, f"{n_images} images with {n_repeats} repeats")
    x_NCT = x_IRCT.reshape(-1, n_channels, n_samples)
    step = max(1, BLOCK_VALUES // (n_channels * n_samples))
    places = range(0, len(x_NCT), step)
    spare = set() if meg else set(ch_names) - set(kept_channels(_recipe(path, content, n_samples), ch_names, recipe))
    yield from signals(lambda: (x_NCT[i : i + step] for i in places), ch_names, where, spare=spare)
    ids = np.repeat(np.arange(n_images), n_repeats)
    times_T = _times(content, n_samples)
    trials = np.concatenate([binned(x_NCT[i : i + step], times_T) for i in places])
    session = content.get("session")
    fits = isinstance(session, np.ndarray) and session.size == len(ids)
    yield from repeats(trials, ids, where, sessions_N=np.asarray(session).ravel() if fits else None)
    if "img" in content:
        yield from _labels(content, n_images, part, where)


def _axes(content: dict[str, Any], x_IRCT: np.ndarray, where: str) -> Iterator[Finding]:
    """Check channel names against channels, and times against samples."""
    _, _, n_channels, n_samples = x_IRCT.shape
    ch_names = [str(name) for name in content.get("ch_names", ())]
    if not ch_names:
        message = "the file tells neither channels nor times"
        yield Finding("warning", "channels", where, message, "keep it with what made it: hvf takes the published order")
    elif len(ch_names) != n_channels:
        message = f"{n_channels} channels of data have {len(ch_names)} names"
        yield Finding("error", "channels", where, message, "use the file as it was published")
    else:
        yield from checks.names(ch_names, where)
    if "times" not in content:
        return
    times_T = np.asarray(content["times"], float).ravel()
    if len(times_T) > 1:
        yield from checks.sampling_rate(1 / float(np.median(np.diff(times_T))), where, published=(100, 200, 250))
    extra = len(times_T) - n_samples
    if extra in (0, 1, 50):
        text = "times fit the samples" if not extra else f"`times` is {extra} longer than the data, as published"
        advice = {0: "", 1: "the first ones belong to the data", 50: "the last ones belong to the data"}[extra]
        yield Finding("ok", "sampling rate", where, text, advice)
    else:
        message = f"{len(times_T)} times for {n_samples} samples"
        yield Finding("error", "sampling rate", where, message, "use the file as it was published")


def _times(content: dict[str, Any], n_samples: int) -> np.ndarray:
    times_T = np.asarray(content.get("times", ()), float).ravel()
    if len(times_T) == n_samples + 1:
        return times_T[:-1]
    return times_T[-n_samples:] if len(times_T) >= n_samples else np.arange(n_samples) / n_samples


def _labels(content: dict[str, Any], n_images: int, part: str, where: str) -> Iterator[Finding]:
    """Check UBP's `img`, `text` and `label`: one image per row, of the concept in its name, in the published order."""
    img = np.asarray(content["img"], dtype=str)
    if img.size % n_images or not img.size:
        message = f"{img.size} image names for {n_images} images"
        yield Finding("error", "pairing", where, message, "use the file as it was published")
        return
    img = img.reshape(n_images, -1)
    mixed = np.flatnonzero((img != img[:, :1]).any(1))
    if len(mixed):
        message = f"{len(mixed)} of {n_images} images have repeats that name another image, such as row {mixed[0]}"
        yield Finding("warning", "pairing", where, message, "use the file as it was published")
        return
    names = [name.replace("\\", "/") for name in img[:, 0]]
    twice = [name for name, n in Counter(names).items() if n > 1]
    strange = of_other_part(names, "training" if part == "training" else "test")
    apart = [n for n in names if "/" in n and not stem(n).startswith(bare_concept(n.split("/")[-2]))]
    text = np.asarray(content.get("text", ()), dtype=str)
    if text.size == img.size:
        apart += [n for n, t in zip(names, text.reshape(n_images, -1)[:, 0], strict=True) if not stem(n).startswith(t)]
    for hit, what in (
        (twice, "images stand in several rows"),
        (strange, f"images are not of the {part} set"),
        (apart, "images do not belong to the concept given with them"),
    ):
        if hit:
            message = f"{len(hit)} {what}: {listed(hit)}"
            yield Finding("error", "pairing", where, message, "names are misordered: use the file as it was published")
    if names != sorted(names) and not (twice or strange or apart):
        i = next(i for i, (a, b) in enumerate(zip(names, sorted(names), strict=True)) if a != b)
        message = f"the rows are not in the order of the event codes: row {i} is {names[i]}, not {sorted(names)[i]}"
        yield Finding("warning", "pairing", where, message, "see that names and rows of data were reordered together")
    elif not (twice or strange or apart):
        yield Finding("ok", "pairing", where, f"{n_images} {part} images, each row one, in the published order")


def examine_pair(paths: list[Path]) -> Iterator[Finding]:
    """Check that no concept is in both the training and the test file of a subject, if these name their images."""
    concepts = {}
    for path in paths:
        part = "train" if "train" in path.name else "test"
        try:
            content = loading.load(path, mmap=True)
        except HvfError:
            return
        if isinstance(content, dict) and "img" in content:
            names = np.unique(np.asarray(content["img"], dtype=str))
            concepts[part] = [bare_concept(name.replace("\\", "/").split("/")[-2]) for name in names if "/" in name]
    if len(concepts) == 2:
        yield from checks.leak(concepts["train"], concepts["test"], paths[0].parent.name)
