"""Where denoising starts from, if not from noise alone: latents that a ridge predicts from an embedding.

It also says how much of a picture its embedding leaves open, which is how much noise they are given.
Shapes: N images, D embedding; C, h and w of latents, P their flat values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

PENALTIES = np.logspace(0, 6, 13)  # of the ridge; the training images decide between them


@dataclass(frozen=True, eq=False)
class InitialLatents:
    """A ridge regression of an image's latents on its embedding, fitted to training images.

    Attributes
    ----------
    coefficients_ChwD, intercept_Chw : numpy.ndarray
        Of the regression, float32.
    mean_D : numpy.ndarray
        Of the training images' z_f, float32.
    variance : float
        Mean squared distance of these z_f from their mean.
    explained : float
        Share, 0 to 1, of the latents' variance that the regression explains on images left out of its fit, from their
        own z_f.
    penalty : float
        Of the ridge.
    """

    coefficients_ChwD: np.ndarray
    intercept_Chw: np.ndarray
    mean_D: np.ndarray
    variance: float
    explained: float
    penalty: float

    @classmethod
    def fit(
        cls, latents_NChw: np.ndarray, z_ND: np.ndarray, held_out: Mapping[int, np.ndarray] | None = None
    ) -> InitialLatents:
        """Fit the regression, and measure how much it explains.

        Parameters
        ----------
        latents_NChw : numpy.ndarray
            Latents of the training images.
        z_ND : numpy.ndarray
            Their z_f.
        held_out : mapping, optional
            {index of an image: what its picture will be drawn from}. The penalty is chosen among PENALTIES by the error
            on these, to which the map is then not fitted: a penalty that suits z_f is far too small for z_b. Without
            any, by leave-one-out error. In the end the map is fitted to all images.
        """
        from sklearn.linear_model import Ridge, RidgeCV  # slow to import, and seldom needed

        target_NP = latents_NChw.reshape(len(latents_NChw), -1)
        if held_out:
            rows, told_ND = list(held_out), np.stack(list(held_out.values()))
            fitted = np.setdiff1d(np.arange(len(z_ND)), rows)
            fits = [Ridge(penalty).fit(z_ND[fitted], target_NP[fitted]) for penalty in PENALTIES]
            errors = [np.square(ridge.predict(told_ND) - target_NP[rows]).mean() for ridge in fits]
            best = int(np.argmin(errors))
            penalty = float(PENALTIES[best])
            error = np.square(fits[best].predict(z_ND[rows]) - target_NP[rows]).mean()
            spread = np.square(target_NP[rows] - target_NP.mean(axis=0)).mean()
        else:
            chosen: Any = RidgeCV(PENALTIES).fit(z_ND, target_NP)  # pyright: ignore[reportArgumentType]
            penalty, error = float(chosen.alpha_), -float(chosen.best_score_)
            spread = target_NP.var(axis=0).mean()
        ridge: Any = Ridge(penalty).fit(z_ND, target_NP)
        mean_D, least = z_ND.mean(axis=0, dtype=np.float64), float(np.finfo(np.float32).tiny)  # where all are one
        shape = latents_NChw.shape[1:]
        return cls(
            np.ascontiguousarray(ridge.coef_, np.float32).reshape(*shape, -1),
            np.ascontiguousarray(ridge.intercept_, np.float32).reshape(shape),
            mean_D.astype(np.float32),
            max(float(np.square(z_ND - mean_D).sum(axis=1).mean()), least),
            1 - min(float(error) / max(float(spread), least), 1.0),
            penalty,
        )

    def predict(self, z_ND: np.ndarray) -> np.ndarray:
        """Latents (N, C, h, w), float32."""
        flat_PD = self.coefficients_ChwD.reshape(-1, self.coefficients_ChwD.shape[-1])
        return (z_ND.astype(np.float32) @ flat_PD.T).reshape(-1, *self.intercept_Chw.shape) + self.intercept_Chw

    def open_share(self, z_ND: np.ndarray) -> np.ndarray:
        """Share of each picture, (N,), that its embedding leaves open: 1 - explained · min(1, |z - mean|² / variance).

        A posterior mean E[z_f | z_b] is shorter the less certain it is, by the law of total variance: its squared
        distance from the mean of all z_f is, on average, the variance of z_f less what z_b leaves of it. So its length
        says how much of z_f is known, and `explained` how much of the latents z_f tells. An image's own z_f, which is
        certain, leaves open what the regression does not explain; the mean itself, which says nothing, everything.
        """
        distance_N = np.square(np.ascontiguousarray(z_ND, np.float64) - self.mean_D).sum(axis=1)
        return 1 - self.explained * np.minimum(1, distance_N / self.variance)

    def tensors(self) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        """Its arrays and its numbers, by name."""
        arrays = {"coefficients": self.coefficients_ChwD, "intercept": self.intercept_Chw, "mean": self.mean_D}
        return arrays, {"variance": self.variance, "explained": self.explained, "penalty": self.penalty}

    @classmethod
    def of_tensors(cls, arrays: Mapping[str, np.ndarray], numbers: Mapping[str, Any]) -> InitialLatents:
        """The inverse of `tensors`."""
        names = ("variance", "explained", "penalty")
        return cls(arrays["coefficients"], arrays["intercept"], arrays["mean"], *(float(numbers[k]) for k in names))
