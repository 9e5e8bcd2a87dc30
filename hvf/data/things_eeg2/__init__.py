"""THINGS-EEG2 (Gifford et al. 2022): its raw files and what the published pipelines make of them."""
