"""What a decoder needs to say how sure it is: its embeddings of validation trials and of their images.

Nothing of them was trained on. A mean over many trials says more than a single one, so they are kept for means over 1,
2, 4, ... trials, and an answer is judged by the validation means over as many trials as it rests on, or fewer: then its
set is rather too large than too small. Beside them stand trials that carry nothing (`without_information`), with which
an answer is compared to say whether its trial says anything at all.

Letters: V validation images, N trials, M gallery items, B training trials, C channels, T samples, D embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hvf.config import HvfError
from hvf.data.images.image_set import ImageSet
from hvf.data.trials.trials import Trials
from hvf.evaluation.scaling import Scaling
from hvf.registry import listed

ENOUGH = 20  # validation images of a new person, below which nothing is said of how sure an answer is
BANK = 256  # training trials, for the popularity of gallery items
NOTHING = 400  # trials without information, at most
PHASES_FROM = 8  # samples; shorter epochs are shuffled across trials instead


@dataclass(frozen=True, eq=False)
class Confidence:
    """Embeddings of validation trials, of their images, and of trials without information.

    Parameters
    ----------
    z_f_VD : ndarray
        z_f of each validation image.
    z_b : mapping
        {R: z_b (V, D)} of means over R trials of each validation image; always holds 1.
    nothing : mapping
        {R: z_b (N, D)} of trials without information, as noisy as means over R trials.
    bank_BD : ndarray
        z_b of training trials; scores are scaled by them, too.
    concepts : sequence of str
        What each validation image shows.
    """

    z_f_VD: np.ndarray
    z_b: Mapping[int, np.ndarray]
    nothing: Mapping[int, np.ndarray]
    bank_BD: np.ndarray
    concepts: tuple[str, ...]

    @classmethod
    def fit(
        cls,
        embed: Callable[[Trials], np.ndarray],
        z_f_VD: np.ndarray,
        trials: Trials,
        images: ImageSet,
        bank: Trials,
    ) -> Confidence:
        """Embed validation trials.

        Parameters
        ----------
        embed : callable
            Gives z_b (N, D) of trials.
        z_f_VD : ndarray
            z_f of `images`.
        trials : Trials
            Responses to `images`; where an image has several rows these are single trials, of which means are made.
        images : ImageSet
            The validation images.
        bank : Trials
            Training trials of other images.

        Raises
        ------
        HvfError
            If an image has no trial.
        """
        rows = trials_of(trials, images)
        most = min(map(len, rows))
        z_b, nothing = {}, {}
        for r in levels(most):
            means = mean_over(trials, [of_image[:r] for of_image in rows])
            means = means.replace(x_NCT=means.load_array())  # read once
            z_b[r] = embed(means)
            nothing[r] = embed(without_information(means))[:NOTHING]
        step = max(1, len(bank) // BANK)
        return cls(z_f_VD, z_b, nothing, embed(bank.select(slice(0, len(bank), step)))[:BANK], images.concepts)

    def level(self, repeats: int) -> int:
        """The largest number of trials averaged here that is at most `repeats`."""
        if repeats < 1:
            raise HvfError(f"an answer rests on at least one trial, not {repeats}")
        return max(r for r in self.z_b if r <= repeats)

    def scaling(self, name: str) -> Scaling:
        """A scaling of scores by the bank of training trials, its k chosen on means over most validation trials."""
        return Scaling.fit(name, self.bank_BD, self.z_b[max(self.z_b)], self.z_f_VD)

    def tensors(self) -> dict[str, np.ndarray]:
        """All arrays by name, for a file."""
        arrays = {"images": self.z_f_VD, "bank": self.bank_BD}
        arrays |= {f"trials/{r}": z for r, z in self.z_b.items()}
        return arrays | {f"nothing/{r}": z for r, z in self.nothing.items()}

    @classmethod
    def of_tensors(cls, arrays: Mapping[str, np.ndarray], concepts: Sequence[str]) -> Confidence:
        """The inverse of `tensors`. Raises KeyError or ValueError where they are not whole."""
        parts = {
            kind: {int(name.partition("/")[2]): z for name, z in arrays.items() if name.startswith(f"{kind}/")}
            for kind in ("trials", "nothing")
        }
        if 1 not in parts["trials"] or parts["trials"].keys() != parts["nothing"].keys():
            raise ValueError("validation trials are missing")
        return cls(arrays["images"], parts["trials"], parts["nothing"], arrays["bank"], tuple(concepts))


def levels(most: int) -> list[int]:
    """Numbers of trials that means are made of: powers of two, and the most that every image has.

    >>> levels(1), levels(6)
    ([1], [1, 2, 4, 6])
    """
    powers = [2**i for i in range(most.bit_length()) if 2**i <= most]
    return sorted({*powers, most})


def trials_of(trials: Trials, images: ImageSet) -> list[np.ndarray]:
    """The rows of each image's trials, in their order; trials of other images are in none.

    Raises HvfError naming images that have none.
    """
    image_N = trials.image_indices(images)
    order, count_M = np.argsort(image_N, kind="stable"), np.bincount(image_N[image_N >= 0], minlength=len(images))
    missing = [name for name, count in zip(images.ids, count_M, strict=True) if not count]
    if missing:
        raise HvfError(f"{len(missing)} of {len(images)} images have no trial: {listed(missing)}")
    return np.split(order[(image_N < 0).sum() :], np.cumsum(count_M)[:-1])


def mean_over(trials: Trials, groups: Sequence[np.ndarray]) -> Trials:
    """One row per group: the mean of its trials, under the image of the first."""
    rows = np.concatenate(groups)
    names = np.repeat(np.arange(len(groups)), [len(group) for group in groups]).astype(str)
    first = trials.image_ids[[group[0] for group in groups]]
    means = trials.select(rows).replace(image_ids=names, concepts=None, splits=None, sessions=None).average()
    return means.replace(image_ids=first)


def without_information(trials: Trials, seed: int = 0) -> Trials:
    """Trials that carry nothing of their images, as noisy as these: their mean, and residuals with random phases.

    All channels of a trial get the same random phases, so that the covariance and the spectrum of the residuals stay
    (Prichard and Theiler, Physical Review Letters 73, 951, 1994). Epochs of fewer than 8 samples, which have no phases
    to speak of, get each channel's residual from another trial.
    """
    rng = np.random.default_rng(seed)
    x_NCT = trials.load_array()
    mean_CT = x_NCT.mean(axis=0)
    residual_NCT = x_NCT - mean_CT
    n, c, t = x_NCT.shape
    if t < PHASES_FROM:
        shuffled = np.stack([residual_NCT[rng.permutation(n), i] for i in range(c)], axis=1)
        return trials.replace(x_NCT=mean_CT + shuffled)
    spectrum_NCF = np.fft.rfft(residual_NCT, axis=2)
    turn_NF = rng.uniform(0, 2 * np.pi, (n, spectrum_NCF.shape[2]))
    turn_NF[:, 0] = 0.0
    if t % 2 == 0:
        turn_NF[:, -1] = 0.0  # the Nyquist frequency of an even length is real
    turned = np.fft.irfft(spectrum_NCF * np.exp(1j * turn_NF)[:, None], n=t, axis=2)
    return trials.replace(x_NCT=(mean_CT + turned).astype(np.float32))
