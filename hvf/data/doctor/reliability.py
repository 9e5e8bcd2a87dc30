"""Split-half style reliability: whether trials of the same image agree, and agree best under the labels they have.

Letters: N trials, C channels, T samples, B time bins, D = C x B features.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hvf.data.doctor.checks import Finding

WINDOW = (0.05, 0.3)  # s after onset; longer ones hold the next images of a rapid series
BIN = 0.05  # s
PERMUTATIONS = 100
MOST = 10_000  # trials that are correlated with each other
FEW = 1000  # pairs of repeats; fewer that disagree say nothing, because a single trial is mostly noise


def binned(x_NCT: np.ndarray, times_T: np.ndarray, window: tuple[float, float] = WINDOW) -> np.ndarray:
    """Mean over bins of 50 ms within `window` (s after onset), minus the mean over the window: (N, C, B).

    No baseline is subtracted: in a rapid series it holds the response to the image before, so that shifted labels would
    seem to fit.
    """
    inside_T = (times_T >= window[0] - 1e-9) & (times_T < window[1] - 1e-9)
    if inside_T.sum() < 1:
        inside_T = np.ones(len(times_T), bool)
    picked = np.flatnonzero(inside_T)
    width = max(1, round(BIN / max(float(times_T[1] - times_T[0]), 1e-9))) if len(times_T) > 1 else 1
    bins = [picked[i : i + width] for i in range(0, len(picked), width)]
    x_NCB = np.stack([x_NCT[:, :, b].mean(2, dtype=np.float64) for b in bins], axis=2)
    if x_NCB.shape[2] > 2:
        with np.errstate(invalid="ignore"):  # infinite samples, which `signals` reports
            x_NCB -= x_NCB.mean(2, keepdims=True)
    return x_NCB.astype(np.float32)


def _standard(x_NCB: np.ndarray, sessions_N: np.ndarray) -> np.ndarray:
    """Centred and scaled per session, channels decorrelated, each trial of length 1: (N, D)."""
    x_NCB = np.nan_to_num(x_NCB, posinf=0.0, neginf=0.0)
    scale = x_NCB.std(axis=(0, 2), dtype=np.float64)
    x_NCB = x_NCB / np.where(scale > 0, scale, 1.0)[None, :, None]
    for session in np.unique(sessions_N):
        rows = sessions_N == session
        x_NCB[rows] -= x_NCB[rows].mean(0, keepdims=True)
    cov_CC = np.einsum("ncb,ndb->cd", x_NCB, x_NCB, optimize=True) / (len(x_NCB) * x_NCB.shape[2])
    cov_CC += (0.1 * np.trace(cov_CC) / len(cov_CC) + 1e-12) * np.eye(len(cov_CC))
    power, basis = np.linalg.eigh(cov_CC)
    whitener_CC = (basis / np.sqrt(power)) @ basis.T
    z_ND = np.einsum("dc,ncb->ndb", whitener_CC, x_NCB, optimize=True).reshape(len(x_NCB), -1)
    length = np.linalg.norm(z_ND, axis=1, keepdims=True)
    return (z_ND / np.where(length > 0, length, 1.0)).astype(np.float32)


def reliability(z_ND: np.ndarray, ids_N: np.ndarray) -> float:
    """Mean correlation between two trials of the same image, over all pairs; labels below 0 are left out."""
    kept = np.flatnonzero(ids_N >= 0)
    order = kept[np.argsort(ids_N[kept], kind="stable")]
    starts = np.flatnonzero(np.diff(ids_N[order], prepend=-1))
    sums = np.add.reduceat(z_ND[order], starts, axis=0)
    own = np.add.reduceat((z_ND[order] ** 2).sum(1), starts)
    n = np.diff(np.append(starts, len(order)))
    return float(((sums.astype(np.float64) ** 2).sum(1) - own).sum() / max((n * (n - 1)).sum(), 1))


def repeats(
    x_NCB: np.ndarray,
    ids_N: Sequence | np.ndarray,
    where: str,
    *,
    sessions_N: Sequence[int] | np.ndarray | None = None,
    shifts: Sequence[int] = (1, -1, 2, -2),
    seed: int = 0,
) -> list[Finding]:
    """Compare the agreement of trials of one image with that under labels shuffled within a session, or shifted.

    Parameters
    ----------
    x_NCB : ndarray
        `binned` trials, in the order of the recording or of the file.
    ids_N : sequence
        The image of each trial.
    where : str
        File or folder, for messages.
    sessions_N : sequence of int, optional
        Session of each trial. Default: one.
    shifts : sequence of int
        Rows by which labels are also moved within a session.
    seed : int
        Of the shuffling.

    Returns
    -------
    list of Finding
        A warning where the agreement is within chance, an error where shifted labels agree better.
    """
    labels_N = np.unique(np.asarray(ids_N), return_inverse=True)[1]
    sessions_N = np.zeros(len(labels_N), int) if sessions_N is None else np.asarray(sessions_N)
    findings = _copies(x_NCB, where)
    n = np.bincount(labels_N)
    if (n > 1).sum() < 2:
        return [*findings, Finding("ok", "repeats", where, "fewer than two images have repeats: nothing to compare")]
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(np.flatnonzero(n > 1))
    chosen = chosen[: max(2, np.searchsorted(np.cumsum(n[chosen]), MOST))]
    labels_N = np.where(np.isin(labels_N, chosen), labels_N, -1)
    pairs = int((n[chosen] * (n[chosen] - 1) // 2).sum())
    z_ND = _standard(x_NCB, sessions_N)
    r = reliability(z_ND, labels_N)
    by_chance = [reliability(z_ND, _shuffled(labels_N, sessions_N, rng)) for _ in range(PERMUTATIONS)]
    chance, (low, high) = float(np.mean(by_chance)), np.quantile(by_chance, [0.025, 0.975])
    moved = {k: reliability(z_ND, _rolled(labels_N, sessions_N, k)) for k in shifts}
    best = max(moved, key=lambda k: moved[k])
    numbers = f"trials of one image correlate {r:.3f}; by chance {chance:.3f} [{low:.3f}, {high:.3f}]"
    if moved[best] > high and moved[best] > r + 1.5 * (high - low) and moved[best] - chance > 1.5 * (r - chance):
        message = f"trials and images seem shifted by {abs(best)}: {numbers}, and {moved[best]:.3f} with the images "
        message += f"moved {'down' if best > 0 else 'up'} by {abs(best)}"
        findings.append(Finding("error", "pairing", where, message, "find the trial that was lost or counted twice"))
    elif r <= high and pairs < FEW:
        findings.append(
            Finding("ok", "repeats", where, f"{pairs} pairs are too few to tell whether repeats agree: {numbers}")
        )
    elif r <= high:
        advice = "too few trials, too much noise, or images and trials do not belong together: see how they were paired"
        findings.append(Finding("warning", "repeats", where, f"repeats agree no better than chance: {numbers}", advice))
    else:
        findings.append(Finding("ok", "repeats", where, numbers))
    return findings


def _shuffled(labels_N: np.ndarray, sessions_N: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The labels shuffled within each session, so that what a session shares is not taken for the image's."""
    labels_N = labels_N.copy()
    for session in np.unique(sessions_N):
        rows = np.flatnonzero((sessions_N == session) & (labels_N >= 0))
        labels_N[rows] = rng.permutation(labels_N[rows])
    return labels_N


def _rolled(labels_N: np.ndarray, sessions_N: np.ndarray, k: int) -> np.ndarray:
    """The labels moved by `k` rows within each session."""
    labels_N = labels_N.copy()
    for session in np.unique(sessions_N):
        rows = np.flatnonzero(sessions_N == session)
        labels_N[rows] = np.roll(labels_N[rows], k)
    return labels_N


def _copies(x_NCB: np.ndarray, where: str) -> list[Finding]:
    """Find trials that equal another trial to the last bit."""
    rows = np.ascontiguousarray(x_NCB.reshape(len(x_NCB), -1))
    same = len(rows) - len({row.tobytes() for row in rows if np.any(row)}) - int((~rows.any(1)).sum())
    empty = int((~rows.any(1)).sum())
    findings = []
    if same:
        message = f"{same} of {len(rows)} trials are exact copies of another"
        findings.append(Finding("error", "repeats", where, message, "repeats must be presentations of their own"))
    if empty:
        message = f"{empty} of {len(rows)} trials hold nothing but zeros"
        findings.append(Finding("warning", "signal", where, message, "drop them: padding was taken for data"))
    return findings
