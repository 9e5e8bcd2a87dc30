"""THINGS-MEG (Hebart et al. 2023): its files, its table of trials, and its preprocessing."""
