"""Rows of scaled scores (`hvf.evaluation.scaling`) in the result of a test, beside those of the cosine.

Letters: N test items and their images, D embedding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from hvf.config import SOLVED, Config, HvfError
from hvf.decoding.confidence import Confidence
from hvf.evaluation import retrieval
from hvf.evaluation.scaling import TRANSDUCTIVE, centred_cosine, check_scalings, transductive_ranks
from hvf.experiments.results import Result, Row


def check_fitted(scalings: Sequence[str], config: Config) -> tuple[str, ...]:
    """The scalings by their names (`check_scalings`). Raises HvfError for one that has nothing to be fitted to."""
    names = check_scalings(scalings)
    single = [name for name in names if name not in TRANSDUCTIVE]
    if single and (config.align.refit or config.brain.encoder in SOLVED):
        why = "align.refit" if config.brain.encoder not in SOLVED else f"{config.brain.encoder}, solved for all images,"
        raise HvfError(f"--scaling {single[0]} is fitted to validation trials, of which {why} leaves none")
    return names


def with_scalings(
    result: Result, z: Mapping[str, np.ndarray], confidence: Confidence | None, scalings: Sequence[str]
) -> Result:
    """The result with a row of each scaling for the brain, and a control for the permuted trials.

    Parameters
    ----------
    result : Result
        With the cosine's rows "brain" and "floor".
    z : mapping
        "z_brain", "z_floor" and "z_ceiling" (N, D) of the test.
    confidence : Confidence, optional
        Training and validation trials, by which inductive scalings are fitted.
    scalings : sequence of str
        What is measured.

    Raises
    ------
    HvfError
        If an inductive scaling is asked for and there is no `confidence`.
    """
    for name in scalings:
        for row in ("brain", "floor"):
            z_b_ND, z_f_ND, k = z[f"z_{row}"], z["z_ceiling"], 0
            if name in TRANSDUCTIVE:
                ranks_N = transductive_ranks(name, centred_cosine(z_b_ND, z_f_ND))
            elif confidence is None:
                raise HvfError(f"--scaling {name} is fitted to validation trials, and this decoder has none")
            else:
                scaling = confidence.scaling(name)
                ranks_N, k = retrieval.ranks(scaling.scores(z_b_ND, z_f_ND)), scaling.k
            result = result.with_scaled(Row.of_scaling(name, ranks_N, result.rows[row], row, k))
    return result
