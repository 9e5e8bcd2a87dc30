"""Pictures of trials: responses to each condition, channels, the order of images, how well repeats agree.

Each function returns a matplotlib Figure. Letters: N trials, C channels, T samples, I images.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hvf.data.sensor_positions import positions_of
from hvf.data.trials.categorical import Categorical
from hvf.data.trials.plots import means_by, title_of, units_of
from hvf.data.trials.trials import Trials
from hvf.report.sensors import draw_topography

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_CONDITIONS, NAMED = 6, 40  # that are drawn apart, and names along an axis
MOST_MARKED = 12  # outlying channels that are named
OUTLYING = 3.5  # robust sd of the logarithm
RESPONSE = (0.05, 0.3)  # s after onset, over which reliability is averaged for the map of the head
SHUFFLES = 20


def conditions(trials: Trials) -> tuple[str, Categorical]:
    """What trials are averaged by: concepts or images where they are few, else splits, else nothing."""
    for what, labels in (("concepts", trials.concepts), ("images", trials.image_ids), ("splits", trials.splits)):
        if labels is not None and 1 < len(set(labels.tolist())) <= MOST_CONDITIONS:
            return what, Categorical.of(labels)
    return "", Categorical.of(np.full(len(trials), "all"))


def evoked(trials: Trials) -> Figure:
    """Mean response of every channel over time, and global field power, one panel for each condition."""
    from matplotlib.figure import Figure

    what, labels = conditions(trials)
    names, mean_ICT = means_by(trials, labels)
    factor, unit = units_of(trials)
    counts = {name: int((labels.array == name).sum()) for name in names}
    columns = min(3, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(1 + 4 * columns, 0.6 + 2.8 * rows), layout="constrained")
    by = f" by {what}" if what else ""
    figure.suptitle(f"{title_of(trials)}: mean responses{by}, {trials.shape[1]} channels", fontsize=10)
    panels: Any = figure.subplots(rows, columns, squeeze=False, sharey=True)
    times = 1000 * trials.times
    for axes, name, mean_CT in zip(panels.flat, names, factor * mean_ICT, strict=False):
        if len(times) > 1:
            axes.plot(times, mean_CT.T, color="0.6", linewidth=0.5)
            axes.plot(times, mean_CT.std(axis=0), color="C3", linewidth=1.6, label="global field power")
            axes.axvline(0, color="k", linewidth=0.6, linestyle=":")
            axes.set(xlabel="time after onset (ms)", ylabel=unit, xlim=(times[0], times[-1]))
        else:
            axes.bar(np.arange(len(mean_CT)), mean_CT[:, 0], color="0.5")
            axes.set(xlabel="channel", ylabel=unit)
        axes.set_title(f"{name}, {counts[name]} trials", fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in list(panels.flat)[len(names) :]:
        axes.set_axis_off()
    if len(times) > 1:
        panels.flat[0].legend(frameon=False, fontsize=8)
    return figure


def spread(trials: Trials) -> np.ndarray:
    """Standard deviation of each channel over trials and samples, (C,)."""
    total, square, n = 0.0, 0.0, 0
    for _, x_NCT in trials.batches():
        x = np.asarray(x_NCT, np.float64)
        total, square, n = total + x.sum(axis=(0, 2)), square + np.square(x).sum(axis=(0, 2)), n + len(x) * x.shape[2]
    return np.sqrt(np.maximum(square / n - np.square(total / n), 0.0))


def outlying(sd_C: np.ndarray) -> np.ndarray:
    """Channels (C,) whose standard deviation is far from the others' on a logarithmic scale, dead ones included."""
    with np.errstate(divide="ignore"):
        log_C = np.log(sd_C)
    middle = np.median(log_C[np.isfinite(log_C)]) if np.isfinite(log_C).any() else 0.0
    away_C = np.abs(log_C - middle)
    scale = 1.4826 * np.median(away_C[np.isfinite(away_C)]) if np.isfinite(away_C).any() else 1.0
    return ~(away_C <= OUTLYING * max(scale, 0.1))


def channels(
    sd_C: np.ndarray, names: Sequence[str], positions: np.ndarray | None, title: str, factor: float, unit: str
) -> Figure:
    """Standard deviation of every channel, outlying ones named, and on the head where places are known.

    Parameters
    ----------
    sd_C : ndarray
        (C) in the recording's own unit.
    names : sequence of str
    positions : ndarray, optional
        (C, 2) in m, as in `hvf.data.sensor_positions`.
    title : str
    factor, unit : float, str
        To and of the unit that is shown.
    """
    from matplotlib.figure import Figure

    odd_C, x = outlying(sd_C), np.arange(len(sd_C))
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    figure.suptitle(f"{title}: {len(names)} channels, {odd_C.sum()} unlike the others", fontsize=10)
    left, *right = _beside(figure, positions)
    left.plot(x[~odd_C], factor * sd_C[~odd_C], "o", color="0.5", markersize=4)
    left.plot(x[odd_C], factor * sd_C[odd_C], "o", color="C3", markersize=5)
    for i in x[odd_C][:MOST_MARKED]:
        left.annotate(
            names[i], (i, factor * sd_C[i]), xytext=(3, 3), textcoords="offset points", fontsize=7, color="C3"
        )
    if (sd_C > 0).any():
        left.set_yscale("log" if (sd_C > 0).all() else "linear")
    left.set(xlabel="channel", ylabel=f"standard deviation ({unit})")
    if len(names) <= NAMED:
        left.set_xticks(x, names, rotation=90, fontsize=7)
    left.spines[["top", "right"]].set_visible(False)
    for axes in right:
        shown = draw_topography(axes, factor * sd_C, np.asarray(positions), marked=odd_C)
        figure.colorbar(shown, ax=axes, shrink=0.7, label=unit)
    return figure


def _beside(figure: Figure, positions: np.ndarray | None) -> list[Any]:
    """A wide panel, and one of the head beside it where places are known."""
    if positions is None:
        return [figure.subplots()]
    return list(figure.subplots(1, 2, width_ratios=[3, 1.3]))


def order_of_images(trials: Trials) -> Figure:
    """Which image was shown when: the images' numbers, by first appearance, against the place of the presentation."""
    from matplotlib.figure import Figure

    first, group_N = Categorical.of(trials.image_ids).first()
    sessions_N = np.ones(len(trials), int) if trials.sessions is None else np.asarray(trials.sessions)
    known = trials.positions is not None
    place_N = np.asarray(trials.positions) if known else np.arange(len(trials))
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[3, 1.3])
    for session in np.unique(sessions_N):
        rows = sessions_N == session
        left.plot(place_N[rows], group_N[rows], ".", markersize=2, label=f"session {session}")
    left.set(xlabel="place in its session" if known else "row (the order of presentation is not known)", ylabel="image")
    if trials.sessions is not None and len(np.unique(sessions_N)) <= 10:
        left.legend(frameon=False, fontsize=7, markerscale=4)
    repeats, counts = np.unique(np.bincount(group_N), return_counts=True)
    right.bar(repeats, counts, color="0.5", width=0.8)
    right.set(xlabel="trials of an image", ylabel="images")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"{title_of(trials)}: {len(trials)} trials of {len(first)} images", fontsize=10)
    return figure


def halves(trials: Trials) -> tuple[np.ndarray, np.ndarray] | None:
    """Mean responses (I, C, T) to the images over their first, third, ... and their second, fourth, ... trials.

    Only images with two trials or more are in it; None where there are fewer than three of those.
    """
    _, group_N = Categorical.of(trials.image_ids).first()
    order = np.argsort(group_N, kind="stable")
    starts = np.searchsorted(group_N[order], np.arange(group_N.max() + 1))
    turn_N = np.empty(len(group_N), int)
    turn_N[order] = np.arange(len(order)) - starts[group_N[order]]
    count_I = np.bincount(group_N)
    kept = np.flatnonzero(count_I >= 2)
    if len(kept) < 3:
        return None
    number_I = np.full(len(count_I), -1)
    number_I[kept] = np.arange(len(kept))
    sums = np.zeros((2, len(kept), *trials.shape[1:]))
    for rows, x_NCT in trials.batches():
        image_N, half_N = number_I[group_N[rows]], turn_N[rows] % 2
        mine = image_N >= 0
        np.add.at(sums, (half_N[mine], image_N[mine]), x_NCT[mine])
    second = count_I[kept] // 2
    return sums[0] / (count_I[kept] - second)[:, None, None], sums[1] / second[:, None, None]


def split_half(a_ICT: np.ndarray, b_ICT: np.ndarray) -> np.ndarray:
    """Pearson's r over images of two halves at each channel and sample, (C, T), of full length by Spearman-Brown."""
    a, b = (x - x.mean(axis=0) for x in (a_ICT, b_ICT))
    length = np.sqrt(np.square(a).sum(axis=0) * np.square(b).sum(axis=0))
    r_CT = (a * b).sum(axis=0) / np.where(length > 0, length, 1.0)
    return 2 * r_CT / (1 + np.maximum(r_CT, -0.5))


def reliability(trials: Trials, seed: int = 0) -> Figure | None:
    """Split-half reliability over images at each channel and time, and on the head; None without repeats."""
    from matplotlib.figure import Figure

    parts = halves(trials)
    if parts is None:
        return None
    a_ICT, b_ICT = parts
    r_CT, rng = split_half(a_ICT, b_ICT), np.random.default_rng(seed)
    bound = np.quantile([split_half(a_ICT, b_ICT[rng.permutation(len(b_ICT))]) for _ in range(SHUFFLES)], 0.95)
    positions, times = positions_of(trials.ch_names), 1000 * trials.times
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    figure.suptitle(
        f"{title_of(trials)}: split-half reliability over {len(a_ICT)} images (Spearman-Brown); 95 % of values lie "
        f"below {bound:.2f} where images are shuffled",
        fontsize=9,
    )
    left, *right = _beside(figure, positions)
    limit = max(float(np.abs(r_CT).max()), 0.05)
    ends = (times[0], times[-1]) if len(times) > 1 else (0.0, 1.0)
    shown = left.imshow(r_CT, aspect="auto", cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest",
                        extent=(*ends, len(r_CT) - 0.5, -0.5))  # fmt: skip
    left.set(xlabel="time after onset (ms)" if len(times) > 1 else "", ylabel="channel")
    if len(trials.ch_names) <= NAMED:
        left.set_yticks(np.arange(len(r_CT)), trials.ch_names, fontsize=6)
    figure.colorbar(shown, ax=left, shrink=0.8, label="reliability")
    inside_T = (trials.times >= RESPONSE[0]) & (trials.times <= RESPONSE[1])
    inside_T = inside_T if inside_T.any() else np.ones(len(times), bool)
    for axes in right:
        topography = draw_topography(axes, r_CT[:, inside_T].mean(axis=1), np.asarray(positions))
        axes.set_title("mean, 50 to 300 ms" if inside_T.sum() < len(times) else "mean", fontsize=8)
        figure.colorbar(topography, ax=axes, shrink=0.7)
    return figure
