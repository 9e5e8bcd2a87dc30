"""Recordings: raw data, events, epochs and preprocessing, for anything that MNE reads."""
