"""Pictures and signals that carry a number: what was shown can be read from both, whatever a file calls it.

Letters: N trials or samples, C channels, T samples of a trial.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import mne
import numpy as np
from PIL import Image

SFREQ = 250.0  # Hz
LEAD, GAP, WINDOW = 250, 150, 50  # samples before the first image, between two, and of a trial
N_SAMPLES = 9000  # of a recording: longer than the filter of the doctor's rehearsal
BRAIN = ("Fz", "Cz", "Pz", "Oz")  # Oz carries the number, in µV
WIDTH, HEIGHT = 32, 16  # pixels
BITS = 6
APPLE_DOUBLE = bytes.fromhex("0005160700020000") + b"Mac OS X" + bytes(4000)  # what macOS writes as ._NAME


def shown_in_order(n: int = 12, repeats: int = 1, seed: int = 0) -> list[int]:
    """The numbers 1..n, each `repeats` times, in the random order in which they were shown."""
    return (1 + np.random.default_rng(seed).permutation(np.repeat(np.arange(n), repeats))).tolist()


def draw(number: int) -> np.ndarray:
    """A picture (H, W, 3) that shows its number: white, six bits, black in the upper half; red in the lower."""
    x_HW3 = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    x_HW3[HEIGHT // 2 :] = (200, 30, 30)
    bits = [1, *(number >> i & 1 for i in reversed(range(BITS))), 0]
    x_HW3[: HEIGHT // 2] = (255 * np.repeat(bits, WIDTH // 8))[None, :, None]
    return x_HW3


def number_in(image: Image.Image) -> int | None:
    """The number that a picture shows; None if it is turned, mirrored, of another size or unreadable."""
    x_HW = np.asarray(image.convert("RGB"), float)[..., 1]  # green: the lower half is dark in it
    if x_HW.shape != (HEIGHT, WIDTH):
        return None
    cells = x_HW[: HEIGHT // 2].reshape(HEIGHT // 2, 8, WIDTH // 8).mean((0, 2))
    if cells[0] < 128 or cells[-1] > 128 or x_HW[HEIGHT // 2 :].max() > 128:
        return None
    return int("".join("1" if cell > 128 else "0" for cell in cells[1:-1]), 2)


def write_picture(path: Path, number: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(draw(number)).save(path)
    return path


def write_pictures(folder: Path, name: Callable[[int], str], numbers: Iterable[int] = range(1, 13)) -> Path:
    """Write a picture of each number under its name; return the folder."""
    for number in numbers:
        write_picture(folder / name(number), number)
    return folder


def png(number: int) -> str:
    return f"img{number:02d}.png"


def number_of(name: str) -> int | None:
    """The last number in an image's name, folders and ending aside."""
    numbers = re.findall(r"\d+", re.split(r"[\\/]", str(name))[-1].split(".")[0])
    return int(numbers[-1]) if numbers else None


# --- signals ----------------------------------------------------------------------------------------------------------


def onsets_of(shown: Sequence[int]) -> list[int]:
    return [LEAD + GAP * i for i in range(len(shown))]


def continuous(shown: Sequence[int], seed: int = 0, names: Sequence[str] = BRAIN) -> np.ndarray:
    """A recording (C, N) in V of which Oz holds, in µV, the number of the image from its onset on."""
    x_CN = np.random.default_rng(seed).normal(size=(len(names), N_SAMPLES)) * 1e-8
    for onset, number in zip(onsets_of(shown), shown, strict=True):
        x_CN[names.index("Oz"), onset : onset + WINDOW] += number * 1e-6
    return x_CN


def codes_of(shown: Sequence[int], width: int = 20) -> np.ndarray:
    """A trigger channel (N,): the number of each image, `width` samples long from its onset."""
    code_N = np.zeros(N_SAMPLES)
    for onset, number in zip(onsets_of(shown), shown, strict=True):
        code_N[onset : onset + width] = number
    return code_N


def trials_of(shown: Sequence[int], n_channels: int = 4, n_times: int = 20, seed: int = 0) -> np.ndarray:
    """Trials (N, C, T) whose last channel holds the number."""
    x_NCT = np.random.default_rng(seed).normal(size=(len(shown), n_channels, n_times)) * 1e-2
    x_NCT[:, -1] += np.asarray(shown)[:, None]
    return x_NCT


def raw_of(x_CN: np.ndarray, names: Sequence[str] = BRAIN, kinds: Sequence[str] | str = "eeg") -> mne.io.RawArray:
    return mne.io.RawArray(x_CN, mne.create_info(list(names), SFREQ, kinds), verbose="error")
