"""Where denoising starts from, if not from noise alone: latents that a kernel ridge predicts from an embedding.

It also says how much of a picture its embedding leaves open, which is how much noise they are given.
Shapes: N images, M of them fitted to, D embedding; C, h and w of latents, P their flat values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from hvf.data.indexing import spread_rows

PENALTIES = np.logspace(-4, 2, 7)  # of the regression; held-out images decide between them
LENGTH = 3.0  # of the Gaussian kernel, in root mean squared distances of z_f from its mean
MOST, MOST_TO_CHOOSE = 6000, 2000  # images fitted to, in the end and with each penalty: time grows with their cube
ONE_IN = 10  # images is held out where nobody says which
COLUMNS = 2048  # latents computed at once


@dataclass(frozen=True, eq=False)
class InitialLatents:
    """A kernel ridge regression of an image's latents on its embedding, fitted to training images.

    The kernel is exp(-|z - z'|² / (2 · LENGTH² · variance)). The embedding is no linear function of the latents, and a
    linear map back misses shapes that this one finds.

    Attributes
    ----------
    images_MD : numpy.ndarray
        z_f of the images that it is fitted to, float32.
    weights_MChw, intercept_Chw : numpy.ndarray
        Of the regression, float32.
    mean_D : numpy.ndarray
        Of the training images' z_f, float32.
    variance : float
        Mean squared distance of these z_f from their mean.
    explained : float
        Share, 0 to 1, of the latents' variance that the regression explains on images left out of its fit, from their
        own z_f.
    penalty : float
        Of the regression.
    vae : str
        A hash of the VAE whose latents they are; "" where nobody said.
    """

    images_MD: np.ndarray
    weights_MChw: np.ndarray
    intercept_Chw: np.ndarray
    mean_D: np.ndarray
    variance: float
    explained: float
    penalty: float
    vae: str = ""

    @classmethod
    def fit(
        cls, latents_NChw: np.ndarray, z_ND: np.ndarray, held_out: Mapping[int, np.ndarray] | None = None
    ) -> InitialLatents:
        """Fit the regression, and measure how much it explains: 0 if no image can be left out.

        Parameters
        ----------
        latents_NChw : numpy.ndarray
            Latents of the training images.
        z_ND : numpy.ndarray
            Their z_f.
        held_out : mapping, optional
            {index of an image: what its picture will be drawn from}; every tenth image and its own z_f if not given.
            The penalty is chosen among PENALTIES by the error on these, to which the map is not fitted: one that
            suits z_f is far too small for z_b.
        """
        target_NP, z_ND = latents_NChw.reshape(len(latents_NChw), -1), np.ascontiguousarray(z_ND, np.float64)
        held_out = held_out or {i: z_ND[i] for i in range(0, len(z_ND), ONE_IN)}
        rows, held_out_KD = list(held_out), np.stack(list(held_out.values()))
        others_N = np.setdiff1d(np.arange(len(z_ND)), rows)
        judged = len(others_N) > 0
        others_N = others_N if judged else np.array(rows)
        mean_D, least = z_ND.mean(axis=0), float(np.finfo(np.float32).tiny)  # where all images are one
        variance = max(float(np.square(z_ND - mean_D).sum(axis=1).mean()), least)

        few_M, most_M = (others_N[spread_rows(len(others_N), most)] for most in (MOST_TO_CHOOSE, MOST))
        few_MD, z_MD = z_ND[few_M] - mean_D, z_ND[most_M] - mean_D
        of_few, of_held_out = (_kernel(x, few_MD, variance) for x in (few_MD, held_out_KD - mean_D))
        predicted = (_predicted(of_few, of_held_out, target_NP[few_M], penalty) for penalty in PENALTIES)
        errors = [np.square(predicted_KP - target_NP[rows]).mean() for predicted_KP in predicted]
        penalty = float(PENALTIES[int(np.argmin(errors))])
        weights_MP, intercept_P = _solved(_kernel(z_MD, z_MD, variance), target_NP[most_M], penalty)
        shape = latents_NChw.shape[1:]
        chosen = cls(
            z_ND[most_M].astype(np.float32),
            weights_MP.reshape(-1, *shape),
            intercept_P.astype(np.float32).reshape(shape),
            mean_D.astype(np.float32),
            variance,
            0.0,  # as long as it is not measured
            penalty,
        )
        if not judged:  # nothing is left out of the fit, and nothing known of what it explains
            return chosen
        left = np.square(chosen.predict(z_ND[rows]).reshape(len(rows), -1) - target_NP[rows]).mean()
        spread = max(float(np.square(target_NP[rows] - target_NP.mean(axis=0)).mean()), least)
        return replace(chosen, explained=1 - min(float(left) / spread, 1.0))

    def predict(self, z_ND: np.ndarray) -> np.ndarray:
        """Latents (N, C, h, w), float32."""
        kernel_NM = _kernel(np.asarray(z_ND, np.float64) - self.mean_D, self.images_MD - self.mean_D, self.variance)
        weights_MP = self.weights_MChw.reshape(len(self.weights_MChw), -1)
        latents_NP = np.empty((len(kernel_NM), weights_MP.shape[1]), np.float32)
        for some in _blocks(weights_MP.shape[1]):
            latents_NP[:, some] = kernel_NM @ weights_MP[:, some].astype(np.float64) + self.intercept_Chw.ravel()[some]
        return latents_NP.reshape(-1, *self.intercept_Chw.shape)

    def open_share(self, z_ND: np.ndarray) -> np.ndarray:
        """Share of each picture, (N,), that its embedding leaves open: 1 - explained · min(1, |z - mean|² / variance).

        A posterior mean E[z_f | z_b] is shorter the less certain it is, by the law of total variance: its squared
        distance from the mean of all z_f is, on average, the variance of z_f less what z_b leaves of it. So its length
        says how much of z_f is known, and `explained` how much of the latents z_f tells. An image's own z_f, which is
        certain, leaves open what the regression does not explain; the mean itself, which says nothing, everything.
        """
        distance_N = np.square(np.ascontiguousarray(z_ND, np.float64) - self.mean_D).sum(axis=1)
        return 1 - self.explained * np.minimum(1, distance_N / self.variance)

    def tensors(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Its arrays and its numbers, by name, and the VAE's hash beside these where it is known."""
        arrays = {"images": self.images_MD, "weights": self.weights_MChw, "intercept": self.intercept_Chw}
        numbers: dict[str, Any] = {"variance": self.variance, "explained": self.explained, "penalty": self.penalty}
        return arrays | {"mean": self.mean_D}, numbers | ({"vae": self.vae} if self.vae else {})

    @classmethod
    def of_tensors(cls, arrays: Mapping[str, np.ndarray], numbers: Mapping[str, Any]) -> InitialLatents:
        """The inverse of `tensors`."""
        said = {name: float(numbers[name]) for name in ("variance", "explained", "penalty")}
        vae = str(numbers.get("vae", ""))
        return cls(arrays["images"], arrays["weights"], arrays["intercept"], arrays["mean"], **said, vae=vae)


def _kernel(z_ND: np.ndarray, other_MD: np.ndarray, variance: float) -> np.ndarray:
    """exp(-|z - z'|² / (2 · LENGTH² · variance)), (N, M), in double precision."""
    z_ND, other_MD = z_ND.astype(np.float64), other_MD.astype(np.float64)
    kernel_NM = torch.from_numpy(z_ND) @ torch.from_numpy(other_MD).T
    kernel_NM *= -2
    kernel_NM += torch.from_numpy(np.square(z_ND).sum(axis=1))[:, None]
    kernel_NM += torch.from_numpy(np.square(other_MD).sum(axis=1))
    kernel_NM.clamp_(min=0)  # rounding alone makes less of it
    kernel_NM /= -2 * LENGTH**2 * variance
    return kernel_NM.exp_().numpy()


def _solved(kernel_MM: np.ndarray, target_MP: np.ndarray, penalty: float) -> tuple[np.ndarray, np.ndarray]:
    """Weights of each image, (M, P) float32, with which the kernel predicts the targets; and the targets' mean."""
    intercept_P = target_MP.mean(axis=0, dtype=np.float64)
    penalised_MM = torch.from_numpy(kernel_MM).clone()
    penalised_MM.diagonal().add_(penalty)
    # By torch, whose threads wait for each other asleep: SciPy's take six times as long beside another busy process.
    factor_MM = torch.linalg.cholesky(penalised_MM, out=penalised_MM)
    weights_MP = np.empty(target_MP.shape, np.float32)
    for some in _blocks(target_MP.shape[1]):
        centred_MP = torch.from_numpy(target_MP[:, some] - intercept_P[some])
        weights_MP[:, some] = torch.cholesky_solve(centred_MP, factor_MM).numpy()
    return weights_MP, intercept_P


def _predicted(kernel_MM: np.ndarray, kernel_KM: np.ndarray, target_MP: np.ndarray, penalty: float) -> np.ndarray:
    """What is predicted, (K, P), of others than it is fitted to."""
    weights_MP, intercept_P = _solved(kernel_MM, target_MP, penalty)
    return kernel_KM @ weights_MP + intercept_P


def _blocks(width: int) -> list[slice]:
    """All columns, some at a time: in double precision all latents of large pictures would fill the memory."""
    return [slice(start, start + COLUMNS) for start in range(0, width, COLUMNS)]
