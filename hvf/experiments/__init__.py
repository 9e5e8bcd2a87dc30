"""Experiments: the stages of a run, protocols whose choices cannot see test data, and interpretation."""
