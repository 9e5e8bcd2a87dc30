"""Forward model of the simulator: EEG cap, MEG helmet, spherical head, and the lead field of dipoles."""

from __future__ import annotations

from functools import cache
from typing import Any

import mne
import numpy as np
from mne.io.constants import FIFF

from hvf.data.montages import EEG_CHANNELS

N_MEG_CHANNELS = 271
HEAD_RADIUS = 0.09  # m; the brain is the innermost of MNE's four shells, 0.90 of this
HEAD_CENTRE = (0.0, 0.0, 0.04)  # m, head coordinates
HELMET_RADIUS = 0.109  # m; lower coils of the axial gradiometers
HELMET_TILT = 20.0  # degrees: a helmet reaches lower at the back of the head than at the face


@cache
def sensor_info(kind: str, sfreq: float) -> mne.Info:
    """The `mne.Info` of the simulated sensors: 63 electrodes ("eeg") or 271 axial gradiometers ("meg")."""
    return _eeg_info(sfreq) if kind == "eeg" else _meg_info(sfreq)


def leadfield(info: mne.Info, position_J3: np.ndarray, moment_J3: np.ndarray) -> np.ndarray:
    """Lead field (C, J) of J unit dipoles, in V or T per A·m, EEG average-referenced.

    Positions are in fractions of the brain's radius from the head's centre (x right, y front, z up); moments are
    unit vectors. A concentric-sphere head and MNE's own forward solution: Sarvas' formula for MEG, Berg and Scherg's
    approximation for EEG.
    """
    eeg = "eeg" in info.get_channel_types(unique=True)
    sphere = mne.make_sphere_model(r0=HEAD_CENTRE, head_radius=HEAD_RADIUS, verbose="error")
    position_m = np.asarray(HEAD_CENTRE) + position_J3 * 0.9 * HEAD_RADIUS
    position: Any = {"rr": position_m, "nn": moment_J3}
    sources = mne.setup_volume_source_space(pos=position, sphere_units="m", verbose="error")
    forward: Any = mne.make_forward_solution(
        info, trans=None, src=sources, bem=sphere, meg=not eeg, eeg=eeg, mindist=0.0, verbose="error"
    )
    if forward["nsource"] != len(position_J3):
        raise ValueError(f"{len(position_J3) - forward['nsource']} dipoles lie outside the brain")
    gain_CJ3 = forward["sol"]["data"].reshape(len(info.ch_names), -1, 3)
    gain_CJ = np.einsum("cjx,jx->cj", gain_CJ3, moment_J3)
    return gain_CJ - gain_CJ.mean(0) if eeg else gain_CJ


def _eeg_info(sfreq: float) -> mne.Info:
    info = mne.create_info(list(EEG_CHANNELS), sfreq, "eeg", verbose="error")
    info.set_montage("standard_1005", verbose="error")
    return info


def _meg_info(sfreq: float) -> mne.Info:
    """A helmet of axial gradiometers, laid out by a spiral and named by region as CTF does (MLO11: left occipital)."""
    normal_C3 = _helmet_normals(N_MEG_CHANNELS)
    names = _ctf_names(normal_C3)
    order = np.argsort(names)
    info = mne.create_info([names[i] for i in order], sfreq, "mag", verbose="error")
    for channel, i in zip(info["chs"], order, strict=True):
        ez = normal_C3[i]
        ex = np.cross([0.0, 1.0, 0.0], ez)
        ex /= np.linalg.norm(ex)
        position = np.asarray(HEAD_CENTRE) + HELMET_RADIUS * ez
        channel["coil_type"] = FIFF.FIFFV_COIL_CTF_GRAD
        channel["coord_frame"] = FIFF.FIFFV_COORD_DEVICE
        channel["loc"] = np.concatenate([position, ex, np.cross(ez, ex), ez])
    with info._unlock():
        info["dev_head_t"] = mne.transforms.Transform("meg", "head", np.eye(4))
    return info


def _helmet_normals(n: int) -> np.ndarray:
    """`n` directions spread evenly over the part of a sphere that a helmet covers (Fibonacci spiral), (n, 3)."""
    index = np.arange(n)
    height = 1.0 - 1.32 * (index + 0.5) / n  # a bit more than the upper half sphere
    angle = index * np.pi * (3.0 - np.sqrt(5.0))
    ring = np.sqrt(1.0 - height**2)
    normal = np.stack([ring * np.cos(angle), ring * np.sin(angle), height], axis=1)
    tilt = np.deg2rad(HELMET_TILT)
    turn = np.array([[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]])
    return normal @ turn.T  # about the ear-to-ear axis, the back of the helmet downwards


def _ctf_names(normal_C3: np.ndarray) -> list[str]:
    """Side (L, R, Z) and region (frontal, central, parietal, occipital, temporal), then row and column."""
    x, y, z = normal_C3.T
    side = np.where(np.abs(x) < 0.05, "Z", np.where(x < 0, "L", "R"))
    region = np.select(
        [(z < 0.45) & (np.abs(x) > 0.55), (y < -0.62), (y < -0.2), (y < 0.3)], ["T", "O", "P", "C"], default="F"
    )
    taken: dict[str, int] = {}
    names = []
    for s, r in zip(side, region, strict=True):
        count = taken.get(s + r, 0)
        taken[s + r] = count + 1
        names.append(f"M{s}{r}{count // 9 + 1}{count % 9 + 1}")
    return names
