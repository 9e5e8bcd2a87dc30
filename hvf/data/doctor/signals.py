"""Checks of the signals: non-finite, flat, frozen and clipped channels, and their unit, block by block.

Letters: N trials, C channels, T samples, n samples of a block.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

import numpy as np

from hvf.data.doctor.checks import Finding
from hvf.registry import listed

CLIP_LEVELS = 50  # distinct values; clipping is not judged on fewer
VOLTS = (1e-10, 1e-3)  # how much EEG changes from sample to sample, at the least and at the most

Blocks = Callable[[], Iterable[np.ndarray]]


class Scan:
    """Statistics of each channel from two passes over the data; `blocks()` yields (C, n) or (n, C, T) arrays."""

    def __init__(self, blocks: Blocks, n_channels: int) -> None:
        self.n = 0  # samples
        self.bad_C = np.zeros(n_channels, int)  # of them not finite
        self.low_C, self.high_C = np.full(n_channels, np.inf), np.full(n_channels, -np.inf)
        self.step_C = np.zeros(n_channels)  # median difference of neighbouring samples, the largest of all blocks'
        self.levels_C = np.zeros(n_channels, int)  # distinct values in the first block
        self.frozen = 0  # neighbouring samples that are equal in all channels
        for x_Cn in _by_channel(blocks()):
            self._see(x_Cn)
        self.flat_C = self.low_C == self.high_C
        self.dead_C = self.bad_C == self.n
        self.at_2C, self.near_2C = np.zeros((2, n_channels), int), np.zeros((2, n_channels), int)
        for x_Cn in _by_channel(blocks()):
            self._see_extremes(x_Cn)

    def _see(self, x_Cn: np.ndarray) -> None:
        if not self.n:
            self.levels_C = np.array([len(np.unique(x_n[: 2**14])) for x_n in x_Cn])
        self.n += x_Cn.shape[1]
        low_C, high_C = x_Cn.min(1, initial=np.inf), x_Cn.max(1, initial=-np.inf)
        for c in np.flatnonzero(~(np.isfinite(low_C) & np.isfinite(high_C))):  # NaN and infinity show in these
            good_n = x_Cn[c][np.isfinite(x_Cn[c])]
            self.bad_C[c] += x_Cn.shape[1] - len(good_n)
            low_C[c], high_C[c] = good_n.min(initial=np.inf), good_n.max(initial=-np.inf)
        self.low_C, self.high_C = np.minimum(self.low_C, low_C), np.maximum(self.high_C, high_C)
        still_n = np.ones(x_Cn.shape[1] - 1, bool)
        for c, x_n in enumerate(x_Cn):
            with np.errstate(invalid="ignore", over="ignore"):
                d_n = np.abs(np.diff(x_n[: 2**14]))
            self.step_C[c] = max(self.step_C[c], np.median(d_n) if len(d_n) and np.isfinite(d_n).all() else 0.0)
            still_n &= x_n[1:] == x_n[:-1]
        self.frozen += int(still_n.sum())

    def _see_extremes(self, x_Cn: np.ndarray) -> None:
        for c, x_n in enumerate(x_Cn):
            if self.flat_C[c] or self.dead_C[c]:
                continue
            low, high = self.low_C[c], self.high_C[c]
            margin = 0.02 * (float(high) - float(low))
            for side, (end, near_n) in enumerate(((low, x_n <= low + margin), (high, x_n >= high - margin))):
                at = np.count_nonzero(x_n == end)
                self.at_2C[side, c] += at
                self.near_2C[side, c] += np.count_nonzero(near_n) - at

    @property
    def clipped_C(self) -> np.ndarray:
        """Channels that clip, (C,): a smooth signal comes near an extreme more often than it reaches it."""
        often_2C = (self.at_2C >= 10) & (self.at_2C > 1e-4 * self.n) & (self.at_2C > 3 * self.near_2C)
        return often_2C.any(0) & ~self.flat_C & ~self.dead_C & (self.levels_C >= CLIP_LEVELS)


def signals(
    blocks: Blocks,
    ch_names: Sequence[str],
    where: str,
    *,
    flat: str = "error",
    spare: Collection[str] = (),
    volts: bool = False,
) -> list[Finding]:
    """Check for non-finite, flat, frozen and clipped channels, and for the unit.

    Parameters
    ----------
    blocks : callable
        Yields the data in (C, n) or (n, C, T) arrays; called twice, so that nothing large is held.
    ch_names : sequence of str
    where : str
        File or folder, for messages.
    flat : str
        Severity of a channel that never changes.
    spare : collection of str
        Channels that nobody decodes from, bad ones among them: no fault of theirs is more than a warning.
    volts : bool
        Whether the values are EEG that should be in V.
    """
    scan = Scan(blocks, len(ch_names))
    if not scan.n:
        return [Finding("error", "signal", where, "there are no samples", "record or copy it again")]
    findings = []
    spare_C = np.array([name in spare for name in ch_names], bool)
    for of_C, severity in ((~spare_C, "error"), (spare_C, "warning")):
        unused = "; it is not decoded from as it is" if severity == "warning" else ""
        bad_C, flat_C = of_C & (scan.bad_C > 0), of_C & scan.flat_C
        if bad_C.any():
            share = scan.bad_C[bad_C].sum() / (scan.n * np.count_nonzero(bad_C))
            message = f"{_plural(ch_names, bad_C)}: NaN or infinite values, {share:.2%} of the samples"
            findings.append(Finding(severity, "signal", where, message, f"repair it, or mark it as bad{unused}"))
        if flat_C.any():
            message = f"{_plural(ch_names, flat_C)}: the same value throughout"
            worst = flat if severity == "error" else severity
            findings.append(Finding(worst, "signal", where, message, f"mark it as bad: it carries nothing{unused}"))
    live_C = ~(scan.flat_C | scan.dead_C)
    if scan.frozen > 0.01 * scan.n and live_C.any():
        message = f"all channels stand still at once for {scan.frozen / scan.n:.1%} of the samples"
        findings.append(Finding("warning", "signal", where, message, "see whether the recording paused or was padded"))
    if scan.clipped_C.any():
        share = scan.at_2C.max(0)[scan.clipped_C].max() / scan.n
        message = f"{_plural(ch_names, scan.clipped_C)}: clipped, up to {share:.1%} of the samples at one extreme"
        advice = "the amplifier or a conversion cut it off: drop the channels, or those stretches"
        findings.append(Finding("warning", "signal", where, message, advice))
    step = float(np.median(scan.step_C[live_C])) if live_C.any() else 0.0
    if volts and step and not VOLTS[0] < step < VOLTS[1]:
        message = f"samples differ by {step:.1g} from one to the next, which EEG in volts does not"
        advice = "the values are probably µV: multiply by 1e-6" if step > VOLTS[1] else "see in which unit they are"
        findings.append(Finding("warning", "units", where, message, advice))
    message = f"{scan.n} samples of {len(ch_names)} channels: finite, none flat or clipped"
    return findings or [Finding("ok", "signal", where, message)]


def _by_channel(blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """(C, n), float32 or float64: differences of float16 and of integers overflow."""
    for x in blocks:
        x_Cn = x if x.ndim == 2 else np.moveaxis(x, 1, 0).reshape(x.shape[1], -1)
        if x_Cn.shape[1]:
            yield x_Cn if x_Cn.dtype in (np.float32, np.float64) else x_Cn.astype(np.float32)


def _plural(ch_names: Sequence[str], hit_C: np.ndarray) -> str:
    hit = [name for name, its in zip(ch_names, hit_C, strict=True) if its]
    return f"channel {hit[0]}" if len(hit) == 1 else f"{len(hit)} channels, {listed(hit)}"
