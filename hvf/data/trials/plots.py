"""Figures of trials: evoked responses, and the similarity of the responses to images or concepts.

No function opens a window: each returns a matplotlib Figure.

Letters: N trials, C channels, T samples, I images or concepts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from hvf.data.trials.categorical import Categorical
from hvf.data.trials.conversion import Responses
from hvf.data.trials.provenance import modality
from hvf.registry import HvfError, did_you_mean, listed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST, NAMED = 4000, 40  # images that are compared at most, and that are named along the axes at most
SCALED = {"V": (1e6, "µV"), "T": (1e15, "fT")}  # units, and those that they are shown in


def title_of(trials: Responses) -> str:
    """Whose responses they are, and whether simulated."""
    return f"{'simulated ' if trials.simulated else ''}{modality(trials.kind)}, {trials.subject}"


def means_by(trials: Responses, labels: Categorical) -> tuple[list[str], np.ndarray]:
    """The distinct labels in order of first appearance, and the mean response to each, float64 (I, C, T)."""
    first, group_N = labels.first()
    sum_ICT = np.zeros((len(first), *trials.shape[1:]))
    for rows, x_NCT in trials.batches():
        np.add.at(sum_ICT, group_N[rows], x_NCT)
    return labels.array[first].tolist(), sum_ICT / np.bincount(group_N)[:, None, None]


def similarity(trials: Responses, by: Literal["image", "concept"] | None = None) -> tuple[list[str], np.ndarray]:
    """Representational similarity of images or concepts: their names, sorted by concept, and a matrix (I, I).

    Pearson's correlation of mean responses over channels and samples, after the mean over all of them was subtracted at
    each channel and sample and each channel brought to unit variance: what all share is no similarity (Kriegeskorte et
    al. 2008; Diedrichsen and Kriegeskorte 2017). By default concepts are compared where some have several images.
    """
    concepts = trials.concepts
    ids = Categorical.of(trials.image_ids)
    if by is None:
        several = concepts is not None and 1 < len(set(concepts.tolist())) < len(ids.first()[0])
        by = "concept" if several else "image"
    if by not in ("image", "concept"):
        raise HvfError(f"responses are compared by image or concept, not by {by!r}")
    if by == "concept" and concepts is None:
        raise HvfError(f"the trials of {trials.subject} name no concepts: compare them by image")
    labels = ids if by == "image" else Categorical.of(np.asarray(concepts))
    n = len(labels.first()[0])
    if not 3 <= n <= MOST:
        raise HvfError(
            f"{n} {by}s cannot be compared, three to {MOST} can: select some trials, or compare by the other"
        )
    names, mean_ICT = means_by(trials, labels)
    if by == "image" and concepts is not None:
        shown = dict(zip(trials.image_ids.tolist(), concepts.tolist(), strict=True))
        order = sorted(range(n), key=lambda i: (shown[names[i]], i))
    else:
        order = sorted(range(n), key=lambda i: names[i])
    centred_ICT = mean_ICT[order] - mean_ICT.mean(axis=0)
    sd_C = np.sqrt(np.square(centred_ICT).mean(axis=(0, 2)))
    pattern_IP = (centred_ICT / np.where(sd_C > 0, sd_C, 1.0)[:, None]).reshape(n, -1)
    pattern_IP -= pattern_IP.mean(axis=1, keepdims=True)
    length_I = np.linalg.norm(pattern_IP, axis=1)
    pattern_IP /= np.where(length_I > 0, length_I, 1.0)[:, None]
    return [names[i] for i in order], pattern_IP @ pattern_IP.T


def plot_evoked(trials: Responses, concept: str | None = None) -> Figure:
    """Mean response of every channel over time, and global field power (their standard deviation over channels)."""
    from matplotlib.figure import Figure

    rows_N = np.ones(len(trials), bool)
    if concept is not None:
        known = [] if trials.concepts is None else sorted(set(trials.concepts.tolist()))
        if concept not in known:
            hint = did_you_mean(concept, known[:20]) if known else "; they name no concepts"
            raise HvfError(f"no trial of {trials.subject} shows the concept {concept!r}{hint}")
        rows_N = np.asarray(trials.concepts) == concept
    if not rows_N.any():
        raise HvfError(f"there are no trials of {trials.subject} to average")
    mean_CT = np.zeros(trials.shape[1:])
    for rows, x_NCT in trials.batches():
        mean_CT += x_NCT[rows_N[rows]].sum(axis=0, dtype=np.float64)
    mean_CT /= rows_N.sum()
    factor, unit = units_of(trials)
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    if trials.shape[2] == 1:
        axes.bar(np.arange(len(mean_CT)), factor * mean_CT[:, 0], color="0.5")
        axes.set(xlabel="channel", ylabel=unit)
    else:
        times = 1000 * trials.times
        axes.plot(times, factor * mean_CT.T, color="0.6", linewidth=0.6)
        axes.plot(times, factor * mean_CT.std(axis=0), color="C3", linewidth=1.8, label="global field power")
        axes.set(xlabel="time after image onset (ms)", ylabel=unit, xlim=(times[0], times[-1]))
        axes.axhline(0, color="k", linewidth=0.6)
        axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    what = "all images" if concept is None else concept
    axes.set_title(f"{title_of(trials)}: {what}, {rows_N.sum()} trials, {len(mean_CT)} channels", fontsize=9)
    return figure


def plot_similarity(trials: Responses, by: Literal["image", "concept"] | None = None) -> Figure:
    """The matrix of `similarity`, rows and columns sorted by concept."""
    from matplotlib.figure import Figure

    names, r_II = similarity(trials, by)
    figure = Figure(figsize=(6.4, 5.4), layout="constrained")
    axes = figure.subplots()
    limit = float(np.abs(r_II[~np.eye(len(names), dtype=bool)]).max()) or 1.0
    picture: Any = axes.imshow(r_II, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
    figure.colorbar(picture, ax=axes, label="Pearson's r of mean responses, centred over all", shrink=0.8)
    if len(names) <= NAMED:
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
        axes.set_yticks(range(len(names)), names, fontsize=7)
    else:
        axes.set(xticks=[], yticks=[])
    n_images = len(set(trials.image_ids.tolist()))
    what = f"{len(names)} images" if len(names) == n_images else f"{len(names)} concepts ({n_images} images)"
    order = "" if trials.concepts is None else ", sorted by concept"
    axes.set_title(f"{title_of(trials)}: {what}{order}", fontsize=9)
    return figure


def units_of(trials: Responses) -> tuple[float, str]:
    """What values are multiplied with, and the unit that they have then."""
    units = (trials.history or {}).get("units") or {"eeg": "V", "meg": "T"}.get(trials.kind, "response")
    return SCALED.get(units, (1.0, units if len(units) < 40 else "response"))


def facts_of(trials: Responses) -> dict[str, Any]:
    """What a table says of trials."""
    n, c, t = trials.shape
    images, concepts = set(trials.image_ids.tolist()), None
    if trials.concepts is not None:
        concepts = f"{len(set(trials.concepts.tolist()))}"
    end = trials.tmin + (t - 1) / trials.sfreq
    splits = None
    if trials.splits is not None:
        splits = ", ".join(f"{(trials.splits == one).sum()} {one}" for one in sorted(set(trials.splits.tolist())))
    return {
        "trials": f"{n} of {len(images)} images",
        "concepts": concepts,
        "split": splits,
        "sessions": None if trials.sessions is None else len(set(trials.sessions.tolist())),
        "channels": f"{c} {trials.kind}: {listed(trials.ch_names, 8)}",
        "samples": f"{t}, {1000 * trials.tmin:g} to {1000 * end:g} ms at {trials.sfreq:g} Hz" if t > 1 else None,
        "units": (trials.history or {}).get("units"),
        "recipe": (trials.history or {}).get("recipe"),
        "simulated": "yes: nothing here was measured from a person" if trials.simulated else None,
    }
