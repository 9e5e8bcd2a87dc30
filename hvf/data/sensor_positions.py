"""Positions of sensors on the head, seen from above with the nose up.

The distance from the middle is the angle from the vertex, and the head's outline (`HEAD`) is at 90°, so that a part of
the sensors stays where it is on the head. Letters: C sensors.
"""

from __future__ import annotations

from collections.abc import Sequence

import mne
import numpy as np

from hvf.data.montages import montage_1005

HEAD = 0.095  # m, radius of the outline


def positions_in(info: mne.Info, names: Sequence[str]) -> np.ndarray | None:
    """(C, 2) in m from the places that a recording has for its channels; None if it lacks any."""
    if not set(names) <= set(info["ch_names"]):
        return None
    place = {channel["ch_name"]: channel["loc"][:3] for channel in info["chs"]}
    positions_C3 = np.stack([place[name] for name in names])
    known = np.isfinite(positions_C3).all() and (np.linalg.norm(positions_C3, axis=1) > 0).all()
    return flat(positions_C3) if known else None


def positions_of(names: Sequence[str]) -> np.ndarray | None:
    """(C, 2) in m from the sensors' names, of the 10-05 system or of CTF's layout; None if any is unknown.

    Examples
    --------
    >>> positions_of(["Oz", "Cz"]).shape
    (2, 2)
    >>> positions_of(["Oz", "neuron 7"]) is None
    True
    """
    places = montage_1005().get_positions()["ch_pos"]
    cap = {name.upper(): place for name, place in places.items()}
    if all(name.upper() in cap for name in names):
        centre = _centre(np.stack(list(cap.values())))
        return flat(np.stack([cap[name.upper()] for name in names]), centre)
    layout = mne.channels.read_layout("CTF-275")
    centre_C2 = layout.pos[:, :2] + layout.pos[:, 2:] / 2
    middle, extent = (centre_C2.max(axis=0) + centre_C2.min(axis=0)) / 2, np.ptp(centre_C2, axis=0)
    helmet = {n.split("-")[0]: p for n, p in zip(layout.names, (centre_C2 - middle) / extent * 2 * HEAD, strict=True)}
    short = [name.split("-")[0] for name in names]
    return np.array([helmet[name] for name in short]) if all(name in helmet for name in short) else None


def flat(positions_C3: np.ndarray, centre: np.ndarray | None = None) -> np.ndarray:
    """Azimuthal equidistant projection, (C, 2) in m, of places in space (x right, y front, z up, m).

    It is about the centre of the sphere that fits them best, or about `centre`.
    """
    x_C3 = positions_C3 - (_centre(positions_C3) if centre is None else centre)
    angle_C = np.arccos(x_C3[:, 2] / np.linalg.norm(x_C3, axis=1))
    level_C = np.linalg.norm(x_C3[:, :2], axis=1)
    return x_C3[:, :2] * (HEAD * angle_C / (np.pi / 2) / np.where(level_C > 0, level_C, 1.0))[:, None]


def _centre(positions_C3: np.ndarray) -> np.ndarray:
    """Centre (3,) of the sphere that fits best: |x|² = 2 x·c + k."""
    design = np.hstack([2 * positions_C3, np.ones((len(positions_C3), 1))])
    return np.linalg.lstsq(design, np.square(positions_C3).sum(axis=1), rcond=None)[0][:3]
