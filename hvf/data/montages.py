"""Montages: the channel names of published recordings in the order of their files, and positions by name."""

from __future__ import annotations

from functools import cache

import mne

# The 63 recorded electrodes of a 64-channel actiCAP whose Fz is the reference, as in THINGS-EEG2 (Gifford et al. 2022).
_CAP = """
Fp1 F3 F7 FT9 FC5 FC1 C3 T7 TP9 CP5 CP1 Pz P3 P7 O1 Oz O2 P4 P8 TP10 CP6 CP2 Cz C4 T8 FT10 FC6 FC2 F4 F8 Fp2
AF7 AF3 AFz F1 F5 FT7 FC3 FCz C1 C5 TP7 CP3 P1 P5 PO7 PO3 POz PO4 PO8 P6 P2 CPz CP4 TP8 C6 C2 FC4 FT8 F6 F2 AF4 AF8
"""
EEG_CHANNELS = tuple(_CAP.split())

# The same channels from front to back, each row left to right: the order of NICE's, UBP's and NeuroBridge's files.
_ROWS = """
Fp1 Fp2 AF7 AF3 AFz AF4 AF8 F7 F5 F3 F1 F2 F4 F6 F8 FT9 FT7 FC5 FC3 FC1 FCz FC2 FC4 FC6 FT8 FT10 T7 C5 C3 C1 Cz C2 C4
C6 T8 TP9 TP7 CP5 CP3 CP1 CPz CP2 CP4 CP6 TP8 TP10 P7 P5 P3 P1 Pz P2 P4 P6 P8 PO7 PO3 POz PO4 PO8 O1 Oz O2
"""
FRONT_TO_BACK = tuple(_ROWS.split())


@cache
def montage_1005() -> mne.channels.DigMontage:
    """MNE's montage of the 10-05 system, which MNE 1.13 has renamed."""
    name = next(n for n in ("colin27_1005", "standard_1005") if n in mne.channels.get_builtin_montages())
    return mne.channels.make_standard_montage(name)
