"""The simulated study as files: what the writers of published layouts (`things_eeg`, `things_meg`) share.

Brains, images and noise are those of `hvf.simulation.study`. A README.md in the root says that the recordings are
simulated (`hvf.data.trials.provenance.is_simulated`).

Letters: N images, C channels, T samples, F features, J sources.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hvf.config import DataConfig, HvfError
from hvf.data.images.image_set import ImageSet
from hvf.data.trials.provenance import SIMULATED_TITLE
from hvf.runs import check_writable, temporary_beside
from hvf.simulation.brain import Brain
from hvf.simulation.features import concept_drive, low_level
from hvf.simulation.study import check_settings


def checked_settings(subjects: Sequence[int], **settings: Any) -> DataConfig:
    """The study's settings, checked for every subject."""
    if not subjects or len(set(subjects)) < len(subjects):
        raise HvfError(f"name each subject once, and at least one, not {list(subjects)}")
    data, *_ = [DataConfig(subject=subject, **settings) for subject in subjects]
    check_settings(data)
    return data


def generator(*key: object) -> np.random.Generator:
    """Random numbers of one part of the files, so that a subject's files do not depend on which others are written."""
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    return np.random.Generator(np.random.SFC64(int.from_bytes(digest[:16], "big")))


def image_drive(images: ImageSet) -> np.ndarray:
    """Low-level and concept features of the images, (N, F), in the order of `response_kernel`."""
    return np.concatenate([low_level(images), concept_drive(images)], axis=1)


def response_kernel(brain: Brain) -> np.ndarray:
    """The response to each feature, (F, C · T), in V or T."""
    kernel = np.concatenate([brain.early_FCT, brain.late_DCT])
    kernel[np.abs(kernel) < 1e-25] = 0  # the tails of a Gaussian: numbers below 1e-38 multiply many times slower
    return kernel.reshape(len(kernel), -1)


def write_readme(root: Path, dataset: str, seed: int) -> None:
    text = f"""{SIMULATED_TITLE}

Written by `hvf.simulation.raw_files` (seed {seed}) in the layout in which {dataset} is published, to try out what reads
it: rendered images, dipoles in a spherical head, simulated noise. Figures obtained from it are simulated ones.
"""
    (root / "README.md").write_text(text, encoding="utf-8")


def image_name(concept: str, exemplar: int, test: bool = False) -> str:
    """File name of an image, as in THINGS: `b` for the first exemplar, `s` for later ones, `n` for test images."""
    return f"{concept}_{exemplar:02d}{'n' if test else 'b' if exemplar == 1 else 's'}.jpg"


def save_image(images: ImageSet, index: int, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    images[index].save(path, quality=95, subsampling=0)


@contextlib.contextmanager
def new_folder(out: Path, n_bytes: float) -> Iterator[Path]:
    """A temporary folder that becomes `out` when the block ends well, and is removed when it does not."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise HvfError(f"{out} exists and is not empty: choose another folder")
    check_writable(out)
    missing = [parent for parent in out.absolute().parents if not parent.exists()]
    free = shutil.disk_usage(next(p for p in out.absolute().parents if p.exists())).free
    if free < n_bytes * 1.02:
        raise HvfError(f"{out} needs {n_bytes / 1e9:.1f} GB and the disk has {free / 1e9:.1f} GB left")
    temporary = temporary_beside(out)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        temporary.replace(out)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        for parent in missing:
            with contextlib.suppress(OSError):
                parent.rmdir()
        if isinstance(error, OSError):
            raise HvfError(f"cannot write {out}: {error.strerror or error}") from error
        raise
