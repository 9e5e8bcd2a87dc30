"""Signals and stimuli: image sets, trials, and the studies that pair them."""

import os

os.environ.setdefault("MNE_USE_NUMBA", "false")  # where numba is installed, MNE's forward would differ in its last bits
