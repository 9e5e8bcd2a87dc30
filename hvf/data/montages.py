"""Montages: the channel names of published recordings, in the order of their files."""

from __future__ import annotations

# The 63 recorded electrodes of a 64-channel actiCAP whose Fz is the reference, as in THINGS-EEG2 (Gifford et al. 2022).
_CAP = """
Fp1 F3 F7 FT9 FC5 FC1 C3 T7 TP9 CP5 CP1 Pz P3 P7 O1 Oz O2 P4 P8 TP10 CP6 CP2 Cz C4 T8 FT10 FC6 FC2 F4 F8 Fp2
AF7 AF3 AFz F1 F5 FT7 FC3 FCz C1 C5 TP7 CP3 P1 P5 PO7 PO3 POz PO4 PO8 P6 P2 CPz CP4 TP8 C6 C2 FC4 FT8 F6 F2 AF4 AF8
"""
EEG_CHANNELS = tuple(_CAP.split())
